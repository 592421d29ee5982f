"""How families of models write calls of functions: a table, one row a dialect.

A row says how calls are written (the grammar that enforces them and `tool_format` write so, as the family's chat
templates do), and how they are found in an answer (`said.py` reads by it). Which row holds for a model is read off its
chat template: by the strings that stand in it, never by a model's name. Knows text alone; no tokens, no HTTP.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tutee.conversation import ToolCall

Call = tuple[str, str]
"""(function, arguments as a JSON text)."""
LAYOUT = 100
"""More characters than ever stand between two calls, or between a call and its end."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to write calls: `begin name-and-arguments between name-and-arguments … end`.

    Args:
        signs: strings that all stand in the chat template of a model that writes so.
        begin, end: around all calls of an answer. `between`: two calls; None: an answer holds one.
        before, middle, after: of one call, around the name and the arguments.
        id_mark: after the name, before an id that the model makes up; "" where it writes none.
        nine: templates take ids of calls of nine letters and digits only.
        openings: what begins a call in the midst of words.
        bare: an answer may begin with a call that has no opening.
        head: from the opening to the arguments; its group `name` is the function.
        tail: from the end of the arguments to the end of the call. Always there, and shorter than LAYOUT.
        further: leads from the end of a call to the next one. `close`: ends the calls.
        whole: reads a call with its fields in another order; (characters that it takes, the call, or None if that is
            none); None as long as more text may tell.
    """

    name: str
    signs: tuple[str, ...]
    begin: str
    before: str
    middle: str
    after: str
    between: str | None
    end: str
    openings: tuple[str, ...]
    head: re.Pattern[str]
    tail: re.Pattern[str]
    further: re.Pattern[str] | None
    close: re.Pattern[str] | None
    whole: Callable[[str], tuple[int, Call | None] | None]
    bare: bool = False
    id_mark: str = ""
    nine: bool = False

    @property
    def texts(self) -> tuple[str, ...]:
        """Everything that is written around names and arguments; its special tokens are part of an answer."""
        return (self.begin, self.before, self.id_mark, self.middle, self.after, self.end, *self.openings)

    def write(self, calls: Sequence[ToolCall]) -> str:
        """Calls as the assistant writes them; `between` must not be None for several."""
        written = [
            f"{self.before}{call.name}{self.id_mark}{self.call_id(call.id) if self.id_mark else ''}"
            f"{self.middle}{call.arguments or '{}'}{self.after}"
            for call in calls
        ]
        return self.begin + (self.between or "").join(written) + self.end

    def call_id(self, id: str) -> str:
        """The id of a call as templates take it; the same for the same id."""
        return id if not self.nine or _NINE.fullmatch(id) else hashlib.sha256(id.encode()).hexdigest()[:9]


_NINE = re.compile(r"[A-Za-z0-9]{9}")
_JSON_HEAD = (
    r'\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"name"\s*:\s*"(?P<name>[\w-]+)"\s*,\s*"(?:arguments|parameters)"\s*:'
    r"\s*(?=\{)"
)
_PARTS = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[{}\[\]]', re.DOTALL)
"""Strings of a JSON text, the last perhaps unfinished, and brackets."""
_FIRST_KEY = re.compile(r'\{\s*"([^"\\]*)"')
_KEYS = frozenset(("name", "arguments", "parameters", "type", "id", "function"))
_UNFINISHED_HEAD = re.compile(r"\s*[\w-]{0,64}\s{0,4}(?:\[[A-Z_]{0,8}\]?[\w-]{0,64}\s{0,4}){0,2}")


def whole_object(text: str) -> tuple[int, Call | None] | None:
    """A call that is a JSON object, its keys in any order, perhaps the first in a list. See `Dialect.whole`."""
    start = len(text) - len(text.lstrip())
    if text[start : start + 1] == "[":
        start = len(text) - len(text[start + 1 :].lstrip())
    body = text[start:]
    key = _FIRST_KEY.match(body)
    begun = body[1:].lstrip()[:1]
    if body[:1] not in ("", "{") or begun not in ("", '"') or (key is not None and key[1] not in _KEYS):
        return 0, None
    length = _object_length(body)
    return None if length is None else (start + length, _call(body[:length]))


def named_before(text: str) -> tuple[int, Call | None] | None:
    """A call whose name stands before its arguments has no other order. See `Dialect.whole`."""
    return None if _UNFINISHED_HEAD.fullmatch(text) else (0, None)


def _object_length(text: str) -> int | None:
    """Characters up to the bracket that closes the object at the beginning; None if it is not closed."""
    depth = 0
    for part in _PARTS.finditer(text):
        if part[0] in "{[":
            depth += 1
        elif part[0] in "}]":
            depth -= 1
            if depth == 0:
                return part.end()
    return None


def _call(body: str) -> Call | None:
    found = _json(body)
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        return None
    given = found.get("arguments", found.get("parameters", {}))
    if isinstance(given, str):  # some models write the arguments as a string of JSON
        given = _json(given)
    return (found["name"], json.dumps(given, ensure_ascii=False)) if isinstance(given, dict) else None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


CALL, END_CALL = "<tool_call>", "</tool_call>"
TOOL_CALLS, CALL_ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"

HERMES = Dialect(
    "hermes",
    signs=(CALL,),
    begin=f"{CALL}\n",
    before='{"name": "',
    middle='", "arguments": ',
    after="}",
    between=f"\n{END_CALL}\n{CALL}\n",
    end=f"\n{END_CALL}",
    openings=(CALL,),
    head=re.compile(_JSON_HEAD),
    tail=re.compile(rf"\s{{0,16}}(?:\}}|(?={END_CALL}))"),
    further=None,
    close=re.compile(rf"\s{{0,16}}{END_CALL}"),
    whole=whole_object,
)
"""Hermes, Qwen, SmolLM; and whoever's template says nothing of tools, because the tags are plain text."""

