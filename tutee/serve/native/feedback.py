"""Native routes of feedback: thumbs, comparisons, corrections, demonstrations, flags.

A client says only what a person did and on which message or presentation; model, siblings, conversation and order come
from the store. What is not the caller's is a 404. To add a kind: a function in `KINDS` here, its payload in
`store/feedback.py`, what is learned from it in `data/judging.py`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from tutee.data.from_feedback import reasons_against
from tutee.data.taken_back import forget_taken_back
from tutee.errors import InvalidInput
from tutee.serve.access.auth import MEMBER, Caller, CallerDep, owned
from tutee.serve.body import Body, Fields
from tutee.serve.native.conversations import need_text, parent_of
from tutee.serve.native.temporary import is_temporary
from tutee.serve.native.views import message_view, version_ref
from tutee.serve.paging import Limit
from tutee.serve.replies import page_of, reply
from tutee.serve.services import Services, ServicesDep
from tutee.store.feedback import WINNERS
from tutee.store.records import StoredMessage
from tutee.store.schema import Feedback

router = APIRouter(prefix="/v1/tutee/feedback")

LONGEST_COMMENT = 4000
MOST_REASONS, LONGEST_REASON = 16, 64
DAY_MS = 86_400_000
LONGEST_DIFF = 4000
"""Words beyond which a diff is one replacement: finding the smallest one takes quadratic time."""

Extra = dict[str, Any]


@router.post("", openapi_extra=MEMBER)
def give(caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Record one piece of feedback; a newer one of the same kind on the same thing supersedes it."""
    kind = body.need_string("kind")
    if kind not in KINDS:
        body.refuse("kind", f"is {kind!r}; it must be one of {', '.join(KINDS)}", "invalid_value")
    row, extra = KINDS[kind](body, caller, services)
    services.metrics.feedback.labels(kind).inc()
    return reply(with_use([row], services)[0] | extra)


def _thumb(body: Fields, caller: Caller, services: Services) -> tuple[Feedback, Extra]:
    message = _judged(body, caller, services)
    body.need("value")
    value = body.integer("value", -1, 1)
    reasons = body.strings("reasons", most=MOST_REASONS, longest=LONGEST_REASON) or []
    comment = body.string("comment", most=LONGEST_COMMENT)
    row = services.store.feedback.add(
        "thumb",
        caller.id,
        message_id=message.id,
        presentation_id=message.presentation_id,
        payload={"value": value},
        reasons=reasons,
        comment=comment,
    )
    return row, {}


def _compare(body: Fields, caller: Caller, services: Services) -> tuple[Feedback, Extra]:
    """A vote; the reply says which version wrote which answer, and the conversation goes on from the winner."""
    presentation_id = body.need_string("presentation_id")
    _refuse_temporary(presentation_id, "presentation_id")
    presentation = services.store.presentations.get(presentation_id, caller.id)
    if len(presentation.message_ids) != 2:
        body.refuse("presentation_id", "shows one answer: there is nothing to compare", "invalid_value")
    body.need("winner")
    winner = body.choice("winner", WINNERS)
    payload: dict[str, Any] = {"winner": winner}
    dwell = body.integer("dwell_ms", 0, DAY_MS)
    if dwell is not None:
        payload["dwell_ms"] = dwell
    for message in services.store.messages.get_all(presentation.message_ids, caller.id):
        _refuse_unfinished(message, "presentation_id")
    comment = body.string("comment", most=LONGEST_COMMENT)
    row = services.store.feedback.add(
        "compare", caller.id, presentation_id=presentation_id, payload=payload, comment=comment
    )
    shown = services.store.messages.get_all(presentation.message_ids, caller.id)
    if winner in ("a", "b"):
        _follow_winner(shown, "ab".index(winner), caller, services)
    revealed = [{"message_id": message.id, "version": version_ref(message.version)} for message in shown]
    return row, {"versions": revealed}


def _follow_winner(shown: list[StoredMessage], winner: int, caller: Caller, services: Services) -> None:
    conversations = services.store.conversations
    conversation = conversations.get(shown[0].conversation_id, caller.id)
    if conversation.head_message_id == shown[1 - winner].id:
        conversations.update(conversation.id, caller.id, head_message_id=shown[winner].id)


def _edit(body: Fields, caller: Caller, services: Services) -> tuple[Feedback, Extra]:
    message = _judged(body, caller, services)
    content = need_text(body)
    if content.strip() == message.content.strip():
        body.refuse("content", "is the same as the answer: nothing is corrected", "invalid_value")
    comment = body.string("comment", most=LONGEST_COMMENT)
    row = services.store.feedback.add(
        "edit",
        caller.id,
        message_id=message.id,
        presentation_id=message.presentation_id,
        payload={"content": content},
        comment=comment,
    )
    return row, {"diff": word_diff(message.content, content)}


