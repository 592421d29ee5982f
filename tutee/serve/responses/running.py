"""Responses on their way: from the engine's chunks to events and to the kept object, and how to stop one.

Streams, answers in one piece and background work all run `Responding.tell`, which yields events and keeps the end; they
differ only in who listens. In the background nobody must: whoever wants to follows the `Story`. Does not know how a
body was read, nor any route.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool

from tutee.errors import Busy, InvalidInput, TuteeError
from tutee.ids import new_id
from tutee.serve.live import answering_name
from tutee.serve.responses.items import Item, Lookup
from tutee.serve.responses.output import Event, Output
from tutee.serve.responses.request import ResponseRequest
from tutee.serve.responses.story import Story
from tutee.serve.served import Served
from tutee.serve.streaming import Tap, encode
from tutee.store import Store

log = logging.getLogger("tutee.serve")

INTERRUPTED = {"code": "server_error", "message": "The server was stopped in the middle of this response."}
CANCEL_SECONDS = 10.0


@dataclass(slots=True, eq=False)
class Responding:
    """One response. `asked.store` says whether the database knows of it."""

    asked: ResponseRequest
    served: Served
    actor_id: str
    store: Store
    tap: Tap
    output: Output
    running: RunningResponses
    id: str = field(default_factory=lambda: new_id("resp_"))
    created: int = field(default_factory=lambda: int(time.time()))
    status: str = "in_progress"
    error: TuteeError | None = None
    cancelled: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    """Set once the end is kept."""
    story: Story | None = field(init=False, default=None)
    """What was told so far, in the background; otherwise whoever asked hears it, and nobody else."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _told: int = 0
    _final: dict[str, Any] | None = None
    _last: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.asked.background:
            self.story = Story(self.store, self.id)

    def keep(self) -> None:
        """Make it known to those who may ask for it or cancel it, before its first token."""
        if not self.asked.store:
            return
        asked = self.asked
        self.store.responses.add(
            self.actor_id,
            self.body(),
            asked.items,
            previous_id=asked.previous_id,
            conversation_id=asked.conversation_id,
        )
        self.running.add(self)

    def body(self) -> dict[str, Any]:
        """The response object as it is now."""
        return self._final or self._body()

    def _body(self) -> dict[str, Any]:
        over = self.status != "in_progress"
        reason = {"reason": "max_output_tokens"} if self.status == "incomplete" else None
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": int(time.time()) if self.status == "completed" else None,
            "status": self.status,
            "error": None if self.error is None else _error_view(self.error),
            "incomplete_details": reason,
            "model": answering_name(self.asked.model, self.served.version),
            "output": self.output.items if over else [],
            "usage": self._usage() if over else None,
            **self.asked.echo,
        }

    def _usage(self) -> dict[str, Any] | None:
        request = self.tap.requests[0]
        if not request.done:
            return None
        counted = request.result()
        return {
            "input_tokens": counted.prompt_tokens,
            "input_tokens_details": {"cached_tokens": counted.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": counted.generated_tokens,
            "output_tokens_details": {"reasoning_tokens": self.output.reasoning_tokens},
            "total_tokens": counted.prompt_tokens + counted.generated_tokens,
        }

    def begin(self) -> list[Event]:
        """The first events."""
        begun = self.body()
        return self._say([{"type": f"response.{name}", "response": begun} for name in ("created", "in_progress")])

    def more(self) -> list[Event]:
        """The events of what the engine made since the last time; until the `tap` is over."""
        return self._say([event for _, chunk in self.tap.take() for event in self.output.hear(chunk)])

    async def end(self) -> list[Event]:
        """Keep how it ended; the last events. `error` is set when it failed."""
        status = "completed" if self.output.finish_reason == "stop" else "incomplete"
        if self.output.finish_reason in ("error", "abort"):
            status = "cancelled" if self.cancelled else "failed"
            self.error = None if self.cancelled else self.tap.failure(0)
        await run_in_threadpool(self._end, status)
        return self._last

    async def tell(self) -> AsyncIterator[list[Event]]:
        """Events from first to last, those of one step of the engine together."""
        yield self.begin()
        while not self.tap.over:
            await self.tap.news.wait()
            if events := self.more():
                yield events
        yield await self.end()

    def _say(self, events: list[Event]) -> list[Event]:
        self._numbered(events)
        if self.story is not None:
            self.story.add([encode(event) for event in events])
        return events

    def _numbered(self, events: list[Event]) -> list[Event]:
        """Events with their `sequence_number`: from 0, without gaps."""
        for event in events:
            event["sequence_number"] = self._told
            self._told += 1
        return events

    def _end(self, status: str) -> None:
        """Keep how it ended, then tell it; only the first end counts."""
        with self._lock:
            if self.ended.is_set():
                return
            self.status = status
            self.output.cut()
            body = self._final = self._body()
            name = status if status in ("completed", "failed") else "incomplete"
            self._last = self._numbered([{"type": f"response.{name}", "response": body}])
            if self.asked.store:
                self._keep_end(body)
            elif self.asked.conversation_id is not None and status != "failed":
                said = [*self.asked.items, *self.output.items]
                self.store.openai_conversations.add_items(self.asked.conversation_id, self.actor_id, said)
            self.running.remove(self)
            self.ended.set()

    def _keep_end(self, body: dict[str, Any]) -> None:
        if self.story is None:
            self.store.responses.finish(self.id, body)
            return
        last = [encode(event) for event in self._last]
        first, events = self.story.unsaved()
        self.store.responses.finish(self.id, body, (first, [*events, *last]))
        self.story.add(last, over=True)

    def close(self) -> None:
        """Nobody waits for it any more: free the engine's slot, and keep what was said so far. Called in the loop."""
        self.tap.abort()
        if not self.ended.is_set():
            self.cancelled = True
            asyncio.get_running_loop().run_in_executor(None, self._end, "cancelled")

    def cancel(self) -> None:
        """Stop it and wait until what it said is kept (any thread but the loop's)."""
        self.cancelled = True
        self.tap.abort()
        self.ended.wait(CANCEL_SECONDS)


class RunningResponses:
    """Kept responses that have not ended, by id."""

    def __init__(self) -> None:
        self._responses: dict[str, Responding] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, responding: Responding) -> None:
        """It has begun."""
        self._responses[responding.id] = responding

    def remove(self, responding: Responding) -> None:
        """It has ended."""
        self._responses.pop(responding.id, None)

    def get(self, id: str) -> Responding | None:
        """The response, if it has not ended."""
        return self._responses.get(id)

    def go_on(self, responding: Responding) -> None:
        """Let one in the background run to its end without anybody waiting. Called in the loop."""

        async def run() -> None:
            story = responding.story
            assert story is not None
            try:
                async for _ in responding.tell():
                    if story.due:
                        await run_in_threadpool(_save, story)
            finally:
                story.add((), over=True)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _save(story: Story) -> None:
    try:
        story.save()
    except Exception:  # the database is away, among others: the next save, or the end, has these events too
        log.exception("events of a response could not be kept")


def _error_view(error: TuteeError) -> dict[str, Any]:
    """With the few codes that a response may have."""
    code = "server_error"
    if isinstance(error, Busy):
        code = "rate_limit_exceeded"
    elif isinstance(error, InvalidInput):
        code = "invalid_prompt"
    return {"code": code, "message": error.message}


def before(store: Store, asked: ResponseRequest, actor_id: str) -> Sequence[Item]:
    """What was said before this response: in its thread, or in its conversation."""
    if asked.previous_id is not None:
        return store.responses.thread(asked.previous_id, actor_id)
    if asked.conversation_id is not None:
        return store.openai_conversations.said(asked.conversation_id, actor_id)
    return ()


def finder(store: Store, actor_id: str) -> Lookup:
    """Finds items of the actor's by id, wherever they were said."""
    return lambda id: store.responses.find_item(id, actor_id) or store.openai_conversations.find_item(id, actor_id)
