"""POST /v1/chat/completions as the official client speaks it, streamed and in one piece.

Both ways read the same chunks of the engine, so the streamed text is the unstreamed text. pydantic is not on this path:
one event per choice and engine step, encoded once (`serve/chat/events.py`). Stored completions are read back in
`serve/chat/stored.py`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from tutee.conversation import merge_system_messages
from tutee.data.completion_feedback import give, read_opinion
from tutee.engine.request import Chunk, SamplingParams
from tutee.ids import new_id
from tutee.model.said import Arguments, CallBegun, Thought, Words
from tutee.serve.access.auth import MEMBER, CallerDep
from tutee.serve.body import Body
from tutee.serve.chat.asking import Named, Wish, prepare
from tutee.serve.chat.choice import Choice
from tutee.serve.chat.events import ChatEvents, Event
from tutee.serve.chat.feedback import samples_of
from tutee.serve.chat.logprobs import LogprobEntries
from tutee.serve.chat.request import ChatRequest, read_chat_request
from tutee.serve.doorbell import News
from tutee.serve.live import answering_name
from tutee.serve.replies import reply
from tutee.serve.served import Prompt, Served
from tutee.serve.services import Services, ServicesDep
from tutee.serve.streaming import DONE, EventStream, Tap, wait_for
from tutee.serve.wire import Live

router = APIRouter(prefix="/v1")


@dataclass(slots=True)
class Answering:
    """One request on its way: what was asked, who answers, and the chunks."""

    asked: ChatRequest
    served: Served
    prompt: Prompt
    tap: Tap
    choices: list[Choice]
    id: str = field(default_factory=lambda: new_id("chatcmpl"))
    created: int = field(default_factory=lambda: int(time.time()))
    told: int = 0
    """Tokens handed out so far."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the weights do."""
        return self.served.fingerprint

    def usage(self) -> dict[str, Any]:
        """Token counts of all choices; valid once every request is done."""
        completions = [request.result() for request in self.tap.requests]
        prompt = completions[0].prompt_tokens
        generated = sum(each.generated_tokens for each in completions)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": completions[0].cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": sum(choice.reasoning_tokens for choice in self.choices),
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def usage_so_far(self) -> dict[str, Any]:
        """Token counts of what has been told."""
        prompt = self.tap.requests[0].prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": self.told, "total_tokens": prompt + self.told}


@dataclass(slots=True)
class Telling:
    """An answer told while it is made (`wire.Live`)."""

    answering: Answering
    events: ChatEvents

    @property
    def news(self) -> News:
        return self.answering.tap.news

    @property
    def over(self) -> bool:
        return self.answering.tap.over

    def more(self) -> bytes:
        """The events of what came together."""
        out: list[bytes] = []
        answering = self.answering
        for index, chunk in answering.tap.told():
            choice = answering.choices[index]
            answering.told += len(chunk.token_ids)
            if choice.says_only_words(chunk):  # nearly all, so these take the short way
                if chunk.text:
                    out.append(self.events.text(index, choice.say(chunk.text)))
            else:
                out.extend(_lines(self.events, choice, chunk))
        return b"".join(out)


