"""A request on its way through the engine: its tokens, how far the cache has them, and what its sampler remembers.

Knows the state of one generation and nothing of others. Belongs to the thread that steps the engine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tutee.engine.request import Request
from tutee.engine.sampler import SamplerState
from tutee.engine.text import TextStream
from tutee.model.lora import Lora


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """Weights that a request runs on: the base (`lora` None) or an adapter over it. `root` starts its cached
    prefixes."""

    name: str
    lora: Lora | None
    root: int


@dataclass(slots=True, eq=False)
class Sequence:
    """One generation. `tokens` is the prompt and what was sampled; the cache holds the first `computed` of them."""

    request: Request
    version: Version
    sampler: SamplerState
    text: TextStream
    arrival: int
    stop_ids: frozenset[int]
    max_length: int
    """Tokens of prompt and answer after which it must stop."""
    tokens: list[int]
    prompt_length: int
    computed: int = 0
    reused: int = 0
    """Leading tokens whose keys and values lie in blocks found in the cache, shared with others: never written
    again."""
    blocks: list[int] = field(default_factory=list)
    contents: list[int] = field(default_factory=list)
    """Content numbers of the announced leading blocks."""
    admitted_before: bool = False
    admitted_at: float = 0.0
    """Monotonic seconds of the first time that it was admitted."""
    last_token_at: float | None = None

    @property
    def rank(self) -> tuple[int, int]:
        """Order of service: priority, then arrival."""
        return self.request.priority, self.arrival

    @property
    def remaining(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        return len(self.tokens) - self.computed

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length
