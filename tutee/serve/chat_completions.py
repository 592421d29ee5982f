"""POST /v1/chat/completions as the official client speaks it, streamed and in one piece.

Both ways read the same chunks of the engine, so the streamed text is the unstreamed text. pydantic is not on this path:
one event per choice and engine step, encoded once by msgspec. Stored completions are read back in
`stored_completions.py`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from tutee.errors import InvalidInput, TuteeError, Unavailable
from tutee.ids import new_id
from tutee.serve.auth import MEMBER, CallerDep
from tutee.serve.body import Body
from tutee.serve.chat_request import ChatRequest, merge_system_messages, read_chat_request
from tutee.serve.logprobs import LogprobEntries
from tutee.serve.replies import error_body, reply
from tutee.serve.served import Prompt, Served
from tutee.serve.services import Services, ServicesDep
from tutee.serve.streaming import DONE, EventStream, Tap, event, wait_for

router = APIRouter(prefix="/v1")


class Delta(msgspec.Struct, omit_defaults=True):
    """What one event adds to a choice."""

    role: str | None = None
    content: str | None = None


class EventChoice(msgspec.Struct):
    """One choice of one event; `finish_reason` is null before the last."""

    index: int
    delta: Delta
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None


class Event(msgspec.Struct):
    """A `chat.completion.chunk`; the same object is filled and encoded again and again."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[EventChoice] = []
    usage: dict[str, Any] | msgspec.UnsetType | None = msgspec.UNSET
    object: str = "chat.completion.chunk"
    service_tier: str = "default"

    def of(self, *choice: Any) -> bytes:
        """This event with one choice, as it goes over the wire."""
        self.choices = [EventChoice(*choice)]
        return event(self)


Piece = tuple[int, str, list[dict[str, Any]], str | None]
"""(choice, text, log-prob entries, finish reason)."""


@dataclass(slots=True)
class Choice:
    """One choice as it grows."""

    text: str = ""
    entries: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None


@dataclass(slots=True)
class Answering:
    """One request on its way: what was asked, who answers, and the chunks."""

    asked: ChatRequest
    served: Served
    tap: Tap
    id: str
    created: int
    entries: list[LogprobEntries]

    @property
    def fingerprint(self) -> str:
        """Changes whenever the weights do."""
        return self.served.fingerprint

    def usage(self) -> dict[str, Any]:
        """Token counts of all choices; valid once every request is done."""
        completions = [request.result() for request in self.tap.requests]
        prompt = completions[0].prompt_tokens
        generated = sum(len(each.token_ids) for each in completions)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": completions[0].cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    async def chunks(self) -> AsyncIterator[list[Piece]]:
        """What the engine made since the last time.

        Raises:
            Unavailable: the engine failed, or ended, in mid-answer.
        """
        async for batch in self.tap:
            pieces: list[Piece] = []
            for index, chunk in batch:
                if chunk.finish_reason in ("error", "abort"):
                    raise _failure(self.tap, index)
                entries = self.entries[index].add(chunk) if self.asked.logprobs else []
                pieces.append((index, chunk.text, entries, chunk.finish_reason))
            yield pieces


def _failure(tap: Tap, index: int) -> TuteeError:
    error = tap.requests[index].error
    if isinstance(error, TuteeError):
        return error
    return Unavailable("The engine stopped in the middle of this answer; please try again.")


