"""The engine: one thread that steps a batch of requests through the model until each has its answer.

Knows requests, versions (the base and LoRA adapters over it) and the order of a step: take in news, schedule, run the
model once, sample, hand out chunks. Does not know chat, messages or HTTP: prompts are token ids.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq

from tutee.engine.blocks import BlockPool
from tutee.engine.door import Door
from tutee.engine.grammar import Grammar, Vocabulary
from tutee.engine.inbox import Errand, Inbox
from tutee.engine.masks import Stuck
from tutee.engine.readout import Readout
from tutee.engine.request import Chunk, Completion, FinishReason, Request, SamplingParams, check_prompt
from tutee.engine.runner import NotFinite, Runner
from tutee.engine.sampler import Sampled
from tutee.engine.scheduler import Scheduled, Scheduler
from tutee.engine.sequence import Sequence, Version, begin
from tutee.engine.speculation import Mode, Speculation
from tutee.engine.stats import Counters, EngineStats
from tutee.engine.tally import Tally
from tutee.engine.versions import Source, Versions
from tutee.errors import InvalidInput, Unavailable
from tutee.model.integers import check_precision
from tutee.model.pretrained import Pretrained

_log = logging.getLogger(__name__)


class Engine:
    """Continuous batching over a paged cache, for one base model and any number of adapters.

    Args:
        model: base model, tokenizer and chat format; used as it is, so a trainer's live weights work
            (`weights_changed`).
        max_batch: most sequences in one step.
        cache_tokens: tokens of keys and values kept in memory.
        version: name of the base; what requests without a version get.
        max_step_tokens: most prompt tokens in one step; beside running streams half of it, their tokens included.
        max_waiting: requests in the queue before `submit` raises `Busy` (`Door`).
        max_adapters: adapters kept in memory of those that can be loaded again (`add_version`).
        speculation: whether likely next tokens are computed ahead (`Speculation`); the answers are the same.
        block_size: tokens in a block of the cache; prefixes are shared in whole blocks.
        precision: of the weights that it multiplies with, a copy: "int8" or "int4"; empty: the model's own.
        autostart: start the thread; otherwise the caller drives `step()` (and `generate` does so itself).
    """

    def __init__(
        self,
        model: Pretrained,
        *,
        max_batch: int = 32,
        cache_tokens: int = 32768,
        version: str = "base",
        max_step_tokens: int = 512,
        max_waiting: int = 1024,
        max_adapters: int = 16,
        speculation: Mode = "auto",
        block_size: int = 16,
        precision: str = "",
        autostart: bool = True,
    ) -> None:
        self._model = model
        self._vocabulary = Vocabulary.of(model)
        num_blocks = -(-cache_tokens // block_size) + 1
        self._precision = check_precision(precision, model.dtype)
        self._runner = Runner(model, num_blocks, block_size, self._precision)
        self._pool = BlockPool(num_blocks, block_size)
        self._door = Door(max_waiting)
        self._speculation = Speculation(speculation)
        self._scheduler = Scheduler(
            self._pool,
            max_batch=max_batch,
            max_step_tokens=max_step_tokens,
            door=self._door,
            speculation=self._speculation,
        )
        # Twice the batch keeps it full without filling the queue that others use.
        self._ahead = min(2 * max_batch, max_waiting)
        self._max_adapters = max_adapters
        self._versions = Versions(Version(version, None, self._pool.new_root()), max_adapters)
        self._arrivals = itertools.count()
        self._counters = Counters()
        self._inbox = Inbox()
        self._thread: threading.Thread | None = None
        if autostart:
            self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
            self._thread.start()

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""
        return min(self._model.config.max_position_embeddings, self._pool.capacity * self._pool.block_size)

    @property
    def versions(self) -> tuple[str, ...]:
        """Names that `submit` accepts now, the base first."""
        return self._versions.names

    @property
    def stats(self) -> EngineStats:
        """A snapshot; the parts may be one step apart."""
        counters = self._counters
        return EngineStats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting) + len(self._inbox.sequences),
            blocks_used=self._pool.held,
            blocks_cached=self._pool.cached,
            blocks_total=self._pool.capacity,
            tokens_per_second=counters.rate(),
            requests_total=counters.requests,
            prompt_tokens_total=counters.prompt_tokens,
            cached_tokens_total=counters.cached_tokens,
            generated_tokens_total=counters.generated.total(),
            preemptions_total=self._scheduler.preemptions,
            steps_total=counters.steps,
            failures_total=counters.failures,
            guessed_tokens_total=self._speculation.guessed,
            accepted_tokens_total=self._speculation.accepted,
            generated_by_version=dict(counters.generated),
            histograms=counters.histograms(),
        )

    def submit(
        self,
        prompt: Seq[int],
        params: SamplingParams,
        *,
        version: str | None = None,
        priority: int = 0,
        owner: str | None = None,
        on_chunk: Callable[[Chunk], None] | None = None,
        readout: Readout | None = None,
    ) -> Request:
        """Queue a prompt and return at once. Lower `priority` numbers are served first (chat 0, background work 10);
        among equals the `owner` (any name) who has been served least.

        `on_chunk` is called from the engine's thread, at most once a step; it must not block. If it raises, the request
        ends with "error" and the others go on.

        `readout` is filled while the prompt is computed (`readout.py`); one readout for each request.

        Raises:
            InvalidInput: an empty prompt, an id outside the vocabulary, no room in the context
            (`context_length_exceeded`), or a grammar that cannot be used. NotFound: no such version. What loading it
            raises.
            Busy: the queue is full, or too full of this owner's requests; says when to come back.
            Unavailable: the engine is closed.
        """
        tokens = [int(token) for token in prompt]
        self._versions.use(version)  # A load must not hold up the engine's thread, which needs the lock below.
        vocabulary = self._vocabulary
        matcher = vocabulary.begin(params.grammar)  # Nor must a grammar.
        with self._inbox.lock:
            if vocabulary is not self._vocabulary:
                matcher = self._vocabulary.begin(params.grammar)
            check_prompt(tokens, params, self._model.config.vocab_size, self.context_length)
            found = self._versions.use(version)
            request = Request(
                tuple(tokens), params, version=found.name, priority=priority, owner=owner, on_chunk=on_chunk
            )
            sequence = begin(request, found, self._model, self.context_length, next(self._arrivals), readout, matcher)
            if not self._inbox.closed:
                self._door.enter(priority, owner)
            self._inbox.put(sequence)
        return request

    def generate(
        self,
        prompts: Seq[Seq[int]],
        params: SamplingParams | Seq[SamplingParams],
        *,
        version: str | None = None,
        n: int = 1,
        priority: int = 10,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Completion]]:
        """`n` completions of every prompt, in order; waits until all are there. Each prompt's prefill is done once.

        Sample i of a seeded prompt gets the seed `params.for_sample(i)`. `progress(done, total)` is called, in the
        caller's thread, as completions finish. Ctrl-C (or an error) aborts what is still running.

        Raises:
            InvalidInput, NotFound: as `submit`; and if there is not one `params` for all or for each prompt.
            Unavailable: a step failed or the engine was closed, so at least one completion is missing.
        """
        each = [params] * len(prompts) if isinstance(params, SamplingParams) else list(params)
        if len(each) != len(prompts) or n < 1:
            raise InvalidInput("'params' must be one, or one for each prompt, and 'n' at least 1.", param="params")
        wanted = [(prompt, p.for_sample(i)) for prompt, p in zip(prompts, each, strict=True) for i in range(n)]
        finished = Tally(len(wanted), progress)
        requests: list[Request] = []
        try:
            for prompt, one in wanted:
                self._until(finished, len(requests) - self._ahead + 1)
                requests.append(
                    self.submit(prompt, one, version=version, priority=priority, on_chunk=finished.on_chunk)
                )
            self._until(finished, len(wanted))
        except BaseException:
            for request in requests:
                request.abort()
            raise
        results = [request.result() for request in requests]
        bad = next((request for request in requests if request.missing), None)
        if bad is not None:
            raise Unavailable(f"A generation did not finish: {bad.error or 'it was aborted'}.")
        return [results[start : start + n] for start in range(0, len(results), n)]

    def add_version(self, version: str, adapter: Source, *, replace: bool = False) -> None:
        """Serve an adapter under a name. Given as a function, it is loaded when it is used and dropped when
        `max_adapters` others were used since. With `replace` the name may be in use: requests made before finish on
        the adapter that it named then.

        Raises:
            InvalidInput: the name is taken.
        """
        self._versions.add(version, adapter, self._pool.new_root(), replace=replace)

    def prepare(self, version: str) -> None:
        """Load a version now, so that the next `submit` need not. Raises as `submit`, and what loading raises."""
        self._versions.use(version)

    def prepare_grammar(self, grammar: Grammar) -> None:
        """Compile a grammar now, so that the next `submit` need not wait for it.

        Raises:
            InvalidInput: it is wrong, or too complex from its first token on.
        """
        self._vocabulary.matcher(grammar)

    def remove_version(self, version: str) -> None:
        """Take no new requests for an adapter; those that it has finish on it, then its memory is freed.

        Raises:
            NotFound: no such version.
            InvalidInput: the base cannot be removed.
        """
        self._versions.remove(version)

    def swap_base(self, model: Pretrained, version: str) -> None:
        """Put other weights in place of the base's, under a new name, and drop the adapters of the old ones.

        Requests made before this call finish on the old weights; those made after it are for the new ones and wait for
        that. Returns when it is done.

        Raises:
            Unavailable: the engine was closed first. MemoryError and the like: the engine has no model and is closed.
        """

        def swap() -> None:
            del self._runner  # Its cache makes room for the next one's.
            try:
                self._runner = Runner(model, self._pool.capacity + 1, self._pool.block_size, self._precision)
            except BaseException:
                self._inbox.close()
                raise
            self._pool.forget_all()

        errand = Errand(swap, drained=True)
        with self._inbox.lock:
            self._inbox.put(errand)
            self._model = model
            self._vocabulary = Vocabulary.of(model)
            self._versions = Versions(Version(version, None, self._pool.new_root()), self._max_adapters)
        self._wait(errand)

    def weights_changed(self) -> None:
        """Forget every cached key and value, because the weights behind them are not the same any more.

        Returns when that is done; running requests go on with the new weights, their past computed again.
        """

        self._between_steps(self._forget)

    def sleep(self) -> None:
        """Give back memory that can be had again: cached keys and values, copies of the weights laid out for speed,
        working memory. For who trains the same weights in this process, between two rounds of sampling.

        Returns when that is done. Running requests lose their past, which is computed again; the engine wakes by itself
        with the next step that has something to do.

        Raises:
            Unavailable: the engine is closed.
        """

        def sleep() -> None:
            self._forget()
            self._runner.sleep()

        self._between_steps(sleep)

    def wake(self) -> None:
        """Take the memory and pack the weights now, so that the next request need not wait for that. Raises as
        `sleep`."""
        self._between_steps(lambda: self._runner.prepare())  # whichever runner it is then

    def _forget(self) -> None:
        self._scheduler.preempt_all()
        self._pool.forget_all()

    def _between_steps(self, action: Callable[[], None]) -> None:
        """Do something in the engine's thread; returns when it is done."""
        if threading.current_thread() is self._thread:
            action()
            return
        errand = Errand(action)
        self._inbox.put(errand)
        self._wait(errand)

    def step(self) -> bool:
        """One step: news in, one forward pass, chunks out. False when there was nothing to do. Called by the thread, or
        by the owner of an engine without one."""
        began = time.perf_counter()
        self._take_news()
        work = self._scheduler.schedule()
        if not work:
            return False
        try:
            sampled, choice = self._runner.run(work)
        except NotFinite as error:
            # The others' step is not counted, so the next one does the same work for them, without these.
            for sequence in error.sequences:
                self._runner.clear(sequence)
                self._fail(sequence, Unavailable(error.message))
            return True
        except Stuck as stuck:
            for stopped, problem in stuck.found:
                self._fail(stopped, problem)
            return True
        except Exception as error:
            _log.exception("A step of %d requests failed", len(work))
            for item in work:
                self._fail(item.sequence, error)
            return True
        for item in work:
            if not item.samples:
                self._scheduler.advance(item)
        chunks, row = [], 0
        for item in sampled:
            rows = choice.part(row, row := row + 1 + len(item.draft))
            chunks.append(self._extend(item, rows))
        # Only now, when the step is in the books: a caller may do anything in `on_chunk`.
        for item, chunk in zip(sampled, chunks, strict=True):
            self._deliver(item.sequence, chunk)
        self._counters.count_step(len(work), sum(len(chunk.token_ids) for chunk in chunks))
        if all(item.count == 1 + len(item.draft) for item in work):
            self._speculation.time(len(work), len(choice.tokens), time.perf_counter() - began)
        return True

    def close(self) -> None:
        """Abort what is running and end the thread. A closed engine raises `Unavailable` on `submit`."""
        self._inbox.close()
        if self._thread is None:
            self._abort_all()
        elif threading.current_thread() is not self._thread:
            self._thread.join()

    def _until(self, finished: Tally, count: int) -> None:
        """Wait for `count` finished requests, stepping ourselves if no thread does."""
        while not finished.wait(count, block=self._thread is not None):
            self.step()

    def _wait(self, errand: Errand) -> None:
        """Until an errand is done, stepping ourselves if no thread does."""
        while self._thread is None and not errand.done.done():
            self.step()
        errand.done.result()

    def _run(self) -> None:
        try:
            self._runner.prepare()
            while self._inbox.wait(lambda: self._unfinished):
                try:
                    self.step()
                except Exception as error:
                    _log.exception("The engine failed outside the model; its requests end")
                    for sequence in self._unfinished:
                        self._fail(sequence, error)
        finally:
            self._inbox.close()
            self._abort_all()

    @property
    def _unfinished(self) -> list[Sequence]:
        return [*self._scheduler.running, *self._scheduler.waiting]

    def _take_news(self) -> None:
        while (news := self._inbox.take(lambda: not self._unfinished)) is not None:
            if isinstance(news, Errand):
                news.run()
            else:
                self._counters.requests += 1
                self._scheduler.add(news)
        for held in self._inbox.take_aborted():
            self._scheduler.add(held)
        for sequence in [sequence for sequence in self._unfinished if sequence.request.aborted]:
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
            self._counters.count_token(sequence, now)
        self._speculation.record(sequence, min(right, new), len(draft))
        self._scheduler.advance(item, min(right, new))
        self._scheduler.generated(sequence, new)
        if chunk.finish_reason is not None:
            self._scheduler.remove(sequence)
        return chunk

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        """End a sequence that has no new token."""
        self._scheduler.remove(sequence)
        chunk = Chunk(sequence.text.finish(), (), sequence.version.name, finish_reason=reason)
        self._deliver(sequence, chunk)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self._counters.failures += 1
        sequence.request.error = error.with_traceback(None)  # Its frames hold the whole batch.
        self._end(sequence, "error")

    def _deliver(self, sequence: Sequence, chunk: Chunk) -> None:
        try:
            sequence.request.deliver(chunk)
        except Exception as error:
            _log.exception("A request's on_chunk raised; the request ends")
            if chunk.finish_reason is None:
                self._fail(sequence, error)

    def _abort_all(self) -> None:
        while (news := self._inbox.take(lambda: True)) is not None:
            if isinstance(news, Errand):
                news.done.set_exception(Unavailable("The engine is closed."))
            else:
                self._scheduler.add(news)
        for sequence in self._unfinished:
            self._end(sequence, "abort")
