"""The engine: one thread that steps a batch of requests through the model until each has its answer.

Knows requests, versions (the base and LoRA adapters over it) and the order of a step: take in news, schedule, run the
model once, sample, hand out chunks. Does not know chat, messages or HTTP: prompts are token ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tutee.engine.request import Chunk, Completion, Request, SamplingParams

if TYPE_CHECKING:
    from tutee.model.lora import Lora
    from tutee.model.pretrained import Pretrained


@dataclass(frozen=True, slots=True)
class EngineStats:
    """One moment of the engine, for metrics; totals count from its start."""

    running: int
    waiting: int
    blocks_used: int
    blocks_total: int
    tokens_per_second: float
    """Generated tokens, over the last few seconds."""
    prompt_tokens_total: int
    cached_tokens_total: int
    generated_tokens_total: int
    requests_total: int
    preemptions_total: int
    steps_total: int


class Engine:
    """Continuous batching over a paged cache, for one base model and any number of adapters.

    Args:
        model: base model, tokenizer and chat format.
        max_batch: most sequences in one step.
        cache_tokens: tokens of keys and values kept in memory.
        version: name of the base; what requests without a version get.
        max_step_tokens: most tokens in one step: the size of a prefill chunk beside running streams.
        max_waiting: requests in the queue before `submit` raises `Busy`.
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
        autostart: bool = True,
    ) -> None:
        raise NotImplementedError

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""
        raise NotImplementedError

    @property
    def versions(self) -> tuple[str, ...]:
        """Names that `submit` accepts now, the base first."""
        raise NotImplementedError

    @property
    def stats(self) -> EngineStats:
        raise NotImplementedError

    def submit(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        version: str | None = None,
        priority: int = 0,
        on_chunk: Callable[[Chunk], None] | None = None,
    ) -> Request:
        """Queue a prompt and return at once. Lower `priority` numbers are served first (chat 0, background work 10).

        `on_chunk` is called from the engine's thread, at most once a step; it must not block.

        Raises:
            InvalidInput: an empty prompt, an id outside the vocabulary, or no room in the context (`context_length_exceeded`).
            NotFound: no such version.
            Busy: the queue is full.
            Unavailable: the engine is closed.
        """
        raise NotImplementedError

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams],
        *,
        version: str | None = None,
        n: int = 1,
        priority: int = 10,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Completion]]:
        """`n` completions of every prompt, in order; waits until all are there. Each prompt's prefill is done once.

        `progress(done, total)` is called as completions finish. Ctrl-C (or an error) aborts what is still running.

        Raises:
            Unavailable: a step failed, so at least one completion is missing.
        """
        raise NotImplementedError

    def add_version(self, version: str, lora: Lora) -> None:
        """Serve an adapter under a name, from the next step on. Raises InvalidInput if the name is taken."""
        raise NotImplementedError

    def remove_version(self, version: str) -> None:
        """Take no new requests for an adapter; those running finish on it, then its memory is freed.

        Raises:
            NotFound: no such version.
            InvalidInput: the base cannot be removed.
        """
        raise NotImplementedError

    def weights_changed(self) -> None:
        """Forget every cached key and value, because the weights behind them are not the same any more."""
        raise NotImplementedError

    def step(self) -> bool:
        """Run one step by hand (`autostart=False` only); False when there was nothing to do."""
        raise NotImplementedError

    def close(self) -> None:
        """Abort what is running and end the thread. A closed engine raises `Unavailable` on `submit`."""
        raise NotImplementedError
