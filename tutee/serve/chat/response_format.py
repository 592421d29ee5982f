"""The form that a client asks of an answer's text: any text, some JSON object, or JSON of a schema.

Chat completions say it in `response_format`, responses in `text.format`; the fields lie one level apart. Does not know
how a form is enforced (`engine/grammar.py`).
"""

from __future__ import annotations

from tutee.engine.grammar import json_rule
from tutee.serve.body import Fields
from tutee.serve.chat.tools import NAME

KINDS = ("text", "json_object", "json_schema")


def read_format(asked: Fields | None, *, nested: bool) -> str | None:
    """The Lark rule of the text that is asked for; None: any text.

    Args:
        asked: the object that holds `type`.
        nested: whether name, schema and strict lie in an object `json_schema` in it (chat completions) or beside
            `type` (responses).

    Raises:
        InvalidInput: naming the field; a schema that cannot be used has the code `invalid_json_schema` and the param
        of `asked`.
    """
    if asked is None:
        return None
    asked.need("type")
    kind = asked.choice("type", KINDS)
    if kind == "text":
        return None
    if kind == "json_object":
        return json_rule({"type": "object"}, strict=True, param=asked.path)
    fields = asked
    if nested:
        asked.need("json_schema")
        inner = asked.object("json_schema")
        assert inner is not None
        fields = inner
    name = fields.need_string("name")
    if not NAME.fullmatch(name):
        fields.refuse("name", f"is {name!r}; letters, digits, _ and - are allowed, at most 64", "invalid_value")
    fields.string("description")
    strict = fields.boolean("strict") or False
    fields.need("schema")
    schema = fields.take("schema")
    if not isinstance(schema, dict):
        fields.refuse("schema", "must be an object, a JSON Schema", "invalid_type")
    return json_rule(schema, strict=strict, param=asked.path)
