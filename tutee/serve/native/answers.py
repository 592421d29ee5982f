"""Answers that are being written: they belong to the server, not to the browser tab that asked for them.

The engine's thread hands chunks to a `LiveAnswer`; one recorder thread saves what is new about once a second, for all
answers in one transaction, and at once what ended; any number of readers follow an answer from any character on, so a
reload or a second tab goes on where it was. A full disk delays saving and nothing else: the text stays here and is
tried again. Does not know where an answer is saved (`Keeper`), nor what it answers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from tutee.engine.request import Chunk, Request, SamplingParams
from tutee.serve.doorbell import News
from tutee.serve.served import Prompt, Served
from tutee.store.records import End, Piece, StoredMessage

log = logging.getLogger("tutee.serve")

SAVE_SECONDS = 1.0
"""What a crash can cost of an answer that is being written; its beginning and its end are saved at once."""
LOOK_SECONDS = 0.1
RETRY_SECONDS = 1.0
CLOSE_SECONDS = 5.0


class Keeper(Protocol):
    """Where answers are saved. May raise, and is then called again with the same."""

    def save(self, pieces: Sequence[Piece]) -> Sequence[str]:
        """Save what is new, all or nothing; returns the generations that are not there any more."""


class LiveAnswer:
    """One answer from its first chunk until it is saved whole. Thread-safe."""

    def __init__(self, on_edge: Callable[[], None]) -> None:
        """`on_edge` is called at the first chunk and at the last."""
        self.request: Request | None = None
        self.saved = threading.Event()
        self._on_edge = on_edge
        self._lock = threading.Lock()
        self._text: list[str] = []
        self._unsaved: list[Chunk] = []
        self._over = False
        self._readers: list[News] = []

    def hear(self, chunk: Chunk) -> None:
        """Take a chunk (engine's thread)."""
        with self._lock:
            first = not self._text
            self._text.append(chunk.text)
            self._unsaved.append(chunk)
            self._over = chunk.finish_reason is not None
        self._tell()
        if first or self._over:
            self._on_edge()

    @property
    def text(self) -> str:
        """All text so far."""
        with self._lock:
            self._text = ["".join(self._text)]
            return self._text[0]

    @property
    def over(self) -> bool:
        """Whether the engine is done with it (it may not be saved yet)."""
        return self._over

    def unsaved(self) -> list[Chunk]:
        """Chunks that were not saved."""
        with self._lock:
            return list(self._unsaved)

    def saved_up_to(self, count: int) -> None:
        """The first `count` unsaved chunks are saved now."""
        with self._lock:
            del self._unsaved[:count]

    def mark_saved(self) -> None:
        """All of it is saved, or given up."""
        self.saved.set()
        self._tell()

    def _tell(self) -> None:
        for news in tuple(self._readers):
            news.tell()

    def follow(self, offset: int) -> Following:
        """What it says from character `offset` on, until it is saved whole. Called in a loop; `close` it."""
        following = Following(self, offset)
        self._readers.append(following.news)
        return following

    def leave(self, following: Following) -> None:
        """Somebody does not follow it any more."""
        self._readers.remove(following.news)


class Following:
    """One reader of an answer."""

    def __init__(self, answer: LiveAnswer, offset: int) -> None:
        self.news = News()
        self._answer, self._offset = answer, offset
        self._over = False

    @property
    def over(self) -> bool:
        """Whether all of it was read, and it is saved."""
        return self._over

    def more(self) -> tuple[int, str]:
        """(offset, text) since the last time; there may be none."""
        saved, text = self._answer.saved.is_set(), self._answer.text  # in this order: nothing comes once it is saved
        offset = min(self._offset, len(text))
        self._offset, self._over = len(text), saved
        return offset, text[offset:]

    def close(self) -> None:
        """Follow it no more."""
        self._answer.leave(self)


class Kept:
    """An answer with its place: which message it becomes, whose, and when to save it next."""

    def __init__(self, answer: LiveAnswer, message: StoredMessage, actor_id: str, keeper: Keeper) -> None:
        self.answer = answer
        self.actor_id = actor_id
        self.keeper = keeper
        self.message_id = message.id
        self.generation_id = message.generation_id or message.id
        self.save_at = 0.0
        self.retry_at = 0.0
        self._begun: float | None = None

    def save_next(self, now: float) -> None:
        """Something was saved: the next time is once as late again, so that of a young answer little can be lost."""
        self._begun = now if self._begun is None else self._begun
        self.save_at = now + min(SAVE_SECONDS, now - self._begun)

    def due(self, now: float) -> bool:
        """Whether it is time to save."""
        return now >= self.retry_at and (self.answer.over or now >= self.save_at)

    def piece(self, closing: bool) -> tuple[Piece, int]:
        """What is not saved yet, and how many chunks that is. Only a piece with an end ends the answer: those cut short
        by the end of the server stay unfinished, and the next start marks them."""
        over, chunks = self.answer.over and not closing, self.answer.unsaved()
        piece = Piece(
            self.generation_id,
            "".join(chunk.text for chunk in chunks),
            [token for chunk in chunks for token in chunk.token_ids],
            [value for chunk in chunks for value in chunk.logprobs],
            _end(self.answer) if over else None,
        )
        return piece, len(chunks)


class Answers:
    """All answers being written now, and the thread that saves them."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}
        self._wake = threading.Event()
        self._closing = False
        self._recorder = threading.Thread(target=self._run, name="answer-recorder", daemon=True)
        self._recorder.start()

    def begin(self, served: Served, prompt: Prompt, params: SamplingParams, owner: str) -> LiveAnswer:
        """Ask the engine for `owner`. Nothing is saved yet, so a refusal leaves no trace; `keep` or `drop` comes next.

        Raises:
            InvalidInput: no room in the context, among others. Busy: the queue is full.
        """
        answer = LiveAnswer(self._wake.set)
        answer.request = served.submit(prompt, params, owner=owner, on_chunk=answer.hear)
        return answer

    def keep(self, answer: LiveAnswer, message: StoredMessage, actor_id: str, keeper: Keeper) -> None:
        """Save the answer from now on as the content of a message."""
        self._kept[message.id] = Kept(answer, message, actor_id, keeper)
        self._wake.set()

    @staticmethod
    def drop(answer: LiveAnswer) -> None:
        """Stop an answer that was not kept."""
        if answer.request is not None:
            answer.request.abort()

    @property
    def count(self) -> int:
        """How many are being written."""
        return len(self._kept)

    def get(self, message_id: str, actor_id: str | None = None) -> LiveAnswer | None:
        """The answer that is becoming this message, if it still is, and if it is the actor's (None: anybody's)."""
        kept = self._kept.get(message_id)
        return kept.answer if kept is not None and actor_id in (None, kept.actor_id) else None

    def stop(self, message_id: str, seconds: float = 10.0) -> None:
        """Abort an answer and wait until what it said is saved. Does nothing to a finished one."""
        answer = self.get(message_id)
        if answer is not None and answer.request is not None:
            answer.request.abort()
            answer.saved.wait(seconds)

    def stop_all(self, actor_id: str) -> None:
        """Stop every answer that this actor asked for."""
        for message_id in [id for id, kept in tuple(self._kept.items()) if kept.actor_id == actor_id]:
            self.stop(message_id)

    def close(self) -> None:
        """Save what there is and end the thread."""
        self._closing = True
        self._wake.set()
        self._recorder.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            self._wake.wait(LOOK_SECONDS if self._kept else None)
            self._wake.clear()
            closing, now = self._closing, time.monotonic()
            due = [kept for kept in tuple(self._kept.values()) if closing or kept.due(now)]
            for keeper in {kept.keeper for kept in due}:
                self._save([kept for kept in due if kept.keeper is keeper], closing)
            if closing:
                return
            time.sleep(0.01)  # several answers that end in one step are saved in one round

    def _save(self, group: Sequence[Kept], closing: bool) -> None:
        """Save a group with one keeper at once; if that fails, one by one, so that none holds up the others."""
        pieces = [kept.piece(closing) for kept in group]
        wanted = [piece for piece, count in pieces if count or piece.end]
        try:
            gone = set(group[0].keeper.save(wanted)) if wanted else set()
        except Exception as error:
            if len(group) > 1:
                for kept in group:
                    self._save([kept], closing)
                return
            group[0].retry_at = time.monotonic() + RETRY_SECONDS
            log.error("answer %s cannot be saved, trying again: %s", group[0].message_id, error)
            return
        for kept, (piece, count) in zip(group, pieces, strict=True):
            kept.answer.saved_up_to(count)
            if piece.text:
                kept.save_next(time.monotonic())
            if piece.end is not None or kept.generation_id in gone:
                del self._kept[kept.message_id]
                kept.answer.mark_saved()


def _end(answer: LiveAnswer) -> End:
    assert answer.request is not None
    completion = answer.request.result()
    seconds = completion.total_s - (completion.ttft_s or 0.0)
    after_first = completion.generated_tokens - 1
    speed = after_first / seconds if after_first > 0 and seconds > 0 else None
    return End(completion.finish_reason, completion.ttft_s, speed)
