"""Answers that are being written: they belong to the server, not to the browser tab that asked for them.

The engine's thread hands chunks to a `LiveAnswer`; one recorder thread saves what is new about once a second and
finishes the answer; any number of readers follow it from any character on, so a reload or a second tab goes on where it
was. A full disk delays saving and nothing else: the text stays here and is tried again.
Does not know where an answer is saved (`Record`), nor what it answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from tutee.engine.request import Chunk, Request, SamplingParams
from tutee.errors import NotFound
from tutee.serve.live import Served

log = logging.getLogger("tutee.serve")

SAVE_SECONDS = 1.0
"""What a crash can cost of an answer that is being written; its beginning and its end are saved at once."""
LOOK_SECONDS = 0.25
RETRY_SECONDS = 1.0
CLOSE_SECONDS = 5.0


class Record(Protocol):
    """Where one answer is saved. Both methods may raise, and are then called again with the same."""

    def append(self, text: str, token_ids: Sequence[int], logprobs: Sequence[float]) -> None:
        """Add to what was saved before."""

    def finish(self, reason: str, ttft_s: float | None, tokens_per_s: float | None) -> None:
        """Nothing more will come."""


class LiveAnswer:
    """One answer from its first chunk until it is saved whole. Thread-safe."""

    def __init__(self) -> None:
        self.request: Request | None = None
        self.message_id = ""
        self.record: Record | None = None
        self.save_at = 0.0
        self.retry_at = 0.0
        self.saved = threading.Event()
        self._lock = threading.Lock()
        self._text: list[str] = []
        self._unsaved: list[Chunk] = []
        self._ended = False
        self._listeners: list[Callable[[], None]] = []
        self.on_end: Callable[[], None] = lambda: None

    def hear(self, chunk: Chunk) -> None:
        """Take a chunk (engine's thread)."""
        with self._lock:
            self._text.append(chunk.text)
            self._unsaved.append(chunk)
            self._ended = chunk.finish_reason is not None
        self._tell()
        if self._ended:
            self.on_end()

    @property
    def text(self) -> str:
        """All text so far."""
        with self._lock:
            return "".join(self._text)

    @property
    def ended(self) -> bool:
        """Whether the engine is done with it (it may not be saved yet)."""
        return self._ended

    def unsaved(self) -> list[Chunk]:
        """Chunks that the record has not seen."""
        with self._lock:
            return list(self._unsaved)

    def saved_up_to(self, count: int) -> None:
        """The first `count` unsaved chunks are in the record now."""
        with self._lock:
            del self._unsaved[:count]

    def mark_saved(self) -> None:
        """The record is complete, or given up."""
        self.saved.set()
        self._tell()

    def _tell(self) -> None:
        for listener in list(self._listeners):
            with contextlib.suppress(RuntimeError):  # the listener's loop is closed
                listener()

    async def follow(self, offset: int) -> AsyncIterator[tuple[int, str]]:
        """(offset, text) pieces from character `offset` on, until the answer is saved whole."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()

        def listener() -> None:
            loop.call_soon_threadsafe(news.set)

        self._listeners.append(listener)
        try:
            while True:
                news.clear()
                over, text = self.saved.is_set(), self.text
                offset = min(offset, len(text))
                if offset < len(text):
                    yield offset, text[offset:]
                    offset = len(text)
                elif over:
                    return
                else:
                    await news.wait()
        finally:
            self._listeners.remove(listener)


class Answers:
    """All answers being written now, and the thread that saves them."""

    def __init__(self) -> None:
        self._answers: dict[str, LiveAnswer] = {}
        self._wake = threading.Event()
        self._closing = False
        self._recorder = threading.Thread(target=self._run, name="answer-recorder", daemon=True)
        self._recorder.start()

    def begin(self, served: Served, prompt: Sequence[int], params: SamplingParams) -> LiveAnswer:
        """Ask the engine. Nothing is saved yet, so a refusal leaves no trace; `keep` or `drop` comes next.

        Raises:
            InvalidInput: no room in the context, among others. Busy: the queue is full.
        """
        answer = LiveAnswer()
        answer.on_end = self._wake.set
        answer.request = served.engine.submit(prompt, params, version=served.version.id, on_chunk=answer.hear)
        return answer

    def keep(self, answer: LiveAnswer, message_id: str, record: Record) -> None:
        """Save the answer from now on as the content of a message."""
        answer.message_id, answer.record = message_id, record
        self._answers[message_id] = answer
        self._wake.set()

    @staticmethod
    def drop(answer: LiveAnswer) -> None:
        """Stop an answer that was not kept."""
        if answer.request is not None:
            answer.request.abort()

    @property
    def count(self) -> int:
        """How many are being written."""
        return len(self._answers)

    def get(self, message_id: str) -> LiveAnswer | None:
        """The answer that is becoming this message, if it still is."""
        return self._answers.get(message_id)

    def stop(self, message_id: str, seconds: float = 10.0) -> None:
        """Abort an answer and wait until what it said is saved. Does nothing to a finished one."""
        answer = self._answers.get(message_id)
        if answer is not None and answer.request is not None:
            answer.request.abort()
            answer.saved.wait(seconds)

    def close(self) -> None:
        """Save what there is. Answers cut short by the end of the server stay unfinished: the next start marks them."""
        self._closing = True
        self._wake.set()
        self._recorder.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            self._wake.wait(LOOK_SECONDS if self._answers else None)
            self._wake.clear()
            closing = self._closing
            for answer in list(self._answers.values()):
                self._save(answer, closing)
            if closing:
                return
            time.sleep(0.01)  # several answers that end in one step are saved in one round

    def _save(self, answer: LiveAnswer, closing: bool) -> None:
        assert answer.record is not None
        now, ended = time.monotonic(), answer.ended
        if not closing and now < (answer.retry_at if ended else max(answer.retry_at, answer.save_at)):
            return
        chunks = answer.unsaved()
        try:
            if chunks:
                answer.save_at = now + SAVE_SECONDS
                answer.record.append(
                    "".join(chunk.text for chunk in chunks),
                    [token for chunk in chunks for token in chunk.token_ids],
                    [value for chunk in chunks for value in chunk.logprobs],
                )
                answer.saved_up_to(len(chunks))
            if ended and not closing:
                self._finish(answer)
        except NotFound:  # the conversation was deleted under it
            self._forget(answer)
        except Exception as error:
            answer.retry_at = time.monotonic() + RETRY_SECONDS
            log.error("answer %s cannot be saved, trying again: %s", answer.message_id, error)

    def _finish(self, answer: LiveAnswer) -> None:
        assert answer.record is not None
        assert answer.request is not None
        completion = answer.request.result()
        seconds = completion.total_s - (completion.ttft_s or 0.0)
        after_first = len(completion.token_ids) - 1
        speed = after_first / seconds if after_first > 0 and seconds > 0 else None
        answer.record.finish(completion.finish_reason, completion.ttft_s, speed)
        self._forget(answer)

    def _forget(self, answer: LiveAnswer) -> None:
        self._answers.pop(answer.message_id, None)
        answer.mark_saved()
