"""The engine: requests in, answers out, over a batch that one thread steps through the model (`stepper.py`).

Knows who may ask and for which version (the base and LoRA adapters over it); all its methods may be called from any
thread. Does not know chat, messages or HTTP: prompts are token ids.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from collections.abc import Sequence as Seq

from tutee.engine.blocks import BlockPool
from tutee.engine.door import Door
from tutee.engine.grammar import Grammar, Vocabulary
from tutee.engine.inbox import Errand, Inbox
from tutee.engine.readout import PromptLogprobs, Readout
from tutee.engine.request import Chunk, Completion, Request, SamplingParams, check_prompt
from tutee.engine.runner import Runner
from tutee.engine.sequence import Version, begin
from tutee.engine.speculation import Mode
from tutee.engine.stats import EngineStats
from tutee.engine.stepper import Stepper
from tutee.engine.tally import Tally
from tutee.engine.versions import Source, Versions
from tutee.errors import InvalidInput, Unavailable
from tutee.model.integers import check_precision
from tutee.model.pretrained import Pretrained

_ONE = SamplingParams(max_tokens=1, temperature=0.0)


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
        block_size: tokens in a block of the cache; prefixes are shared in whole blocks. The passes in C take multiples
            of 32; with another size steps run in PyTorch.
        precision: of the weights that it multiplies with, a copy: "int8" or "int4"; empty: the model's own.
        alone: nobody else uses the model's parameters, so those that are packed are given back; the model then serves
            only (`Decoder.keep_packed_only`).
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
        block_size: int = 32,
        precision: str = "",
        alone: bool = False,
        autostart: bool = True,
    ) -> None:
        self._model = model
        self._vocabulary = Vocabulary.of(model)
        pool = BlockPool(-(-cache_tokens // block_size) + 1, block_size)
        runner = Runner(model, pool.capacity + 1, block_size, check_precision(precision, model.dtype), alone)
        self._pool = pool
        self._door = Door(max_waiting)
        self._inbox = Inbox()
        self._stepper = Stepper(
            self._inbox,
            self._door,
            runner,
            pool,
            max_batch=max_batch,
            max_step_tokens=max_step_tokens,
            speculation=speculation,
        )
        # Twice the batch keeps it full without filling the queue that others use.
        self._ahead = min(2 * max_batch, max_waiting)
        self._versions = Versions(Version(version, None, pool.new_root()), max_adapters)
        self._arrivals = itertools.count()
        self._thread: threading.Thread | None = None
        if autostart:
            self._thread = threading.Thread(target=self._stepper.run, name="engine", daemon=True)
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
        return self._stepper.stats

    @property
    def busy(self) -> bool:
        """Whether a request has no whole answer yet."""
        return self._inbox.unanswered > 0

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
        check_prompt(tokens, params, self._model.config.vocab_size, self.context_length)
        # Both may take a while, and must not hold up the engine's thread, which needs the lock below.
        found = self._versions.use(version)
        matcher = self._vocabulary.begin(params.grammar)
        request = Request(tuple(tokens), params, version=found.name, priority=priority, owner=owner, on_chunk=on_chunk)
        sequence = begin(request, found, self._model, self.context_length, next(self._arrivals), readout, matcher)
        with self._inbox.lock:
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
        results = self._answer(
            [prompt for prompt, _ in wanted], [one for _, one in wanted], version, priority, progress
        )
        return [results[start : start + n] for start in range(0, len(results), n)]

    def score(
        self,
        sequences: Seq[Seq[int]],
        *,
        version: str | None = None,
        first: Seq[int] = (),
        priority: int = 10,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[float]]:
        """Log-probs of the tokens of each sequence after its first, in nats, by the pass that samples: what a version
        drew gets the numbers that it was reported with. Waits and raises as `generate`.

        Args:
            first: the first token of each sequence that is scored; empty: token 1. What lies before it may come from
                the cache, so a prompt is computed once for all its answers.
        """
        firsts = first or [1] * len(sequences)
        readouts = [
            PromptLogprobs(first=at, then=tokens[-1] if len(tokens) > 1 else None)
            for tokens, at in zip(sequences, firsts, strict=True)
        ]
        asked = [(tokens[:-1], readout) for tokens, readout in zip(sequences, readouts, strict=True) if len(tokens) > 1]
        prompts, read = [prompt for prompt, _ in asked], [readout for _, readout in asked]
        self._answer(prompts, [_ONE] * len(asked), version, priority, progress, read)
        return [readout.logprobs for readout in readouts]

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

    def weights_changed(self) -> None:
        """Forget every cached key and value, because the weights behind them are not the same any more.

        Returns when that is done; running requests go on with the new weights, their past computed again.
        """

        self._between_steps(self._stepper.forget)

    def sleep(self) -> None:
        """Give back memory that can be had again: cached keys and values, copies of the weights laid out for speed,
        working memory. For who trains the same weights in this process, between two rounds of sampling.

        Returns when that is done. Running requests lose their past, which is computed again; the engine wakes by itself
        with the next step that has something to do.

        Raises:
            Unavailable: the engine is closed.
        """
        self._between_steps(self._stepper.sleep)

    def wake(self) -> None:
        """Take the memory and pack the weights now, so that the next request need not wait for that. Raises as
        `sleep`."""
        self._between_steps(self._stepper.runner.prepare)

    def step(self) -> bool:
        """One step, for the owner of an engine without a thread. False when there was nothing to do."""
        return self._stepper.step()

    def close(self) -> None:
        """Abort what is running, end the thread, give all memory back. A closed engine raises `Unavailable` on
        `submit`."""
        self._inbox.close()
        if self._thread is None:
            self._stepper.abort_all()
        elif threading.current_thread() is not self._thread:
            self._thread.join()

    def _answer(
        self,
        prompts: Seq[Seq[int]],
        params: Seq[SamplingParams],
        version: str | None,
        priority: int,
        progress: Callable[[int, int], None] | None,
        readouts: Seq[Readout | None] = (),
    ) -> list[Completion]:
        """Submit all, a bounded number ahead of what is finished, and wait for them."""
        finished = Tally(len(prompts), progress)
        requests: list[Request] = []
        try:
            for prompt, one, readout in zip(prompts, params, readouts or [None] * len(prompts), strict=True):
                self._until(finished, len(requests) - self._ahead + 1)
                request = self.submit(
                    prompt, one, version=version, priority=priority, on_chunk=finished.on_chunk, readout=readout
                )
                requests.append(request)
            self._until(finished, len(prompts))
        except BaseException:
            for request in requests:
                request.abort()
            raise
        results = [request.result() for request in requests]
        bad = next((request for request in requests if request.missing), None)
        if bad is not None:
            raise Unavailable(f"A generation did not finish: {bad.error or 'it was aborted'}.")
        return results

    def _until(self, finished: Tally, count: int) -> None:
        """Wait for `count` finished requests, stepping ourselves if no thread does."""
        while not finished.wait(count, block=self._thread is not None):
            self.step()

    def _between_steps(self, action: Callable[[], None]) -> None:
        """Have something done by the engine's thread, or ourselves if there is none; returns when it is done."""
        if threading.current_thread() is self._thread:
            action()
            return
        errand = Errand(action)
        self._inbox.put(errand)
        while self._thread is None and not errand.done.done():
            self.step()
        errand.done.result()
