"""POST /v1/chat/completions as the official client speaks it, streamed and in one piece.

Both ways read the same chunks of the engine, so the streamed text is the unstreamed text. pydantic is not on this path:
one event per choice and engine step, encoded once (`chat_events.py`). Stored completions are read back in
`stored_completions.py`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from tutee.engine.request import Chunk
from tutee.engine.request import Request as EngineRequest
from tutee.errors import InvalidInput, TuteeError, Unavailable
from tutee.ids import new_id
from tutee.serve.auth import MEMBER, CallerDep
from tutee.serve.body import Body
from tutee.serve.chat_events import ChatEvents, Event
from tutee.serve.chat_request import ChatRequest, merge_system_messages, read_chat_request
from tutee.serve.live import answering_name
from tutee.serve.logprobs import LogprobEntries
from tutee.serve.replies import error_body, reply
from tutee.serve.served import Prompt, Served
from tutee.serve.services import Services, ServicesDep
from tutee.serve.streaming import DONE, EventStream, Tap, event, wait_for

router = APIRouter(prefix="/v1")


@dataclass(slots=True)
class Answering:
    """One request on its way: what was asked, who answers, and the chunks."""

    asked: ChatRequest
    served: Served
    tap: Tap
    id: str
    created: int

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
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def entries(self) -> LogprobEntries | None:
        """A reader of one choice's log-probs, if they were asked for."""
        return LogprobEntries(self.served.model.tokenizer) if self.asked.logprobs else None

    async def chunks(self) -> AsyncIterator[list[tuple[int, Chunk]]]:
        """(choice, chunk) of what the engine made since the last time.

        Raises:
            Unavailable: the engine failed, or ended, in mid-answer.
        """
        async for batch in self.tap:
            for index, chunk in batch:
                if chunk.finish_reason in ("error", "abort"):
                    raise _failure(self.tap, index)
            yield batch


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
    asked = replace(asked, model=answering_name(asked.model, served.version))
    tap = Tap(whole=not asked.stream)
    tap.submit(served, prompt, asked.params_by_choice, caller.id)
    answering = Answering(asked, served, tap, new_id("chatcmpl"), int(time.time()))
    if asked.stream:
        return EventStream(_events(answering, services, caller.id), close=tap.abort)
    await wait_for(request, _ended(answering), tap.abort)
    content = _whole(answering)
    if asked.store:
        await run_in_threadpool(_keep, answering, content, services, caller.id)
    return reply(content)


def _prepare(services: Services, asked: ChatRequest) -> tuple[Served, Prompt]:
    served = services.live.resolve(asked.model)
    if asked.params.logit_bias and not served.upstream:
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


async def _ended(answering: Answering) -> None:
    async for _ in answering.chunks():
        pass


def _whole(answering: Answering) -> dict[str, Any]:
    """The `chat.completion` object of an ended request."""
    return {
        "id": answering.id,
        "object": "chat.completion",
        "created": answering.created,
        "model": answering.asked.model,
        "choices": [_choice(answering, index, request) for index, request in enumerate(answering.tap.requests)],
        "usage": answering.usage(),
        "system_fingerprint": answering.fingerprint,
        "service_tier": "default",
        "metadata": answering.asked.metadata or {},
    }


def _choice(answering: Answering, index: int, request: EngineRequest) -> dict[str, Any]:
    completion, entries = request.result(), answering.entries()
    logprobs = None
    if entries is not None:
        logprobs = {"content": [entry for chunk in request for entry in entries.add(chunk)], "refusal": None}
    return {
        "index": index,
        "message": {"role": "assistant", "content": completion.text, "refusal": None, "annotations": []},
        "logprobs": logprobs,
        "finish_reason": completion.finish_reason,
    }


async def _events(answering: Answering, services: Services, actor_id: str) -> AsyncIterator[bytes]:
    """Server-sent events: roles in order, deltas, one finish per choice, usage if asked for, [DONE]."""
    asked = answering.asked
    blank = Event(answering.id, answering.created, asked.model, answering.fingerprint)
    if asked.include_usage:
        blank.usage = None
    events = ChatEvents(blank, asked.n)
    entries = [answering.entries() for _ in range(asked.n)]
    yield events.roles()
    try:
        async for batch in answering.chunks():
            if out := b"".join(_lines(events, entries, batch)):
                yield out
        if asked.store:
            await run_in_threadpool(_keep, answering, _whole(answering), services, actor_id)
    except TuteeError as error:
        yield event(error_body(error))
        return
    if asked.include_usage:
        yield events.usage(answering.usage())
    yield DONE


def _lines(events: ChatEvents, entries: list[LogprobEntries | None], batch: list[tuple[int, Chunk]]) -> Iterator[bytes]:
    """The events of what came together."""
    for index, chunk in batch:
        reader = entries[index]
        if reader is None:
            if chunk.text:
                yield events.text(index, chunk.text)
        elif (found := reader.add(chunk)) or chunk.text:
            yield events.scored(index, chunk.text, found)
        if chunk.finish_reason is not None:
            yield events.end(index, chunk.finish_reason)


def _keep(answering: Answering, content: dict[str, Any], services: Services, actor_id: str) -> None:
    asked = answering.asked
    services.store.completions.add(
        answering.id, actor_id, asked.model, asked.raw_messages, content, metadata=asked.metadata
    )