@router.post("/chat/completions", openapi_extra=MEMBER)
async def create(request: Request, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Answer a list of messages."""
    asked = read_chat_request(body)
    served, prompt = await run_in_threadpool(_prepare, services, asked)
    tap = Tap(whole=not asked.stream)
    tap.submit(served, prompt, asked.params_by_choice, caller.id)
    answering = Answering(
        asked=asked,
        served=served,
        tap=tap,
        id=new_id("chatcmpl"),
        created=int(time.time()),
        entries=[LogprobEntries(served.model.tokenizer) for _ in range(asked.n)] if asked.logprobs else [],
    )
    if asked.stream:
        return EventStream(_events(answering, services, caller.id), close=tap.abort)
    choices = await wait_for(request, _collect(answering), tap.abort)
    content = _whole(answering, choices)
    if asked.store:
        await run_in_threadpool(_keep, answering, content, services, caller.id)
    return reply(content)


def _prepare(services: Services, asked: ChatRequest) -> tuple[Served, Prompt]:
    served = services.live.resolve(asked.model)
    if asked.params.logit_bias:
        vocabulary = served.model.config.vocab_size
        if any(token >= vocabulary for token in asked.params.logit_bias):
            message = f"'logit_bias' names a token beyond the vocabulary of {vocabulary}."
            raise InvalidInput(message, param="logit_bias", code="invalid_value")
    prompt = served.prompt(merge_system_messages(asked.messages))
    limit, wanted = served.context_length, asked.params.max_tokens
    if limit is not None and wanted is not None and len(prompt.ids) + wanted > limit:
        raise InvalidInput(
            f"This model's maximum context length is {limit} tokens, but {len(prompt.ids)} are in the messages and "
            f"{wanted} were asked for.",
            param="messages",
            code="context_length_exceeded",
        )
    return served, prompt


async def _collect(answering: Answering) -> list[Choice]:
    choices = [Choice() for _ in range(answering.asked.n)]
    async for pieces in answering.chunks():
        _add(choices, pieces)
    return choices


def _add(choices: list[Choice], pieces: list[Piece]) -> None:
    for index, text, entries, finish_reason in pieces:
        choice = choices[index]
        choice.text += text
        choice.entries += entries
        choice.finish_reason = finish_reason


def _whole(answering: Answering, choices: list[Choice]) -> dict[str, Any]:
    """The `chat.completion` object."""
    return {
        "id": answering.id,
        "object": "chat.completion",
        "created": answering.created,
        "model": answering.asked.model,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": None, "annotations": []},
                "logprobs": {"content": choice.entries, "refusal": None} if answering.asked.logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ],
        "usage": answering.usage(),
        "system_fingerprint": answering.fingerprint,
        "service_tier": "default",
        "metadata": answering.asked.metadata or {},
    }


async def _events(answering: Answering, services: Services, actor_id: str) -> AsyncIterator[bytes]:
    """Server-sent events: roles in order, deltas, one finish per choice, usage if asked for, [DONE]."""
    asked = answering.asked
    line = Event(answering.id, answering.created, asked.model, answering.fingerprint)
    if asked.include_usage:
        line.usage = None
    choices = [Choice() for _ in range(asked.n)]
    # all first sights in order, or the client's helper raises IndexError
    yield b"".join(line.of(index, Delta(role="assistant", content="")) for index in range(asked.n))
    try:
        async for pieces in answering.chunks():
            _add(choices, pieces)
            out = b"".join(_lines(line, pieces))
            if out:
                yield out
        if asked.store:
            await run_in_threadpool(_keep, answering, _whole(answering, choices), services, actor_id)
    except TuteeError as error:
        yield event(error_body(error))
        return
    if asked.include_usage:
        line.choices, line.usage = [], answering.usage()
        yield event(line)
    yield DONE


def _lines(line: Event, pieces: list[Piece]) -> Iterator[bytes]:
    """The events of what came together."""
    for index, text, entries, finish_reason in pieces:
        if text or entries:
            yield line.of(index, Delta(content=text), {"content": entries, "refusal": None} if entries else None)
        if finish_reason is not None:
            yield line.of(index, Delta(), None, finish_reason)


def _keep(answering: Answering, content: dict[str, Any], services: Services, actor_id: str) -> None:
    asked = answering.asked
    services.store.completions.add(
        answering.id, actor_id, asked.model, asked.raw_messages, content, metadata=asked.metadata
    )
