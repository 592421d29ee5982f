"""Which columns of which tables an archive holds, and how a row becomes JSON and a row again.

What is not a plain column (texts, token arrays, the order of a presentation) is `archive.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import inspect

from tutee.ids import new_id
from tutee.store.actors import SCOPES
from tutee.store.feedback import KINDS
from tutee.store.messages import ROLES
from tutee.store.presentations import LAYOUTS
from tutee.store.schema import Base, Consent, Conversation, Feedback, Generation, Message, Presentation
from tutee.store.schema.base import FreeText


@dataclass(frozen=True, slots=True)
class Table:
    """One file of an archive.

    `plain` columns are copied, `references` hold ids of rows in this or earlier files, `words` have few values.
    """

    file: str
    row: type[Base]
    prefix: str
    plain: tuple[str, ...]
    references: tuple[str, ...] = ()
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self, row: Base) -> dict[str, Any]:
        """The row's id, plain columns and references (old ids)."""
        return {name: getattr(row, name) for name in ("id", *self.plain, *self.references)}

    def from_json(self, raw: Mapping[str, Any], new: dict[str, str]) -> Any:
        """A row with a new id, which is put into `new` under the old one.

        Raises:
            KeyError: a column is missing, or a reference leads nowhere. ValueError: a value of the wrong kind.
        """
        id = new_id(self.prefix)
        new[raw["id"]] = id
        values = {name: self._checked(name, raw[name]) for name in self.plain}
        references = {name: None if raw[name] is None else new[raw[name]] for name in self.references}
        return self.row(id=id, **values, **references)

    def _checked(self, name: str, value: Any) -> Any:
        column = inspect(self.row).columns[name]
        if value is None and column.nullable:
            return None
        free = isinstance(column.type, FreeText)
        kind = str if free else column.type.python_type
        fits = isinstance(value, int | float if kind is float else kind) and (kind is bool) == isinstance(value, bool)
        if kind in (dict, list):
            fits = isinstance(value, list if name in LISTS else dict)
        if isinstance(value, int | float) and not abs(value) < LARGEST:  # NaN neither
            fits = False
        if isinstance(value, str) and not free and not value.isprintable():  # a database may not hold it
            fits = False
        if not fits:
            raise ValueError(f"{name} is {value!r:.60}")
        if name in self.words and value not in self.words[name]:
            raise ValueError(f"{name} is {value!r:.60}; it must be one of {', '.join(self.words[name])}")
        return value


LARGEST = 2.0**63
LISTS = ("reasons", "tool_calls", "retrieved_ids")
MESSAGE_STATES = ("complete", "stopped", "interrupted", "error")

CONSENT = Table(
    "consents.jsonl",
    Consent,
    "consent",
    ("scope", "granted", "policy_version", "created_at"),
    ("supersedes",),
    {"scope": SCOPES},
)
CONVERSATION = Table("conversations.jsonl", Conversation, "conv", ("title", "train", "created_at", "updated_at"))
MESSAGE = Table(
    "messages.jsonl",
    Message,
    "msg",
    ("role", "state", "sibling_index", "synthetic", "language", "created_at"),
    ("conversation_id", "parent_id", "edited_from"),
    {"role": ROLES, "state": MESSAGE_STATES},
)
GENERATION = Table(
    "generations.jsonl",
    Generation,
    "gen",
    (
        "weights_sha256",
        "tokenizer_sha256",
        "template_sha256",
        "sampling",
        "arm",
        "propensity",
        "n_tokens",
        "seq_logprob",
        "ref_logprob",
        "finish_reason",
        "ttft_s",
        "tokens_per_s",
        "tool_calls",
        "retrieved_ids",
        "created_at",
        "finished_at",
    ),
    ("message_id",),
)
PRESENTATION = Table(
    "presentations.jsonl",
    Presentation,
    "pres",
    ("layout", "blind", "selection_policy", "selection_prob", "order_seed", "created_at"),
    (),
    {"layout": LAYOUTS},
)
FEEDBACK = Table(
    "feedback.jsonl",
    Feedback,
    "fb",
    ("kind", "payload", "strength", "confidence", "reasons", "comment", "client", "weight_override", "created_at"),
    ("presentation_id", "message_id", "conversation_id", "target_id", "supersedes"),
    {"kind": KINDS},
)
