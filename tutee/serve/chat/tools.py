"""Tools as clients offer them: the functions, and whether the model may, must or must not call them.

Chat completions and responses share this: they differ only in where a function's fields lie. Does not know how a model
is told of them (`model/tool_format.py`) nor how its calls are read back (`model/said.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from tutee.conversation import Function
from tutee.engine.grammar import Grammar, compose, json_rule
from tutee.engine.request import SamplingParams
from tutee.errors import InvalidInput
from tutee.model.tool_format import CALL, END_CALL
from tutee.serve.body import Fields
from tutee.serve.served import Prompt, Served

Mode = Literal["none", "auto", "required"]

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MOST_FUNCTIONS = 128
MOST_CALLS = 8
"""Calls of one answer, where calls are required: a small model would go on for ever."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What an answer may call.

    Args:
        functions: those that may be called; empty with mode "none".
        mode: "required": the answer is nothing but calls.
        parallel: whether an answer may hold several.
    """

    functions: tuple[Function, ...] = ()
    mode: Mode = "none"
    parallel: bool = True

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
    one = parallel is False or (choice is not None and not isinstance(choice, str) and len(names) == 1)
    return Tools(tuple(known[name] for name in names), "required" if mode == "required" else "auto", not one)


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


def answer_grammar(
    tools: Tools, content: str | None, *, thinks: bool, thinking: bool, named: str = "response_format"
) -> Grammar | None:
    """The form of an answer, or None if any text will do.

    Args:
        content: the Lark rule that the text must follow (`json_rule`), or None: any text.
        thinks: the answer may begin with thoughts; `thinking`: it begins inside them.
    """
    strict = any(function.strict for function in tools.functions)
    if tools.mode != "required" and content is None and not strict:
        return None
    param = named if content is not None else "tools"
    rules = {"start": "thoughts? answer" if thinks and not thinking else "thoughts answer" if thinking else "answer"}
    if thinks or thinking:
        begin = "" if thinking else '"<think>"'
        rules["thoughts"] = f"{begin} end_thoughts"
        rules["end_thoughts[lazy]"] = r"/(?s:.*)<\/think>\s{0,4}/"
    one = "call" if not tools.parallel else f'call ("\\n" call){{0,{MOST_CALLS - 1}}}'
    if tools.mode == "required":
        rules["answer"] = one
    elif tools.functions and content is not None:
        rules["answer"] = f"{one} | content"
    elif tools.functions:
        rules["answer"] = "spoken_call free | TEXT" if not tools.parallel else "spoken_call* free"
    else:
        rules["answer"] = "content"
    if content is not None:
        rules["content"] = content
    return compose(rules | _call_rules(tools), param)


def _call_rules(tools: Tools) -> dict[str, str]:
    if not tools.functions:
        return {}
    rules = {"call": f'"{CALL}" body', "body": " | ".join(f"call_{i}" for i in range(len(tools.functions)))}
    for i, function in enumerate(tools.functions):
        head = json.dumps(f'\n{{"name": {json.dumps(function.name)}, "arguments": ')
        tail = json.dumps(f"}}\n{END_CALL}")
        code = "invalid_function_parameters"
        schema = json_rule(function.parameters, strict=function.strict, param=f"tools[{i}].function", code=code)
        rules[f"call_{i}"] = f"{head} {schema} {tail}"
    if tools.mode == "auto":
        rules["spoken_call"] = "spoken body"
        rules["spoken[lazy]"] = f"/(?s:.*){CALL}/"
        rules["free"] = "TEXT"
        rules["TEXT"] = "/(?s:.*)/"
    return rules


def with_grammar(
    params: SamplingParams, served: Served, tools: Tools, content: str | None, prompt: Prompt, named: str
) -> SamplingParams:
    """`params` with the form that the answer to `prompt` must have, compiled for who answers.

    Args:
        content: the Lark rule that the text must follow, or None: any text.
        named: the field that asked for it.

    Raises:
        InvalidInput: the form cannot be used, or not with these parameters, or another server answers.
    """
    form = prompt.form
    grammar = answer_grammar(tools, content, thinks=form.thinks, thinking=form.thinking, named=named)
    if grammar is None:
        return params
    if served.upstream:
        message = f"'{grammar.param}' cannot be enforced: another server answers for '{served.version.name}'."
        raise InvalidInput(message, param=grammar.param, code="upstream_cannot")
    served.engine.prepare_grammar(grammar)
    return replace(params, grammar=grammar)
