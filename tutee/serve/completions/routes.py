"""POST /v1/completions, the older way to ask: bare text goes on, without a chat template.

With `echo` and `logprobs` it scores: the log-probs of the prompt's own tokens are read off its prefill
(`engine/readout.py`), a few rows of the vocabulary at a time, so that evaluation harnesses can compare continuations.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from tutee.engine.readout import PromptLogprobs
from tutee.engine.request import Chunk
from tutee.engine.request import Completion as Generated
from tutee.ids import new_id
from tutee.serve.access.auth import MEMBER, CallerDep
from tutee.serve.body import Body
from tutee.serve.completions.prompts import Ask, Turns, encode_prompts
from tutee.serve.completions.request import CompletionRequest, read_completion_request
from tutee.serve.completions.text import Piece, TextWriter
from tutee.serve.doorbell import News
from tutee.serve.live import answering_name
from tutee.serve.replies import reply
from tutee.serve.served import Served
from tutee.serve.services import Services, ServicesDep
from tutee.serve.streaming import DONE, EventStream, Mould, Tap, event, wait_for
from tutee.serve.wire import Live

router = APIRouter(prefix="/v1")


@dataclass(slots=True)
class Completing:
    """One request on its way. Request `p * best_of + i` of the tap is candidate i of prompt p."""

    asked: CompletionRequest
    served: Served
    prompts: list[list[int]]
    owner: str
    tap: Tap
    readouts: list[PromptLogprobs | None] = field(default_factory=list)
    """By prompt."""
    id: str = field(default_factory=lambda: new_id("cmpl"))
    created: int = field(default_factory=lambda: int(time.time()))

    def asks(self) -> Iterator[Ask]:
        """Every request, in order; the first of a prompt reads it, if its log-probs are wanted."""
        scored = self.asked.echo and self.asked.logprobs is not None
        for ids in self.prompts:
            readout = PromptLogprobs(self.asked.logprobs or 0) if scored else None
            self.readouts.append(readout)
            for index, params in enumerate(self.asked.candidates):
                yield Ask(ids, params, readout if index == 0 else None)

    def begin(self) -> Turns:
        """Ask the engine."""
        return Turns(self.tap, self.served, list(self.asks()), self.owner)

    def writer(self) -> TextWriter:
        """Turns what one candidate says into text with log-probs."""
        return TextWriter(self.served.model.tokenizer, self.asked.logprobs is not None)

    def echoed(self, writer: TextWriter, prompt: int) -> Piece:
        """The prompt itself; its request must have said something already, so that its log-probs are there."""
        given = self.asked.prompts[prompt]
        ids = self.prompts[prompt]
        text = given if isinstance(given, str) else self.served.model.tokenizer.decode(ids, skip_special=False)
        return writer.prompt(text, ids, self.readouts[prompt])

    def view(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        """A `text_completion` object."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": answering_name(self.asked.model, self.served.version),
            "choices": choices,
            "system_fingerprint": self.served.fingerprint,
            "usage": usage,
        }

    def usage(self) -> dict[str, Any]:
        """Token counts of all prompts and candidates; valid once every request is done."""
        results = [request.result() for request in self.tap.requests]
        prompt = sum(len(ids) for ids in self.prompts)
        generated = sum(each.generated_tokens for each in results) if self.asked.max_tokens else 0
        cached = sum(each.cached_tokens for each in results[:: self.asked.best_of])
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


@router.post("/completions", openapi_extra=MEMBER)
async def create(request: Request, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Go on with one or many bare texts."""
    asked = read_completion_request(body)
    served, prompts = await run_in_threadpool(_prepare, services, asked)
    completing = Completing(asked, served, prompts, caller.id, Tap(whole=not asked.stream))
    turns = completing.begin()
    if asked.stream:
        keepalive = services.settings.stream_keepalive
        return EventStream(_events(completing, turns), close=completing.tap.abort, keepalive=keepalive)
    await wait_for(request, turns.ended(), completing.tap.abort)
    return reply(completing.view(await run_in_threadpool(_choices, completing), completing.usage()))


def _prepare(services: Services, asked: CompletionRequest) -> tuple[Served, list[list[int]]]:
    served = services.live.resolve(asked.model)
    return served, encode_prompts(served, asked.prompts, asked.params, "prompt")


def _choices(completing: Completing) -> list[dict[str, Any]]:
    """All choices of an ended request: of each prompt the `n` best candidates."""
    asked = completing.asked
    choices: list[dict[str, Any]] = []
    for prompt in range(len(completing.prompts)):
        first = prompt * asked.best_of
        candidates = list(range(first, first + asked.best_of))
        if asked.best_of > asked.n:
            candidates.sort(key=lambda each: _mean_logprob(completing.tap.requests[each].result()), reverse=True)
        for request in candidates[: asked.n]:
            choices.append(_choice(completing, request, prompt, len(choices)))
    return choices


def _choice(completing: Completing, request: int, prompt: int, index: int) -> dict[str, Any]:
    writer = completing.writer()
    piece = completing.echoed(writer, prompt) if completing.asked.echo else Piece()
    finish_reason = None
    for chunk in completing.tap.requests[request]:
        if completing.asked.max_tokens:
            piece = piece.then(writer.add(chunk))
        finish_reason = chunk.finish_reason
    # The token that was drawn because the engine always draws one is nobody's wish: the length asked for was reached.
    return piece.choice(index, finish_reason if completing.asked.max_tokens else "length")


def _mean_logprob(completion: Generated) -> float:
    return sum(completion.logprobs) / max(1, len(completion.logprobs))


class Telling:
    """Completions told while they are made (`wire.Live`)."""

    def __init__(self, completing: Completing, turns: Turns) -> None:
        self._completing, self._turns = completing, turns
        requests = range(len(completing.prompts) * completing.asked.n)
        self._writers = [completing.writer() for _ in requests]
        self._begun: set[int] = set()
        mould = Piece(Mould.MARK)
        self._moulds = [Mould(completing.view([mould.choice(index, None)], None)) for index in requests]

    @property
    def news(self) -> News:
        return self._turns.tap.news

    @property
    def over(self) -> bool:
        return self._turns.over

    def more(self) -> bytes:
        """The events of what came together."""
        return b"".join(self._event(index, chunk) for index, chunk in self._turns.told())

    def _event(self, index: int, chunk: Chunk) -> bytes:
        asked, writer, piece = self._completing.asked, self._writers[index], Piece()
        if asked.echo and index not in self._begun:
            piece = self._completing.echoed(writer, index // asked.n)
        self._begun.add(index)
        if asked.max_tokens:
            piece = piece.then(writer.add(chunk))
        finish_reason = chunk.finish_reason if asked.max_tokens or chunk.finish_reason is None else "length"
        if finish_reason is None and piece.entries is None:
            return self._moulds[index].fill(piece.text) if piece.text else b""
        return event(self._completing.view([piece.choice(index, finish_reason)], None))


async def _events(completing: Completing, turns: Turns) -> AsyncIterator[bytes | Live]:
    """Server-sent events: pieces of text, one finish per choice, usage if asked for, [DONE]."""
    yield Telling(completing, turns)
    completing.tap.check()
    if completing.asked.include_usage:
        yield event(completing.view([], completing.usage()))
    yield DONE