@router.post("/chat/completions", openapi_extra=MEMBER)
async def create(request: Request, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Answer a list of messages."""
    asked = read_chat_request(body)
    if asked.store:
        read_opinion(asked.metadata or {})
    served, prompt, params = await run_in_threadpool(_prepare, services, asked)
    asked = replace(asked, model=answering_name(asked.model, served.version))
    tap = Tap(whole=not asked.stream)
    tap.submit(served, prompt, [params.for_sample(index) for index in range(asked.n)], caller.id)
    choices = [
        Choice(index, prompt.form, _entries(asked, served, params), asked.tools.named) for index in range(asked.n)
    ]
    answering = Answering(asked, served, prompt, tap, choices)
    if asked.stream:
        keepalive = services.settings.stream_keepalive
        return EventStream(_events(answering, services, caller.id), close=tap.abort, keepalive=keepalive)
    await wait_for(request, _ended(answering), tap.abort)
    content = _whole(answering)
    if asked.store:
        await run_in_threadpool(_keep, answering, content, services, caller.id)
    return reply(content)


def _prepare(services: Services, asked: ChatRequest) -> tuple[Served, Prompt, SamplingParams]:
    """Who answers, the prompt, and how to draw."""
    served = services.live.resolve(asked.model)
    wish = Wish(asked.params, asked.tools, asked.text_rule, asked.effort)
    prompt, params = prepare(
        served, merge_system_messages(asked.messages), wish, Named("messages", "reasoning_effort", "response_format")
    )
    if asked.store and params.logprobs is None and not served.upstream:
        params = replace(params, logprobs=0)  # not for the client: whoever learns from it needs them
    return served, prompt, params


def _entries(asked: ChatRequest, served: Served, params: SamplingParams) -> LogprobEntries | None:
    return LogprobEntries(served.model.tokenizer, params.spoken) if asked.logprobs else None


async def _ended(answering: Answering) -> None:
    while not answering.tap.over:
        await answering.tap.news.wait()
        answering.tap.told()
    answering.tap.check()
    for choice, request in zip(answering.choices, answering.tap.requests, strict=True):
        for chunk in request:
            choice.hear(chunk)


def _whole(answering: Answering) -> dict[str, Any]:
    """The `chat.completion` object of an ended request."""
    return {
        "id": answering.id,
        "object": "chat.completion",
        "created": answering.created,
        "model": answering.asked.model,
        "choices": [choice.view() for choice in answering.choices],
        "usage": answering.usage(),
        "system_fingerprint": answering.fingerprint,
        "service_tier": "default",
        "metadata": answering.asked.metadata or {},
    }


async def _events(answering: Answering, services: Services, actor_id: str) -> AsyncIterator[bytes | Live]:
    """Server-sent events: roles in order, deltas, one finish per choice, usage if asked for, [DONE]."""
    asked, options = answering.asked, answering.asked.stream_options
    blank = Event(answering.id, answering.created, asked.model, answering.fingerprint)
    if options.include_usage:
        blank.usage = None
    usage = answering.usage_so_far if options.continuous_usage else None
    events = ChatEvents(blank, asked.n, obfuscate=options.obfuscate, usage=usage)
    yield events.roles(None if asked.tools.mode == "required" else "")
    yield Telling(answering, events)
    answering.tap.check()
    if asked.store:
        await run_in_threadpool(_keep, answering, _whole(answering), services, actor_id)
    if options.include_usage:
        yield events.usage(answering.usage())
    yield DONE


def _lines(events: ChatEvents, choice: Choice, chunk: Chunk) -> Iterator[bytes]:
    """The events of a chunk."""
    index = choice.index
    pieces, scored = choice.hear(chunk)
    for piece in pieces:
        match piece:
            case Words(text) if not scored:
                yield events.text(index, text)
            case Words(text):
                yield events.scored(index, text, scored)
                scored = []
            case Thought(text):
                yield events.thought(index, text)
            case CallBegun(call, name):
                yield events.call(index, call, choice.calls[call].id, name)
            case Arguments(call, text):
                yield events.arguments(index, call, text)
    if scored:
        yield events.scored(index, "", scored)
    if choice.finish_reason is not None:
        yield events.end(index, choice.finish_reason)


def _keep(answering: Answering, content: dict[str, Any], services: Services, actor_id: str) -> None:
    asked, metadata = answering.asked, answering.asked.metadata or {}
    drawn = [(request.params, request.result()) for request in answering.tap.requests]
    messages = merge_system_messages(asked.messages)
    samples, turns = samples_of(answering.served, answering.prompt, messages, asked.tools.functions, drawn)
    row = services.store.completions.add(
        answering.id, actor_id, asked.model, asked.raw_messages, content, metadata, samples, turns
    )
    give(services.store, row, read_opinion(metadata), actor_id)
