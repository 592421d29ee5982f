"""Conversations of the ChatGPT export, and what was said about their answers, as plain values.

A conversation is a tree of nodes, `mapping`; regenerated answers and edited questions are siblings in it. Taken are the
user's and the assistant's texts. Left out are turns that nobody saw (empty roots, hidden system turns) and what is not
text to a person (tool calls and their results, thoughts, images): their children hang on what is above them. Custom
instructions and system texts become the conversation's system prompt. Does not know the database.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

TEXT_TYPES = ("text", "multimodal_text")
TICK = 0.001
"""Seconds between a turn and the next where the export has no times, or times that run backwards."""
RATINGS = {"thumbsup": 1, "thumbs_up": 1, "thumbsdown": -1, "thumbs_down": -1}
COMPARED = {"original": "a", "new": "b", "same": "tie"}
"""Which of two answers was better; `original` is the first one."""


class BadRow(Exception):
    """Why a row of the export cannot be taken."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message: `parent` is another turn's id or None, `model` what wrote it, if that is known."""

    id: str
    parent: str | None
    role: str
    text: str
    created: float
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Chat:
    """One conversation, its turns parents first; `head` is the leaf that was open last."""

    id: str
    title: str | None
    system: str | None
    created: float
    updated: float
    head: str | None
    turns: tuple[Turn, ...]
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Rating:
    """A thumb on a message, by the message's id in the export."""

    id: str
    message: str
    value: int
    reasons: tuple[str, ...]
    comment: str | None
    created: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A choice between two answers to one question, `a` shown first or on the left; `winner` is a, b or tie.

    Of each answer the ids of all its messages are given; one of them is its text.
    """

    id: str
    a: tuple[str, ...]
    b: tuple[str, ...]
    winner: str
    comment: str | None
    created: float | None


def read_chat(raw: Any) -> Chat:
    """A conversation of `conversations.json` or `conversations-NNN.json`.

    Raises:
        BadRow: it has no id, no tree, or a tree that goes round.
    """
    if not isinstance(raw, Mapping):
        raise BadRow("is no conversation.")
    id = raw.get("conversation_id") or raw.get("id")
    mapping = raw.get("mapping")
    if not isinstance(id, str):
        raise BadRow("has no 'id'.")
    if not isinstance(mapping, Mapping):
        raise BadRow(f"conversation {id} has no 'mapping'.")
    created = _time(raw.get("create_time")) or 0.0
    skipped: Counter[str] = Counter()
    system: list[str] = []
    turns: dict[str, Turn] = {}
    above: dict[str, str | None] = {}
    for node, parent in _parents_first(mapping, id):
        place = above[parent] if parent is not None else None
        before = turns[place].created if place is not None else created - TICK
        turn = _turn(node, mapping[node].get("message"), place, before, system, skipped)
        above[node] = place if turn is None else node
        if turn is not None:
            turns[node] = turn
    head = above.get(str(raw.get("current_node")))
    title = raw.get("title")
    return Chat(
        id,
        title if isinstance(title, str) and title.strip() else None,
        "\n\n".join(system) or None,
        created,
        max([_time(raw.get("update_time")) or created, *(turn.created for turn in turns.values())]),
        head,
        tuple(turns.values()),
        skipped,
    )


def _parents_first(mapping: Mapping[str, Any], id: str) -> Iterator[tuple[str, str | None]]:
    """(node, its parent) of the whole tree; siblings in the order of their parent's `children`."""
    for node in mapping.values():
        if not isinstance(node, Mapping):
            raise BadRow(f"conversation {id} has a node that is no object.")
    waiting = [
        (name, None)
        for name, node in mapping.items()
        if not isinstance(node.get("parent"), str) or node["parent"] not in mapping
    ][::-1]
    stack: list[tuple[str, str | None]] = list(waiting)
    seen: set[str] = set()
    while stack:
        name, parent = stack.pop()
        if name in seen:
            raise BadRow(f"conversation {id}: node {name} has two parents.")
        seen.add(name)
        yield name, parent
        children = mapping[name].get("children")
        names = [child for child in children if child in mapping] if isinstance(children, list) else []
        stack += [(child, name) for child in reversed(names)]
    if len(seen) < len(mapping):
        raise BadRow(f"conversation {id}: {len(mapping) - len(seen)} nodes hang on no root.")