def _demo(body: Fields, caller: Caller, services: Services) -> tuple[Feedback, Extra]:
    conversation_id = body.need_string("conversation_id")
    _refuse_temporary(conversation_id, "conversation_id")
    services.store.conversations.get(conversation_id, caller.id)
    body.need("parent_id")
    parent = parent_of(conversation_id, body, caller, services)
    if parent is None or parent.role != "user":
        body.refuse("parent_id", "must be something that a person said", "invalid_value")
    content = need_text(body)
    message = services.chats(conversation_id).say(conversation_id, parent.id, "assistant", content, caller.id)
    comment = body.string("comment", most=LONGEST_COMMENT)
    row = services.store.feedback.add("demo", caller.id, message_id=message.id, payload={}, comment=comment)
    return row, {"message": message_view(message, services.answers)}


def _flag(body: Fields, caller: Caller, services: Services) -> tuple[Feedback, Extra]:
    message = _judged(body, caller, services)
    category = body.need_string("category", most=LONGEST_REASON)
    comment = body.string("comment", most=LONGEST_COMMENT)
    row = services.store.feedback.add(
        "flag",
        caller.id,
        message_id=message.id,
        presentation_id=message.presentation_id,
        payload={"category": category},
        comment=comment,
    )
    return row, {}


KINDS: dict[str, Callable[[Fields, Caller, Services], tuple[Feedback, Extra]]] = {
    "thumb": _thumb,
    "compare": _compare,
    "edit": _edit,
    "demo": _demo,
    "flag": _flag,
}


def _judged(body: Fields, caller: Caller, services: Services) -> StoredMessage:
    """The finished answer that feedback is about: the caller's own, or NotFound."""
    id = body.need_string("message_id")
    _refuse_temporary(id, "message_id")
    message = services.store.messages.get(id, caller.id)
    if message.role != "assistant" or message.generation_id is None:
        body.refuse("message_id", "is not an answer of the model", "invalid_value")
    _refuse_unfinished(message, "message_id")
    return message


def _refuse_temporary(id: str, param: str) -> None:
    if is_temporary(id):
        raise InvalidInput("Temporary chats are not kept, so they take no feedback.", param=param, code="temporary")


def _refuse_unfinished(message: StoredMessage, param: str) -> None:
    if message.state == "streaming":
        raise InvalidInput("That answer is still being written.", param=param, code="still_streaming")


@router.get("", openapi_extra=MEMBER)
def list_feedback(
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 20,
    after: str | None = None,
    kind: str | None = None,
) -> Response:
    """The caller's feedback, newest first."""
    page = services.store.feedback.list(caller.id, kind=kind, limit=limit, after=after)
    return page_of(with_use(page.data, services), page.has_more)


@router.get("/{id}", openapi_extra=owned("feedback"))
def get_feedback(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """One event, and whether it can be learned from."""
    return reply(with_use([services.store.feedback.get(id, caller.id)], services)[0])


@router.delete("/{id}", openapi_extra=owned("feedback"))
def erase(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Erase one event, also from snapshots; names the versions that learned from it."""
    erasure = services.store.feedback.erase(id, caller.id)
    forget_taken_back(services.store)
    return reply({"id": id, "deleted": True, "tainted_versions": list(erasure.tainted_versions)})


def feedback_view(row: Feedback) -> dict[str, Any]:
    """One event as JSON."""
    return {
        "id": row.id,
        "kind": row.kind,
        "actor": row.actor_id,
        "conversation_id": row.conversation_id,
        "message_id": row.message_id,
        "presentation_id": row.presentation_id,
        "payload": dict(row.payload),
        "reasons": list(row.reasons),
        "comment": row.comment,
        "created_at": int(row.created_at),
        "supersedes": row.supersedes,
    }


def with_use(rows: Sequence[Feedback], services: Services) -> list[dict[str, Any]]:
    """Events as JSON, each with whether it can be learned from."""
    against = reasons_against(services.store, rows)
    return [feedback_view(row) | {"usable": against[row.id] is None, "why_not": against[row.id]} for row in rows]


def word_diff(before: str, after: str) -> list[dict[str, str]]:
    """What changed, word by word: pieces of `equal`, `delete` and `insert`, in reading order."""
    old, new = (re.findall(r"\s+|\S+", text) for text in (before, after))
    if max(len(old), len(new)) > LONGEST_DIFF:
        return [{"op": "delete", "text": before}, {"op": "insert", "text": after}]
    pieces: list[dict[str, str]] = []
    for op, a0, a1, b0, b1 in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if op == "equal":
            pieces.append({"op": "equal", "text": "".join(old[a0:a1])})
            continue
        for name, words in (("delete", old[a0:a1]), ("insert", new[b0:b1])):
            if words:
                pieces.append({"op": name, "text": "".join(words)})
    return pieces
