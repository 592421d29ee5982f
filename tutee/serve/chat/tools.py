"""Tools as clients offer them: the functions, and whether the model may, must or must not call them.

Chat completions and responses share this: they differ only in where a function's fields lie. Does not know how a model
is told of them (`model/tool_format.py`) nor how its calls are read back (`model/said.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tutee.conversation import Function
from tutee.engine.grammar import json_rule
from tutee.serve.body import Fields

Mode = Literal["none", "auto", "required"]

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MOST_FUNCTIONS = 128


@dataclass(frozen=True, slots=True)
class Tools:
    """What an answer may call.

    Args:
        functions: those that may be called; empty with mode "none".
        mode: "required": the answer is nothing but calls.
        parallel: whether an answer may hold several.
        named: whether `tool_choice` was one function's name.
    """

    functions: tuple[Function, ...] = ()
    mode: Mode = "none"
    parallel: bool = True
    named: bool = False

    @property
    def names(self) -> frozenset[str]:
        """What may be called."""
        return frozenset(function.name for function in self.functions)


NO_TOOLS = Tools()


def read_chat_tools(body: Fields) -> Tools:
    """`tools`, `tool_choice` and `parallel_tool_calls` of a chat completion.

    Raises:
        InvalidInput: naming the field at fault; tools of other types than `function` by their type.
    """
    functions = []
    for i, tool in enumerate(body.objects("tools", most=MOST_FUNCTIONS)):
        need_function_type(tool)
        tool.need("function")
        inner = tool.object("function")
        assert inner is not None
        functions.append(read_function(inner, f"tools[{i}].function"))
    return choose(body, functions, named_in="function")


def need_function_type(tool: Fields) -> None:
    """Refuse tools that this server does not have (custom, web_search, …) by their name."""
    kind = tool.need_string("type")
    if kind != "function":
        tool.refuse("type", f"is {kind!r}; this server calls tools of type 'function' only", "unsupported_value")


def read_function(fields: Fields, param: str) -> Function:
    """A function's `name`, `description`, `parameters` and `strict`, checked; `param` is where they lie."""
    name = fields.need_string("name")
    if not NAME.fullmatch(name):
        fields.refuse("name", f"is {name!r}; letters, digits, _ and - are allowed, at most 64", "invalid_value")
    description = fields.string("description") or ""
    strict = fields.boolean("strict") or False
    schema = fields.take("parameters")
    if schema is None:
        return Function(name, description, strict=strict)
    if not isinstance(schema, dict):
        fields.refuse("parameters", "must be an object, a JSON Schema", "invalid_type")
    json_rule(schema, strict=strict, param=f"{param}.parameters", code="invalid_function_parameters")
    return Function(name, description, schema, strict)


def choose(body: Fields, functions: Sequence[Function], *, named_in: Literal["function", ""]) -> Tools:
    """Apply `tool_choice` and `parallel_tool_calls` to the functions offered.

    Args:
        named_in: the object of `tool_choice` that holds a named function's `name`; "" where it lies in it directly, as
            in responses.
    """
    parallel = body.boolean("parallel_tool_calls")
    known = {function.name: function for function in functions}
    if len(known) < len(functions):
        body.refuse("tools", "offer the same function name twice", "invalid_value")
    choice = body.take("tool_choice")
    if choice is None:
        mode, names = ("auto", list(known)) if known else ("none", [])
    elif isinstance(choice, str):
        mode, names = body.choice("tool_choice", ("none", "auto", "required")) or "auto", list(known)
    else:
        asked = body.object("tool_choice")
        assert asked is not None
        mode, names = _named(asked, named_in)
    for name in names:
        if name not in known:
            body.refuse("tool_choice", f"names {name!r}, which is not in 'tools'", "invalid_value")
    if mode == "required" and not names:
        body.refuse("tool_choice", "is only allowed with 'tools'", "invalid_value")
    if mode == "none" or not names:
        return NO_TOOLS
    named = isinstance(choice, dict) and choice["type"] == "function"
    one = parallel is False or (isinstance(choice, dict) and len(names) == 1)
    called: Mode = "required" if mode == "required" else "auto"
    return Tools(tuple(known[name] for name in names), called, not one, named)


def _named(asked: Fields, named_in: str) -> tuple[str, list[str]]:
    """(mode, names) of a `tool_choice` that is an object."""
    kind = asked.need_string("type")
    if kind == "function":
        return "required", [_name(asked, named_in)]
    if kind == "allowed_tools":
        inner = asked.object("allowed_tools") if named_in else asked
        if inner is None:
            asked.need("allowed_tools")
        assert inner is not None
        inner.need("mode")
        mode = inner.choice("mode", ("auto", "required")) or "auto"
        names = []
        for tool in inner.objects("tools", most=MOST_FUNCTIONS):
            need_function_type(tool)
            names.append(_name(tool, named_in))
        return mode, names
    return asked.refuse("type", f"is {kind!r}; it must be 'function' or 'allowed_tools'", "unsupported_value")


def _name(fields: Fields, named_in: str) -> str:
    inner = fields
    if named_in:
        fields.need(named_in)
        found = fields.object(named_in)
        assert found is not None
        inner = found
    return inner.need_string("name")