_MISTRAL_NAMED: dict[str, Any] = {
    "begin": TOOL_CALLS,
    "before": "",
    "middle": ARGS,
    "after": "",
    "between": TOOL_CALLS,
    "end": "",
    "openings": (TOOL_CALLS,),
    "head": re.compile(r"\s*(?P<name>[\w-]+)\s*(?:\[CALL_ID\]\s*[\w-]{0,64}\s*)?(?:\[ARGS\]\s*)?(?=\{)"),
    "tail": re.compile(""),
    "further": None,
    "close": None,
    "whole": named_before,
    "nine": True,
}
"""Mistral's newer form: the name, perhaps an id, and the arguments, with special tokens between."""

DIALECTS: tuple[Dialect, ...] = (
    HERMES,
    Dialect("mistral-id", signs=(TOOL_CALLS, CALL_ID, ARGS), id_mark=CALL_ID, **_MISTRAL_NAMED),
    Dialect("mistral-named", signs=(TOOL_CALLS, ARGS), **_MISTRAL_NAMED),
    Dialect(
        "mistral-list",
        signs=(TOOL_CALLS,),
        begin=f"{TOOL_CALLS} [",
        before='{"name": "',
        middle='", "arguments": ',
        after="}",
        between=", ",
        end="]",
        openings=(TOOL_CALLS,),
        head=re.compile(r"\s*\[?" + _JSON_HEAD),
        tail=re.compile(r"[^\[\]{}]{0,64}\}"),
        further=re.compile(r"\s{0,16},\s{0,16}(?=\{)"),
        close=re.compile(r"\s{0,16}\]"),
        whole=whole_object,
        nine=True,
    ),
    Dialect(
        "llama",
        signs=('"parameters": ', '{"name": '),
        begin="",
        before='{"name": "',
        middle='", "parameters": ',
        after="}",
        between=None,
        end="",
        openings=("<|python_tag|>",),
        head=re.compile(_JSON_HEAD),
        tail=re.compile(r"\s{0,16}\}"),
        further=re.compile(r"\s{0,16};?\s{0,16}(?=\{)"),
        close=None,
        whole=whole_object,
        bare=True,
    ),
)
"""In the order in which they are looked for: the first whose signs all stand in a template is its."""


def dialect_of(template: str) -> Dialect:
    """The dialect that a chat template writes; `HERMES` where it shows none of ours."""
    return next((row for row in DIALECTS if all(sign in template for sign in row.signs)), HERMES)
