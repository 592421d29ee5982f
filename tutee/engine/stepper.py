"""One step of the engine after the other: take in news, schedule, run the model once, hand out chunks.

Belongs to one thread, the engine's; what others want of it comes through the inbox. Knows who runs and what became of
them; not who may ask, nor what a version is called.
"""

from __future__ import annotations

import logging
import time

from tutee.engine.blocks import BlockPool
from tutee.engine.door import Door
from tutee.engine.inbox import Errand, Inbox
from tutee.engine.masks import Stuck
from tutee.engine.request import Chunk, FinishReason
from tutee.engine.runner import NotFinite, Runner
from tutee.engine.sampler import Sampled
from tutee.engine.scheduler import Scheduled, Scheduler
from tutee.engine.sequence import Sequence
from tutee.engine.speculation import Mode, Speculation
from tutee.engine.stats import Counters, EngineStats
from tutee.errors import Unavailable

_log = logging.getLogger(__name__)


class Stepper:
    """Steps the sequences of an inbox until each has its answer.

    Args:
        door: told who comes in from the queue.
        max_batch: most sequences in one step.
        max_step_tokens: most prompt tokens in one step.
    """

    def __init__(
        self,
        inbox: Inbox,
        door: Door,
        runner: Runner,
        pool: BlockPool,
        *,
        max_batch: int,
        max_step_tokens: int,
        speculation: Mode,
    ) -> None:
        self.runner = runner
        self.pool = pool
        self.speculation = Speculation(speculation)
        self.scheduler = Scheduler(
            pool, max_batch=max_batch, max_step_tokens=max_step_tokens, door=door, speculation=self.speculation
        )
        self.counters = Counters()
        self._inbox = inbox

    @property
    def unfinished(self) -> list[Sequence]:
        """Sequences that were taken in and have no whole answer yet."""
        return [*self.scheduler.running, *self.scheduler.waiting]

    @property
    def stats(self) -> EngineStats:
        """A snapshot, for any thread; the parts may be one step apart."""
        counters = self.counters
        return EngineStats(
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting) + len(self._inbox.sequences),
            blocks_used=self.pool.held,
            blocks_cached=self.pool.cached,
            blocks_total=self.pool.capacity,
            tokens_per_second=counters.rate(),
            requests_total=counters.requests,
            prompt_tokens_total=counters.prompt_tokens,
            cached_tokens_total=counters.cached_tokens,
            generated_tokens_total=counters.generated.total(),
            preemptions_total=self.scheduler.preemptions,
            steps_total=counters.steps,
            failures_total=counters.failures,
            guessed_tokens_total=self.speculation.guessed,
            accepted_tokens_total=self.speculation.accepted,
            generated_by_version=dict(counters.generated),
            histograms=counters.histograms(),
        )

    def run(self) -> None:
        """The thread's work: step while there is something to do, wait while there is not, until the inbox closes."""
        try:
            self.runner.prepare()
            while self._inbox.wait(lambda: self.unfinished):
                try:
                    self.step()
                except Exception as error:
                    _log.exception("The engine failed outside the model; its requests end")
                    for sequence in self.unfinished:
                        self._fail(sequence, error)
        finally:
            self._inbox.close()
            self.abort_all()

    def step(self) -> bool:
        """One step. False when there was nothing to do."""
        self._take_news()
        work = self.scheduler.schedule()
        if work:
            self._do(work)
        return bool(work)

    def _do(self, work: list[Scheduled]) -> None:
        began = time.perf_counter()
        try:
            sampled, choice = self.runner.run(work)
        except NotFinite as error:
            # The others' step is not counted, so the next one does the same work for them, without these.
            for sequence in error.sequences:
                self._fail_cleanly(sequence, Unavailable(error.message))
            return
        except Stuck as stuck:
            for stopped, problem in stuck.found:
                self._fail(stopped, problem)
            return
        except Exception as error:
            self._do_one_by_one(work, error)
            return
        for item in work:
            if not item.samples:
                self.scheduler.advance(item)
        chunks, row = [], 0
        for item in sampled:
            rows = choice.part(row, row := row + 1 + len(item.draft))
            chunks.append(self._extend(item, rows))
        # Only now, when the step is in the books: a caller may do anything in `on_chunk`.
        for item, chunk in zip(sampled, chunks, strict=True):
            self._deliver(item.sequence, chunk)
        self.counters.count_step(len(work), sum(len(chunk.token_ids) for chunk in chunks))
        if all(item.count == 1 + len(item.draft) for item in work):
            self.speculation.time(len(work), len(choice.tokens), time.perf_counter() - began)

    def _do_one_by_one(self, work: list[Scheduled], error: Exception) -> None:
        """Nobody knows whose fault it was that the step failed: each does its part alone, and who fails alone ends."""
        _log.error("A step of %d requests failed", len(work), exc_info=error)
        if len(work) == 1:
            self._fail_cleanly(work[0].sequence, error)
            return
        for item in work:
            self._do([item])

    def forget(self) -> None:
        """Forget every cached key and value; running sequences compute their past again."""
        self.scheduler.preempt_all()
        self.pool.forget_all()

    def sleep(self) -> None:
        """Forget, and give the memory back until the next step that has work."""
        self.forget()
        self.runner.sleep()

    def abort_all(self) -> None:
        """End everybody and give the memory back: nothing comes after this."""
        while (news := self._inbox.take()) is not None:
            if isinstance(news, Errand):
                news.done.set_exception(Unavailable("The engine is closed."))
            else:
                self.scheduler.add(news)
        for sequence in self.unfinished:
            self._end(sequence, "abort")
        self.sleep()

    def _take_news(self) -> None:
        while (news := self._inbox.take()) is not None:
            if isinstance(news, Errand):
                news.run()
            else:
                self.counters.requests += 1
                self.scheduler.add(news)
        for sequence in [sequence for sequence in self.unfinished if sequence.request.aborted]:
            self._end(sequence, "abort")

    def _extend(self, item: Scheduled, rows: Sampled) -> Chunk:
        """Append to a sequence what was sampled after its last token and after each rightly guessed one, and take it
        out if it ends there."""
        sequence, draft = item.sequence, item.draft
        wrong = (place for place, guess in enumerate(draft) if guess != rows.tokens[place])
        right = next(wrong, len(draft))
        chunk = sequence.extend(rows.part(0, right + 1))
        new, now = len(chunk.token_ids), time.monotonic()
        for _ in chunk.token_ids:
            self.counters.count_token(sequence, now)
        self.speculation.record(sequence, min(right, new), len(draft))
        self.scheduler.advance(item, min(right, new))
        self.scheduler.generated(sequence, new)
        if chunk.finish_reason is not None:
            self._remove(sequence)
        return chunk

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        """End a sequence that has no new token."""
        self._remove(sequence)
        chunk = Chunk(sequence.text.finish(), (), sequence.version.name, finish_reason=reason)
        self._deliver(sequence, chunk)

    def _remove(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)
        self._inbox.ended()

    def _fail_cleanly(self, sequence: Sequence, error: Exception) -> None:
        self.runner.clear(sequence)
        self._fail(sequence, error)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self.counters.failures += 1
        sequence.request.error = error.with_traceback(None)  # Its frames hold the whole batch.
        self._end(sequence, "error")

    def _deliver(self, sequence: Sequence, chunk: Chunk) -> None:
        try:
            sequence.request.deliver(chunk)
        except Exception as error:
            _log.exception("A request's on_chunk raised; the request ends")
            if chunk.finish_reason is None:
                self._fail(sequence, error)
