"""The form of an answer as a grammar: text of a schema, calls of tools as the model's dialect writes them, or either.

Knows what was asked for and how a dialect writes (`model/dialects.py`); does not know how a grammar is enforced
(`engine/grammar.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace

from tutee.conversation import Function
from tutee.engine.grammar import Grammar, compose, json_rule
from tutee.engine.request import SamplingParams
from tutee.errors import InvalidInput
from tutee.model.dialects import Dialect
from tutee.model.said import Form
from tutee.serve.chat.tools import Tools
from tutee.serve.served import Prompt, Served

MOST_CALLS = 8
"""Calls of one answer, where calls are required: a small model would go on for ever."""
ID = "/[A-Za-z0-9]{9}/"
ANYTHING = "/(?s:.*)/"
NO_OBJECT = r"/\s*([^\s{](?s:.*))?/"
"""Any text that does not begin as an object does."""


def with_grammar(
    params: SamplingParams, served: Served, tools: Tools, content: str | None, prompt: Prompt, named: str
) -> SamplingParams:
    """`params` with the form that the answer to `prompt` must have, compiled for who answers.

    Args:
        content: the Lark rule that the text must follow (`json_rule`), or None: any text.
        named: the field that asked for it.

    Raises:
        InvalidInput: the form cannot be used, or not with these parameters, or another server answers.
    """
    spoken = {} if served.upstream else served.model.chat_format.spoken
    grammar = answer_grammar(tools, content, prompt.form, spoken, named)
    if grammar is None:
        return params
    if served.upstream:
        message = f"'{grammar.param}' cannot be enforced: another server answers for '{served.version.name}'."
        raise InvalidInput(message, param=grammar.param, code="upstream_cannot")
    served.engine.prepare_grammar(grammar)
    return replace(params, grammar=grammar)


def answer_grammar(
    tools: Tools, content: str | None, form: Form, spoken: Mapping[str, int], named: str = "response_format"
) -> Grammar | None:
    """The form of an answer, or None if any text will do.

    Args:
        content: the Lark rule that the text must follow (`json_rule`), or None: any text.
        form: whether the answer may begin with thoughts, or inside them, and how calls are written.
        spoken: special tokens that calls are written with, by their text.
    """
    strict = any(function.strict for function in tools.functions)
    if tools.mode != "required" and content is None and not strict:
        return None
    rules = {"start": "thoughts answer" if form.thinking else "thoughts? answer" if form.thinks else "answer"}
    if form.thinks or form.thinking:
        begin = "" if form.thinking else '"<think>"'
        rules["thoughts"] = f"{begin} end_thoughts"
        rules["end_thoughts[lazy]"] = r"/(?s:.*)<\/think>\s{0,4}/"
    if content is not None:
        rules["content"] = content
    if tools.functions:
        rules |= _call_rules(tools, form.dialect, spoken)
    if tools.mode == "required":
        rules["answer"] = "calls"
    elif content is not None:
        rules["answer"] = "calls | content" if tools.functions else "content"
    else:
        rules |= _spoken_rules(tools, form.dialect, spoken)
    return compose(rules, named if content is not None else "tools")


def _call_rules(tools: Tools, dialect: Dialect, spoken: Mapping[str, int]) -> dict[str, str]:
    """`calls`: one or several, from the first character to the last of them; `one`: a call without what is around."""
    begin, between, end = (_literal(text, spoken) for text in (dialect.begin, dialect.between or "", dialect.end))
    several = tools.parallel and dialect.between is not None
    more = f" ({between} one){{0,{MOST_CALLS - 1}}}" if several else ""
    rules = {"calls": f"{begin} one{more} {end}", "one": " | ".join(f"one_{i}" for i in range(len(tools.functions)))}
    for i, function in enumerate(tools.functions):
        rules[f"one_{i}"] = _one_call(function, f"tools[{i}].function", dialect, spoken)
    return rules


def _one_call(function: Function, param: str, dialect: Dialect, spoken: Mapping[str, int]) -> str:
    before = dialect.before + function.name + dialect.id_mark
    middle = _literal(dialect.middle, spoken)
    code = "invalid_function_parameters"
    schema = json_rule(function.parameters, strict=function.strict, param=param, code=code)
    id_rule = ID if dialect.id_mark else ""
    return f"{_literal(before, spoken)} {id_rule} {middle} {schema} {_literal(dialect.after, spoken)}"


def _spoken_rules(tools: Tools, dialect: Dialect, spoken: Mapping[str, int]) -> dict[str, str]:
    """`answer`: any words, and calls that all fit."""
    if dialect.bare:
        return {"answer": "calls | FREE", "FREE": NO_OBJECT}
    opening = dialect.openings[0]
    if opening in spoken:  # no text can hold it, so words end where it stands
        return {"answer": "FREE? calls | FREE", "FREE": ANYTHING}
    rest, end = _literal(dialect.begin.removeprefix(opening), spoken), _literal(dialect.end, spoken)
    return {
        "answer": "spoken_call* free" if tools.parallel else "spoken_call free | FREE",
        "spoken_call": f"spoken {rest} one {end}",
        "spoken[lazy]": f"/(?s:.*){re.escape(opening)}/",
        "free": "FREE",
        "FREE": ANYTHING,
    }


def _literal(text: str, spoken: Mapping[str, int]) -> str:
    """A text in a Lark rule, special tokens as what they are."""
    pieces = re.split("(" + "|".join(map(re.escape, spoken)) + ")", text) if spoken else [text]
    return " ".join(f"<[{spoken[piece]}]>" if piece in spoken else json.dumps(piece) for piece in pieces if piece)
