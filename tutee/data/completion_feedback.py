"""Feedback in the metadata of a stored completion, as the plain OpenAI client sends it: what somebody thought of it.

    rating        "up" or "down" (also "1" and "-1"; "0" takes it back)        a thumb
    correction    what the answer should have been                            an edit
    preferred_over  the id of another stored completion of the same messages  a comparison that this one wins

With the first of them the completion becomes a conversation of its owner's, with what was recorded of it: token ids and
log-probs where a model here sampled them, the bare text where it was brought along from elsewhere. Completions of the
same messages become answers side by side in one. It concerns the first choice. Whether it may be learned from is for
the owner's consent to say, as in any chat. Other metadata means nothing here. Does not know who answered.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tutee.conversation import Function, Message
from tutee.errors import InvalidInput, NotFound
from tutee.model.tool_format import in_turns
from tutee.store import Store
from tutee.store.records import End, Piece, Showing, Start
from tutee.store.schema import Completion

RATINGS = {"up": 1, "1": 1, "+1": 1, "down": -1, "-1": -1, "0": 0}
CLIENT = "openai"
"""Where such feedback says that it came from."""
LONGEST_TITLE = 80


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the metadata of a completion say of it."""

    rating: int | None = None
    correction: str | None = None
    preferred_over: str | None = None


def read_opinion(metadata: Mapping[str, str]) -> Opinion:
    """The opinion in some metadata.

    Raises:
        InvalidInput: a rating that is none (param `metadata.rating`), an empty correction.
    """
    rating = metadata.get("rating")
    if rating is not None and rating not in RATINGS:
        message = f"'metadata.rating' is {rating!r}; it must be one of {', '.join(RATINGS)}."
        raise InvalidInput(message, param="metadata.rating", code="invalid_value")
    correction = metadata.get("correction")
    if correction is not None and not correction.strip():
        raise InvalidInput("'metadata.correction' is empty.", param="metadata.correction", code="invalid_value")
    return Opinion(None if rating is None else RATINGS[rating], correction, metadata.get("preferred_over"))


def samples_of(
    messages: Sequence[Message],
    functions: Sequence[Function],
    made: Mapping[str, Any],
    choices: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], str]:
    """What to keep of a completion so that feedback can be given on it later, and the hash of what it answers.

    Args:
        made: who answered what, as the fields of `store.records.Start` without `sampling`.
        choices: text, token_ids, logprobs, finish_reason and sampling of each answer.
    """
    turns = [[turn.role, turn.content] for turn in in_turns(messages, functions)]
    said = json.dumps(turns, ensure_ascii=False).encode("utf-8", "replace")
    return {"turns": turns, "made": dict(made), "choices": list(choices)}, hashlib.sha256(said).hexdigest()


def give(store: Store, row: Completion, opinion: Opinion, actor_id: str) -> list[str]:
    """Record what is new in an opinion as events of feedback; the kinds of those events.

    Raises:
        InvalidInput: the completion was stored without samples, or is preferred over one of other messages.
        NotFound: the completion is gone.
    """
    before = Opinion(**(row.samples or {}).get("opinion", {}))
    if opinion == before:
        return []
    other = _other(store, row, opinion, before, actor_id)
    message_id = _message(store, row, actor_id)
    given = []
    if opinion.rating not in (None, before.rating):
        store.feedback.add("thumb", actor_id, message_id=message_id, payload={"value": opinion.rating}, client=CLIENT)
        given.append("thumb")
    if opinion.correction not in (None, before.correction):
        payload = {"content": opinion.correction}
        store.feedback.add("edit", actor_id, message_id=message_id, payload=payload, client=CLIENT)
        given.append("edit")
    if other is not None:
        shown = store.messages.get_all([message_id, _message(store, other, actor_id)], actor_id)
        generations = [str(message.generation_id) for message in shown]
        presentation = store.presentations.create(actor_id, generations, "side_by_side", False, "client")
        payload = {"winner": "a"}
        store.feedback.add("compare", actor_id, presentation_id=presentation.id, payload=payload, client=CLIENT)
        given.append("compare")
    store.completions.judged(row.id, asdict(opinion))
    return given


def _other(store: Store, row: Completion, opinion: Opinion, before: Opinion, actor_id: str) -> Completion | None:
    if opinion.preferred_over in (None, before.preferred_over):
        return None
    assert opinion.preferred_over is not None
    param = "metadata.preferred_over"
    try:
        other = store.completions.get(opinion.preferred_over, actor_id)
    except NotFound as error:
        raise InvalidInput(error.message, param=param, code=error.code) from None
    if other.id == row.id or other.turns_sha is None or other.turns_sha != row.turns_sha:
        message = f"'{param}' must name another stored completion of the same messages."
        raise InvalidInput(message, param=param, code="invalid_value")
    return other


def _message(store: Store, row: Completion, actor_id: str) -> str:
    """The message that the first choice is; made when it is none yet."""
    for id in (row.message_ids or ())[:1]:
        try:
            return store.messages.get(id, actor_id).id
        except NotFound:  # its conversation was deleted
            pass
    if row.samples is None or row.turns_sha is None:
        message = f"Completion {row.id!r} was stored before its answers were kept as sampled: it takes no feedback."
        raise InvalidInput(message, param="metadata", code="not_recorded")
    conversation_id, parent_id = _question(store, row, actor_id)
    made, ids = row.samples["made"], list[str]()
    for choice in row.samples["choices"]:
        start = Start(**made, sampling=choice["sampling"])
        _, (answer,) = store.answers.begin(conversation_id, parent_id, actor_id, [start], Showing())
        end = End(choice["finish_reason"])
        piece = Piece(str(answer.generation_id), choice["text"], choice["token_ids"], choice["logprobs"], end)
        store.answers.save([piece])
        ids.append(answer.id)
    store.completions.became(row.id, ids)
    return ids[0]


def _question(store: Store, row: Completion, actor_id: str) -> tuple[str, str]:
    """(conversation, last message before the answer): those of a completion of the same turns, or new ones."""
    assert row.turns_sha is not None
    assert row.samples is not None
    for id in store.completions.answered(actor_id, row.turns_sha):
        try:
            sibling = store.messages.get(id, actor_id)
        except NotFound:
            continue
        assert sibling.parent_id is not None
        return sibling.conversation_id, sibling.parent_id
    turns: list[tuple[str, str]] = [(role, text) for role, text in row.samples["turns"]]
    system = turns.pop(0)[1] if turns[0][0] in ("system", "developer") and len(turns) > 1 else None
    title = next((text for role, text in turns if role == "user"), "")[:LONGEST_TITLE]
    conversation = store.conversations.create(actor_id, title or None, system)
    parent: str | None = None
    for role, text in turns:
        author = None if role == "assistant" else actor_id
        parent = store.messages.add(conversation.id, parent, role, text, author).id
    assert parent is not None
    return conversation.id, parent