def _turn(
    node: str, message: Any, parent: str | None, before: float, system: list[str], skipped: Counter[str]
) -> Turn | None:
    """The turn that a node is, or None; system texts are collected, everything else that is left out is counted."""
    if not isinstance(message, Mapping):
        return None
    author, content, facts = (_object(message, name) for name in ("author", "content", "metadata"))
    role, kind = author.get("role"), content.get("content_type", "text")
    if kind == "user_editable_context":
        system += [text for name in ("user_profile", "user_instructions") if (text := _string(content.get(name)))]
        return None
    text = "\n".join(_texts(content, skipped)) if kind in TEXT_TYPES else ""
    if role == "system" and text.strip():
        system.append(text)
    elif facts.get("is_visually_hidden_from_conversation") or role == "system":
        skipped["hidden turns"] += bool(text.strip())
    elif role not in ("user", "assistant") or kind not in TEXT_TYPES or message.get("recipient", "all") != "all":
        skipped["tool calls and thoughts"] += 1
    elif text.strip():
        created = max(_time(message.get("create_time")) or 0.0, before + TICK)
        model = facts.get("model_slug") if role == "assistant" else None
        return Turn(node, parent, str(role), text, created, model if isinstance(model, str) else None)
    return None


def _texts(content: Mapping[str, Any], skipped: Counter[str]) -> Iterator[str]:
    parts = content.get("parts")
    for part in parts if isinstance(parts, list) else ():
        if isinstance(part, str):
            yield part
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):  # a transcript of what was spoken
            yield part["text"]
        else:
            skipped["images and files"] += 1


def read_rating(raw: Any) -> Rating:
    """A row of `message_feedback.json`.

    Raises:
        BadRow: no message, or a rating that is neither up nor down.
    """
    if not isinstance(raw, Mapping):
        raise BadRow("is no feedback.")
    message = raw.get("message_id") or raw.get("id")
    value = RATINGS.get(str(raw.get("rating")).lower())
    if not isinstance(message, str):
        raise BadRow("names no message.")
    if value is None:
        raise BadRow(f"the rating is {raw.get('rating')!r:.40}, neither thumbs up nor thumbs down.")
    said = raw.get("content")
    if isinstance(said, str):
        said = _parsed(said)
    said = said if isinstance(said, Mapping) else {}
    tags = said.get("tags")
    reasons = tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else ()
    return Rating(
        f"rating {message}", message, value, reasons, _string(said.get("text")), _time(raw.get("create_time"))
    )


def read_comparison(raw: Any) -> Comparison:
    """A row of `model_comparisons.json`: "was this response better or worse", or a choice between two.

    Raises:
        BadRow: it does not name two messages, or nothing was chosen.
    """
    if not isinstance(raw, Mapping):
        raise BadRow("is no comparison.")
    asked, output = _object(raw, "input"), _object(raw, "output")
    step = _object(output, "feedback_step_2") or output or asked
    original, new = (_turn_ids(asked, step, which) for which in ("original", "new"))
    if not original or not new:
        raise BadRow("does not name the two messages.")
    chosen = step.get("completion_comparison_rating") or asked.get("completion_comparison_rating")
    if chosen not in COMPARED:
        raise BadRow(f"the choice is {chosen!r:.40}, none of {', '.join(COMPARED)}.")
    comment = _string(step.get("text") or asked.get("text"))
    winner = COMPARED[str(chosen)]
    shown = (original, new)
    if step.get("new_completion_placement") == "left":
        shown, winner = (new, original), {"a": "b", "b": "a"}.get(winner, winner)
    return Comparison(f"comparison {original[0]} {new[0]}", *shown, winner, comment, _time(raw.get("create_time")))


def _turn_ids(asked: Mapping[str, Any], step: Mapping[str, Any], which: str) -> tuple[str, ...]:
    """Ids of the messages of one of the two answers; with tools an answer is several."""
    turn = step.get(f"{which}_turn")
    ids = [part.get("id") for part in turn if isinstance(part, Mapping)] if isinstance(turn, list) else []
    ids += [source.get(f"{which}_message_id") for source in (asked, step)]
    return tuple(id for id in ids if isinstance(id, str))


def _object(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = raw.get(name)
    return value if isinstance(value, Mapping) else {}


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"text": text}


def _time(value: Any) -> float | None:
    """Seconds since 1970, of a number or an ISO date."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        seconds = float(value) if isinstance(value, int | float) else datetime.fromisoformat(str(value)).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) and 0 < seconds < 1e11 else None
