"""POST /v1/responses and what becomes of responses: retrieve, delete, cancel, read the input, count its tokens.

A response remembers: `previous_response_id` and `conversation` put what was said before in front of the input. Kept
(`store`, on unless refused) means in the database, for its maker alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from tutee.conversation import Message, merge_system_messages
from tutee.engine.request import SamplingParams
from tutee.errors import InvalidInput
from tutee.serve.access.auth import MEMBER, CallerDep, owned
from tutee.serve.body import Body, Fields
from tutee.serve.chat.asking import Named, Wish, prepare
from tutee.serve.chat.logprobs import LogprobEntries
from tutee.serve.doorbell import News
from tutee.serve.paging import Limit, Order
from tutee.serve.replies import reply
from tutee.serve.responses.items import Item, item_page, to_messages
from tutee.serve.responses.output import Event, Output
from tutee.serve.responses.request import ResponseRequest, read_input_tokens_request, read_response_request
from tutee.serve.responses.running import Responding, before, finder
from tutee.serve.responses.story import frame
from tutee.serve.served import Prompt, Served
from tutee.serve.services import Services, ServicesDep
from tutee.serve.streaming import EventStream, Tap, encode, wait_for
from tutee.serve.wire import Live

router = APIRouter(prefix="/v1/responses")

NAMED = Named("input", "reasoning.effort", "text.format")
ROOM = 512
"""Tokens that `truncation: auto` leaves for an answer without a `max_output_tokens`."""


@router.post("", openapi_extra=MEMBER)
async def create(request: Request, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Answer an input, and what came before it."""
    asked, served, prompt, params = await run_in_threadpool(_prepare, services, caller.id, body)
    entries = LogprobEntries(served.model.tokenizer, params.spoken) if asked.logprobs else None
    tap, output = Tap(whole=not asked.stream and not asked.background), Output(prompt.form, entries)
    tap.submit(served, prompt, [params], caller.id)
    responding = Responding(asked, served, caller.id, services.store, tap, output, services.responses)
    try:
        await run_in_threadpool(responding.keep)
    except BaseException:
        tap.abort()
        raise
    keepalive = services.settings.stream_keepalive
    if asked.background:
        services.responses.go_on(responding)
        if responding.story is not None and asked.stream:
            return EventStream(_framed(responding.story.follow()), close=_nothing, keepalive=keepalive)
        return reply(responding.body())
    if asked.stream:
        return EventStream(_told(responding), close=responding.close, keepalive=keepalive)
    await wait_for(request, _ended(responding), responding.close)
    if responding.error is not None:
        raise responding.error
    return reply(responding.body())


