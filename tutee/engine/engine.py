"""The engine: one thread that steps a batch of requests through the model until each has its answer.

Knows requests, versions (the base and LoRA adapters over it) and the order of a step: take in news, schedule, run the
model once, sample, hand out chunks. Does not know chat, messages or HTTP: prompts are token ids.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq

from tutee.engine.blocks import BlockPool
from tutee.engine.request import Chunk, Completion, FinishReason, Request, SamplingParams, TopLogprobs
from tutee.engine.runner import NotFinite, Runner
from tutee.engine.sampler import SamplerState
from tutee.engine.scheduler import Scheduler
from tutee.engine.sequence import Sequence, Version
from tutee.engine.stats import Counters, EngineStats
from tutee.engine.tally import Tally
from tutee.engine.text import TextStream
from tutee.errors import Busy, InvalidInput, NotFound, Unavailable
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained
from tutee.model.tokenizer import Detokenizer

_log = logging.getLogger(__name__)


class Engine:
    """Continuous batching over a paged cache, for one base model and any number of adapters.

    Args:
        model: base model, tokenizer and chat format; used as it is, so a trainer's live weights work
            (`weights_changed`).
        max_batch: most sequences in one step.
        cache_tokens: tokens of keys and values kept in memory.
        version: name of the base; what requests without a version get.
        max_step_tokens: most tokens in one step: the size of a piece of prompt beside running streams.
        max_waiting: requests in the queue before `submit` raises `Busy`.
        block_size: tokens in a block of the cache; prefixes are shared in whole blocks.
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
        block_size: int = 16,
        autostart: bool = True,
    ) -> None:
        self._model = model
        num_blocks = -(-cache_tokens // block_size) + 1
        self._runner = Runner(model, num_blocks, block_size)
        self._pool = BlockPool(num_blocks, block_size)
        self._scheduler = Scheduler(self._pool, max_batch=max_batch, max_step_tokens=max_step_tokens)
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._base = Version(version, None, self._pool.new_root())
        self._versions = {version: self._base}
        self._arrivals = itertools.count()
        self._counters = Counters()
        self._news = threading.Condition()
        self._inbox: deque[Sequence] = deque()
        self._errands: deque[tuple[Callable[[], None], threading.Event]] = deque()
        self._closed = False
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
        return tuple(self._versions)

    @property
    def stats(self) -> EngineStats:
        """A snapshot; the parts may be one step apart."""
        counters = self._counters
        return EngineStats(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting) + len(self._inbox),
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
        on_chunk: Callable[[Chunk], None] | None = None,
    ) -> Request:
        """Queue a prompt and return at once. Lower `priority` numbers are served first (chat 0, background work 10).

        `on_chunk` is called from the engine's thread, at most once a step; it must not block. If it raises, the request
        ends with "error" and the others go on.

        Raises:
            InvalidInput: an empty prompt, an id outside the vocabulary, or no room in the context
            (`context_length_exceeded`). NotFound: no such version.
            Busy: the queue is full.
            Unavailable: the engine is closed.
        """
        tokens = [int(token) for token in prompt]
        self._check(tokens, params)
        found = self._base if version is None else self._versions.get(version)
        if found is None:
            raise NotFound(f"The model {version!r} is not loaded.", param="model", code="model_not_found")
        request = Request(tuple(tokens), params, version=found.name, priority=priority, on_chunk=on_chunk)
        sequence = self._sequence(request, found, tokens)
        with self._news:
            if self._closed:
                raise Unavailable("The engine is closed.")
            if len(self._inbox) + len(self._scheduler.waiting) >= self._max_waiting:
                raise Busy(f"{self._max_waiting} requests are waiting already; try again later.")
            self._inbox.append(sequence)
            self._news.notify_all()
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
                # Twice the batch keeps it full without filling the queue that others use.
                self._until(finished, len(requests) - 2 * self._max_batch + 1)
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

    def add_version(self, version: str, lora: Lora) -> None:
        """Serve an adapter under a name, from the next step on. Raises InvalidInput if the name is taken."""
        with self._news:
            if version in self._versions:
                raise InvalidInput(f"The version {version!r} is loaded already.", param="version", code="invalid_value")
            self._versions[version] = Version(version, lora, self._pool.new_root())

    def remove_version(self, version: str) -> None:
        """Take no new requests for an adapter; those running finish on it, then its memory is freed.

        Raises:
            NotFound: no such version.
            InvalidInput: the base cannot be removed.
        """
        with self._news:
            if version == self._base.name:
                raise InvalidInput("The base cannot be removed from its engine.", param="version", code="invalid_value")
            if self._versions.pop(version, None) is None:
                raise NotFound(f"The version {version!r} is not loaded.", param="version", code="model_not_found")

    def weights_changed(self) -> None:
        """Forget every cached key and value, because the weights behind them are not the same any more.

        Returns when that is done; running requests go on with the new weights, their past computed again.
        """

        def forget() -> None:
            self._scheduler.preempt_all()
            self._pool.forget_all()

        if self._thread is None or threading.current_thread() is self._thread:
            forget()
            return
        done = threading.Event()
        with self._news:
            if self._closed:
                raise Unavailable("The engine is closed.")
            self._errands.append((forget, done))
            self._news.notify_all()
        done.wait()

    def step(self) -> bool:
        """One step: news in, one forward pass, chunks out. False when there was nothing to do. Called by the thread, or
        by the owner of an engine without one."""
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
                self._fail(sequence, error)
            return True
        except Exception as error:
            _log.exception("A step of %d requests failed", len(work))
            for item in work:
                self._fail(item.sequence, error)
            return True
        self._scheduler.computed(work)
        self._counters.count_step(len(work), len(sampled))
        for item, token, logprob, top in zip(sampled, choice.tokens, choice.logprobs, choice.top_logprobs, strict=True):
            self._extend(item.sequence, token, logprob, top)
        return True

    def close(self) -> None:
        """Abort what is running and end the thread. A closed engine raises `Unavailable` on `submit`."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        if self._thread is None:
            self._abort_all()
        elif threading.current_thread() is not self._thread:
            self._thread.join()

    def _check(self, tokens: list[int], params: SamplingParams) -> None:
        vocabulary = self._model.config.vocab_size
        if not tokens:
            raise InvalidInput("The prompt is empty.", param="prompt", code="invalid_value")
        if min(tokens) < 0 or max(tokens) >= vocabulary:
            raise InvalidInput(f"The prompt holds a token id outside 0…{vocabulary - 1}.", param="prompt")
        if len(tokens) >= self.context_length:
            raise InvalidInput(
                f"The prompt has {len(tokens)} tokens; prompt and answer share a context of {self.context_length}.",
                param="messages",
                code="context_length_exceeded",
            )
        if any(token >= vocabulary for token in params.logit_bias):
            raise InvalidInput(f"'logit_bias' names a token id outside 0…{vocabulary - 1}.", param="logit_bias")

    def _sequence(self, request: Request, version: Version, tokens: list[int]) -> Sequence:
        params = request.params
        ends = self._model.chat_format.stop_ids
        length = self.context_length if params.max_tokens is None else len(tokens) + params.max_tokens
        return Sequence(
            request=request,
            version=version,
            sampler=SamplerState(params, request.seed, tokens, ends),
            text=TextStream(Detokenizer(self._model.tokenizer), params.stop),
            arrival=next(self._arrivals),
            stop_ids=frozenset() if params.ignore_eos else ends,
            max_length=min(length, self.context_length),
            tokens=tokens,
            prompt_length=len(tokens),
        )

    def _until(self, finished: Tally, count: int) -> None:
        """Wait for `count` finished requests, stepping ourselves if no thread does."""
        while not finished.wait(count, block=self._thread is not None):
            self.step()

    def _run(self) -> None:
        try:
            while True:
                with self._news:
                    self._news.wait_for(lambda: self._closed or self._inbox or self._errands or self._unfinished)
                    if self._closed:
                        return
                try:
                    self.step()
                except Exception as error:
                    _log.exception("The engine failed outside the model; its requests end")
                    for sequence in self._unfinished:
                        self._fail(sequence, error)
        finally:
            self._closed = True
            self._abort_all()

    @property
    def _unfinished(self) -> list[Sequence]:
        return self._scheduler.running + self._scheduler.waiting

    def _take_news(self) -> None:
        while self._errands:
            errand, done = self._errands.popleft()
            errand()
            done.set()
        while self._inbox:
            sequence = self._inbox.popleft()
            self._counters.requests += 1
            self._scheduler.add(sequence)
        for sequence in [sequence for sequence in self._unfinished if sequence.request.aborted]:
            self._end(sequence, "abort")

    def _extend(self, sequence: Sequence, token: int, logprob: float | None, top: TopLogprobs) -> None:
        """Append one sampled token, and end the sequence if it ends here."""
        params = sequence.request.params
        self._counters.count_token(sequence, time.monotonic())
        sequence.tokens.append(token)
        sequence.sampler.accept(token)
        reason: FinishReason | None = None
        if token in sequence.stop_ids:
            text, reason = sequence.text.finish(), "stop"
        else:
            text = sequence.text.push(token, look_for_stop=sequence.generated >= params.min_tokens)
            if sequence.text.stopped:
                reason = "stop"
            elif len(sequence.tokens) >= sequence.max_length:
                text, reason = text + sequence.text.finish(), "length"
        if reason is not None:
            self._scheduler.remove(sequence)
        chunk = Chunk(
            text=text,
            token_ids=(token,),
            version=sequence.version.name,
            logprobs=() if logprob is None else (logprob,),
            top_logprobs=(top,) if params.logprobs else (),
            finish_reason=reason,
        )
        self._deliver(sequence, chunk)

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        """End a sequence that has no new token."""
        self._scheduler.remove(sequence)
        chunk = Chunk(sequence.text.finish(), (), sequence.version.name, finish_reason=reason)
        self._deliver(sequence, chunk)

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self._counters.failures += 1
        sequence.request.error = error
        self._end(sequence, "error")

    def _deliver(self, sequence: Sequence, chunk: Chunk) -> None:
        try:
            sequence.request.deliver(chunk)
        except Exception as error:
            _log.exception("A request's on_chunk raised; the request ends")
            if chunk.finish_reason is None:
                self._fail(sequence, error)

    def _abort_all(self) -> None:
        self._take_news()
        for sequence in self._unfinished:
            self._end(sequence, "abort")
