"""Rows: what feedback becomes before a trainer may read it, and how a row is written as JSON.

Three kinds. An `SftRow` says "answer like this", a `PairRow` "this rather than that", an `UnpairedRow` "this was good"
or "this was bad". Knows nothing of the store, of consent or of training: `from_feedback.py` makes rows, `snapshot.py`
freezes them, `train/` reads them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from tutee.conversation import Message, parse_messages

Kind = Literal["sft", "pair", "unpaired"]
Source = Literal["compare", "edit", "demo", "thumb"]
Split = Literal["train", "held_out"]


@dataclass(frozen=True, slots=True)
class Sampled:
    """The tokens behind a sampled reply, as the engine drew them; only kept while they say the same as the text.

    `prompt_ids` is the rendered context, `token_ids` the reply (with its end-of-turn token if it reached one),
    `logprobs` one number in nats for each token of the reply, at temperature 1 and untruncated.
    They fit a model only if its tokenizer and template have these hashes.
    """

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    tokenizer_sha256: str
    template_sha256: str
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: written by a person (no generation) or sampled from a version."""

    text: str
    generation_id: str | None = None
    version_id: str | None = None
    sampled: Sampled | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Which feedback made a row, and whose: lineage and erasure go by it. The newest event comes last.

    `question_id` is the user turn that the row's replies answer.
    """

    source: Source
    feedback_ids: tuple[str, ...]
    actor_id: str
    conversation_id: str
    question_id: str


@dataclass(frozen=True, slots=True)
class SftRow:
    """Imitate `reply` after `prompt`: from a correction or a demonstration."""

    prompt: tuple[Message, ...]
    reply: Reply
    origin: Origin
    split: Split = "train"
    weight: float = 1.0

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation to train on; only the last turn is learned (earlier assistant turns weigh 0)."""
        history = (replace(m, weight=0.0) if m.role == "assistant" else m for m in self.prompt)
        return (*history, Message("assistant", self.reply.text))


@dataclass(frozen=True, slots=True)
class PairRow:
    """Prefer `chosen` to `rejected` after `prompt`; `margin` says how much better: 1 (a vote) to 3 (a correction)."""

    prompt: tuple[Message, ...]
    chosen: Reply
    rejected: Reply
    origin: Origin
    split: Split = "train"
    margin: float = 1.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class UnpairedRow:
    """`reply` after `prompt` was good (`label` True) or bad (False)."""

    prompt: tuple[Message, ...]
    reply: Reply
    label: bool
    origin: Origin
    split: Split = "train"
    weight: float = 1.0


Row = SftRow | PairRow | UnpairedRow
KINDS: dict[type, Kind] = {SftRow: "sft", PairRow: "pair", UnpairedRow: "unpaired"}


def kind_of(row: Row) -> Kind:
    """`sft`, `pair` or `unpaired`."""
    return KINDS[type(row)]


def replies_of(row: Row) -> dict[str, Reply]:
    """The row's replies by field name."""
    if isinstance(row, PairRow):
        return {"chosen": row.chosen, "rejected": row.rejected}
    return {"reply": row.reply}


def to_payload(row: Row) -> dict[str, Any]:
    """The row as plain JSON values, without its split (a split is a matter of the snapshot, not of the row)."""
    payload: dict[str, Any] = {
        "kind": kind_of(row),
        "prompt": [message.to_dict() for message in row.prompt],
        "weight": row.weight,
        "source": row.origin.source,
        "feedback_ids": list(row.origin.feedback_ids),
        "actor_id": row.origin.actor_id,
        "conversation_id": row.origin.conversation_id,
        "question_id": row.origin.question_id,
    }
    payload |= {name: _reply_payload(reply) for name, reply in replies_of(row).items()}
    if isinstance(row, PairRow):
        payload["margin"] = row.margin
    elif isinstance(row, UnpairedRow):
        payload["label"] = row.label
    return payload


def from_payload(payload: Mapping[str, Any], split: Split) -> Row:
    """The row that `to_payload` wrote."""
    prompt = tuple(parse_messages(payload["prompt"], "prompt"))
    origin = Origin(
        source=payload["source"],
        feedback_ids=tuple(payload["feedback_ids"]),
        actor_id=payload["actor_id"],
        conversation_id=payload["conversation_id"],
        question_id=payload["question_id"],
    )
    weight = float(payload["weight"])
    if payload["kind"] == "pair":
        chosen, rejected = _reply(payload["chosen"]), _reply(payload["rejected"])
        return PairRow(prompt, chosen, rejected, origin, split, float(payload["margin"]), weight)
    if payload["kind"] == "unpaired":
        return UnpairedRow(prompt, _reply(payload["reply"]), bool(payload["label"]), origin, split, weight)
    return SftRow(prompt, _reply(payload["reply"]), origin, split, weight)


def canonical(value: Any) -> str:
    """JSON in the one spelling that is hashed: sorted keys, no spaces, UTF-8 unescaped."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def sha256_of(value: Any) -> str:
    """Hash of `canonical(value)`, hex."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _reply_payload(reply: Reply) -> dict[str, Any]:
    out: dict[str, Any] = {"text": reply.text}
    if reply.generation_id is not None:
        out |= {"generation_id": reply.generation_id, "version_id": reply.version_id}
    if reply.sampled is not None:
        out["sampled"] = {name: getattr(reply.sampled, name) for name in Sampled.__slots__}
    return out


def _reply(payload: Mapping[str, Any]) -> Reply:
    sampled = payload.get("sampled")
    if sampled is not None:
        tuples = {name: tuple(sampled[name]) for name in ("prompt_ids", "token_ids", "logprobs")}
        sampled = Sampled(**{**sampled, **tuples})
    return Reply(payload["text"], payload.get("generation_id"), payload.get("version_id"), sampled)