@router.post("/input_tokens", openapi_extra=MEMBER)
def count_input_tokens(caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """How many tokens an input would be, with what came before it."""
    asked = read_input_tokens_request(body, finder(services.store, caller.id))
    served = services.live.resolve(asked.model)
    prompt, _ = _prompt(services, asked, served, caller.id)
    if served.upstream:
        _ = served.model  # says that another server's tokens cannot be counted here
    return reply({"object": "response.input_tokens", "input_tokens": len(prompt.ids)})


def _prepare(services: Services, actor_id: str, body: Fields) -> tuple[ResponseRequest, Served, Prompt, SamplingParams]:
    asked = read_response_request(body, finder(services.store, actor_id))
    served = services.live.resolve(asked.model)
    return asked, served, *_prompt(services, asked, served, actor_id)


def _prompt(services: Services, asked: ResponseRequest, served: Served, actor_id: str) -> tuple[Prompt, SamplingParams]:
    items: list[Item] = [*before(services.store, asked, actor_id), *asked.items]
    messages = merge_system_messages(to_messages(items, asked.instructions))
    if not messages:
        raise InvalidInput("'input' holds nothing to answer.", param="input", code="invalid_value")
    wish = Wish(asked.params, asked.tools, asked.text_rule, asked.effort)
    if asked.truncate:
        messages = _fitting(served, messages, wish)
    return prepare(served, messages, wish, NAMED)


def _fitting(served: Served, messages: list[Message], wish: Wish) -> list[Message]:
    """As many of the newest turns as the context has room for, the system message kept; at least the last turn."""
    roomy = replace(wish, params=replace(wish.params, max_tokens=wish.params.max_tokens or ROOM))
    head = messages[:1] if messages[0].role == "system" else []
    turns = [i for i, message in enumerate(messages) if message.role == "user"] or [len(head)]

    def fits(kept: list[Message]) -> bool:
        try:
            prepare(served, kept, roomy, NAMED)
        except InvalidInput as error:
            if error.code != "context_length_exceeded":
                raise
            return False
        return True

    if fits(messages):
        return messages
    low, high = 0, len(turns) - 1  # the first turn kept lies in low + 1 … high, or nothing fits
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(head + messages[turns[middle] :]) else (middle, high)
    return head + messages[turns[high] :]


async def _ended(responding: Responding) -> None:
    async for _ in responding.tell():
        pass


@dataclass(slots=True)
class Telling:
    """A response told while it is made (`wire.Live`)."""

    responding: Responding

    @property
    def news(self) -> News:
        return self.responding.tap.news

    @property
    def over(self) -> bool:
        return self.responding.tap.over

    def more(self) -> bytes:
        """The events of what came together."""
        return _frames(self.responding.more())


async def _told(responding: Responding) -> AsyncIterator[bytes | Live]:
    yield _frames(responding.begin())
    yield Telling(responding)
    yield _frames(await responding.end())


def _frames(events: Sequence[Event]) -> bytes:
    return b"".join(frame(encode(event)) for event in events)


async def _framed(told: AsyncIterator[list[bytes]]) -> AsyncIterator[bytes]:
    async for events in told:
        yield b"".join(map(frame, events))


async def _at_once(events: list[bytes]) -> AsyncIterator[list[bytes]]:
    yield events


def _nothing() -> None:
    """What a response in the background does when a reader goes away."""


@router.get("/{id}", openapi_extra=owned("response"))
def retrieve(
    id: str,
    caller: CallerDep,
    services: ServicesDep,
    stream: bool = False,
    starting_after: Annotated[int | None, Query(ge=0)] = None,
) -> Response:
    """A response as it is now; of one that still runs, what was there when it began. With `stream` its events, those
    after number `starting_after`, and those to come."""
    row = services.store.responses.get(id, caller.id)
    if not stream:
        if starting_after is not None:
            message = "'starting_after' is only allowed with 'stream': true."
            raise InvalidInput(message, param="starting_after", code="invalid_value")
        return reply(row.body)
    if not row.body["background"]:
        message = "Only responses that were made with 'background': true keep their events; retrieve this one whole."
        raise InvalidInput(message, param="stream", code="invalid_value")
    after = -1 if starting_after is None else starting_after
    running = services.responses.get(id)
    if running is not None and running.story is not None:
        told = running.story.follow(after)
    else:
        told = _at_once(services.store.responses.events(id, after))
    return EventStream(_framed(told), close=_nothing, keepalive=services.settings.stream_keepalive)


@router.delete("/{id}", openapi_extra=owned("response"))
def delete(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Forget a response; one that still runs is stopped."""
    services.store.responses.get(id, caller.id)
    running = services.responses.get(id)
    if running is not None:
        running.cancel()
    services.store.responses.delete(id, caller.id)
    return reply({"id": id, "object": "response", "deleted": True})


@router.post("/{id}/cancel", openapi_extra=owned("response"))
def cancel(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Stop a response that runs; one in the background that has ended is returned as it is."""
    row = services.store.responses.get(id, caller.id)
    running = services.responses.get(id)
    if running is not None:
        running.cancel()
        row = services.store.responses.get(id, caller.id)
    elif not row.body["background"]:
        message = f"The response '{id}' has ended; only responses that run, or ran in the background, can be cancelled."
        raise InvalidInput(message, param="response_id", code="response_not_running")
    return reply(row.body)


@router.get("/{id}/input_items", openapi_extra=owned("response"))
def list_input_items(
    id: str,
    caller: CallerDep,
    services: ServicesDep,
    limit: Limit = 20,
    after: str | None = None,
    order: Order = "desc",
) -> Response:
    """What was said to this response itself, in pages; not what came before it."""
    page = services.store.responses.input_items(id, caller.id, limit=limit, after=after, order=order)
    return item_page([row.item for row in page], page.has_more)
