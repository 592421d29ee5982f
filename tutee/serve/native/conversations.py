"""Native routes of conversations and the turns that people write.

Nothing is ever overwritten: the same parent as an existing turn makes a sibling, so two tabs that edit one conversation
both keep what they wrote.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from tutee.errors import InvalidInput, NotFound
from tutee.serve.access.auth import MEMBER, CallerDep, owned
from tutee.serve.body import Body, Fields
from tutee.serve.native.views import conversation_view, message_view
from tutee.serve.paging import Limit
from tutee.serve.replies import page_of, reply
from tutee.serve.services import ServicesDep
from tutee.store.records import StoredMessage

router = APIRouter(prefix="/v1/tutee")

LONGEST_TITLE = 200
LONGEST_TEXT = 200_000
"""Characters of one message; far more than any context here holds."""
TITLE_FROM_TEXT = 60


@router.get("/conversations", openapi_extra=MEMBER)
def list_conversations(
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 20,
    after: str | None = None,
    q: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """The caller's conversations, newest first; `q` searches titles and texts."""
    page = services.store.conversations.list(caller.id, limit=limit, after=after, query=q or None)
    return page_of([conversation_view(each) for each in page], page.has_more)


@router.post("/conversations", openapi_extra=MEMBER)
def create_conversation(caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """A new conversation; a temporary one lives in memory only."""
    title = body.string("title", most=LONGEST_TITLE)
    system = body.string("system", most=LONGEST_TEXT)
    if body.boolean("temporary"):
        conversation = services.temporary.create(caller.id, title, system)
    else:
        conversation = services.store.conversations.create(caller.id, title=title, system=system)
    return reply(conversation_view(conversation) | {"messages": []})


@router.get("/conversations/{id}", openapi_extra=owned("conversation"))
def get_conversation(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """A conversation with its whole tree of messages, parents before children."""
    chats = services.chats(id)
    conversation = chats.get(id, caller.id)
    messages = [message_view(message, services.answers) for message in chats.tree(id, caller.id)]
    return reply(conversation_view(conversation) | {"messages": messages})


@router.patch("/conversations/{id}", openapi_extra=owned("conversation"))
def update_conversation(id: str, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Change the fields that are sent; `"train": null` goes back to what the owner's consent says."""
    chats = services.chats(id)
    chats.get(id, caller.id)
    changes = {
        "title": body.string("title", least=1, most=LONGEST_TITLE),
        "head_message_id": body.string("head_message_id", least=1),
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    train = body.boolean("train")
    head = changes.get("head_message_id")
    if head is not None and chats.message(head, caller.id).conversation_id != id:
        raise NotFound(f"No message '{head}' in this conversation.", param="head_message_id")
    return reply(
        conversation_view(chats.update(id, caller.id, changes | ({"train": train} if "train" in body.raw else {})))
    )


@router.delete("/conversations/{id}", openapi_extra=owned("conversation"))
def delete_conversation(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Delete a conversation with its messages, answers and feedback; names the versions that learned from it."""
    chats = services.chats(id)
    for message in chats.tree(id, caller.id):
        services.answers.stop(message.id)
    return reply({"id": id, "deleted": True, "tainted_versions": chats.delete(id, caller.id)})


@router.post("/conversations/{id}/messages", openapi_extra=owned("conversation"))
def add_message(id: str, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Add what a person says. The first turn names an untitled conversation."""
    chats = services.chats(id)
    chats.get(id, caller.id)
    content = need_text(body)
    parent = parent_of(id, body, caller, services)
    if parent is not None and parent.role not in ("assistant", "system"):
        body.refuse("parent_id", "must be an answer (or null for a first turn)", "invalid_value")
    message = chats.say(id, None if parent is None else parent.id, "user", content, caller.id, _title(content))
    return reply(message_view(message, services.answers))


def need_text(body: Fields, name: str = "content") -> str:
    """A message's text: there, not blank, not endless."""
    text = body.need_string(name, most=LONGEST_TEXT)
    if not text.strip():
        body.refuse(name, "must not be blank", "invalid_value")
    return text


def parent_of(id: str, body: Fields, caller: CallerDep, services: ServicesDep) -> StoredMessage | None:
    """The message that `parent_id` names, which must be a finished one of this conversation.

    Raises:
        NotFound: it is missing, somebody else's, or in another conversation.
        InvalidInput: it is still being written.
    """
    parent_id = body.string("parent_id", least=1)
    if parent_id is None:
        return None
    parent = services.chats(id).message(parent_id, caller.id)
    if parent.conversation_id != id:
        raise NotFound(f"No message '{parent_id}' in this conversation.", param="parent_id")
    if parent.state == "streaming":
        raise InvalidInput(
            "That answer is still being written; stop it or wait.", param="parent_id", code="still_streaming"
        )
    return parent


def _title(content: str) -> str:
    line = " ".join(content.split())
    return line if len(line) <= TITLE_FROM_TEXT else line[: TITLE_FROM_TEXT - 1].rstrip() + "…"
