"""What is asked of the engine and what it answers: sampling parameters, chunks, completions, and the handle of a
request.

Knows how each sampling parameter is checked and what a caller may do with a running request (read it, wait for it,
stop it). Does not know how tokens are scheduled (`scheduler.py`), chosen (`sampler.py`) or turned into text
(`text.py`).
"""

from __future__ import annotations

import itertools
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from tutee.engine.grammar import Grammar
from tutee.errors import InvalidInput

FinishReason = Literal["stop", "length", "abort", "error"]
TopLogprobs = tuple[tuple[int, float], ...]
"""The most likely (token id, log-prob) pairs at one position, best first."""

MAX_STOP_STRINGS = 16
MAX_TOP_LOGPROBS = 100


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen, and when to stop. A value out of range raises `InvalidInput` naming the parameter.

    The distribution is built in this order: repetition penalty, presence and frequency penalties, logit bias, what the
    grammar forbids, temperature, top-k and min-p, then top-p over what those left. Ties at a cut stay in, so a cut
    never depends on the order of the vocabulary.
    """

    temperature: float = 1.0
    """0 (or less than a millionth) is greedy: the most likely token, no randomness."""
    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose probabilities reach this sum (Holtzman et al. 2020)."""
    top_k: int = 0
    """Keep this many most likely tokens; 0 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as likely as the most likely one (Nguyen et al. 2024)."""
    presence_penalty: float = 0.0
    """Subtracted once from the logit of every token already generated."""
    frequency_penalty: float = 0.0
    """Subtracted from a generated token's logit once per occurrence."""
    repetition_penalty: float = 1.0
    """Divides positive (multiplies negative) logits of tokens in the prompt or the answer (Keskar et al. 2019)."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of single token ids; -100 forbids in effect, 100 forces."""
    seed: int | None = None
    """Same seed, same model, same prompt: same text, whatever else is in the batch. None draws a fresh seed."""
    max_tokens: int | None = None
    """Most tokens to generate; None goes on to the end of the context."""
    min_tokens: int = 0
    """End tokens are impossible and stop strings ignored before this many tokens."""
    stop: tuple[str, ...] = ()
    """Generation ends before the first of these strings; the string itself is not part of the text."""
    ignore_eos: bool = False
    """Go on after an end token (for benchmarks of fixed length)."""
    logprobs: int | None = None
    """None: no log-probs. 0: of the sampled tokens. k: also of the k most likely tokens at each position."""
    grammar: Grammar | None = None
    """The form that the answer must have; None lets it say anything."""
    spoken: tuple[int, ...] = ()
    """Special tokens that are text of the answer all the same (calls of functions are written with some)."""

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0.0, 2.0)
        _check_number("top_p", self.top_p, 0.0, 1.0)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_number("repetition_penalty", self.repetition_penalty, 0.01, 10.0)
        _check_whole("top_k", self.top_k, 0)
        _check_whole("min_tokens", self.min_tokens, 0)
        if self.max_tokens is not None:
            _check_whole("max_tokens", self.max_tokens, 1)
            if self.min_tokens > self.max_tokens:
                raise InvalidInput(
                    f"'min_tokens' ({self.min_tokens}) must not be above 'max_tokens' ({self.max_tokens}).",
                    param="min_tokens",
                    code="invalid_value",
                )
        if self.seed is not None:
            _check_whole("seed", self.seed, -(2**63), 2**63 - 1)
        if self.logprobs is not None:
            _check_whole("logprobs", self.logprobs, 0, MAX_TOP_LOGPROBS)
        for token, bias in self.logit_bias.items():
            _check_whole("logit_bias", token, 0)
            _check_number("logit_bias", bias, -100.0, 100.0)
        self._check_stop()
        if self.grammar is not None:
            for name, value in (("ignore_eos", self.ignore_eos), ("min_tokens", self.min_tokens)):
                if value:
                    message = f"'{name}' cannot be combined with '{self.grammar.param}', which says where answers end."
                    raise InvalidInput(message, param=name, code="invalid_value")

    def _check_stop(self) -> None:
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise InvalidInput("'stop' must be non-empty strings.", param="stop", code="invalid_type")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidInput(
                f"'stop' holds {len(self.stop)} strings; at most {MAX_STOP_STRINGS} are allowed.",
                param="stop",
                code="array_above_max_length",
            )

    def for_sample(self, index: int) -> SamplingParams:
        """The parameters of sample `index` of a group: the same, with a seed of its own (the first keeps the given
        one)."""
        if self.seed is None or index == 0:
            return self
        return replace(self, seed=self.seed + index if self.seed + index < 2**63 else self.seed + index - 2**64)


def check_prompt(tokens: Sequence[int], params: SamplingParams, vocabulary: int, context_length: int) -> None:
    """Raises `InvalidInput` for what a model with this vocabulary and context cannot answer."""
    if not tokens:
        raise InvalidInput("The prompt is empty.", param="prompt", code="invalid_value")
    if min(tokens) < 0 or max(tokens) >= vocabulary:
        raise InvalidInput(f"The prompt holds a token id outside 0…{vocabulary - 1}.", param="prompt")
    if len(tokens) >= context_length:
        raise InvalidInput(
            f"The prompt has {len(tokens)} tokens; prompt and answer share a context of {context_length}.",
            param="messages",
            code="context_length_exceeded",
        )
    if any(token >= vocabulary for token in params.logit_bias):
        raise InvalidInput(f"'logit_bias' names a token id outside 0…{vocabulary - 1}.", param="logit_bias")


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidInput(f"'{name}' must be a number.", param=name, code="invalid_type")
    _check_range("decimal", name, value, low, high)


def _check_whole(name: str, value: object, low: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(f"'{name}' must be a whole number.", param=name, code="invalid_type")
    _check_range("integer", name, value, low, high)


def _check_range(kind: str, name: str, value: float, low: float, high: float | None) -> None:
    if value < low:
        code = f"{kind}_below_min_value"
        raise InvalidInput(f"'{name}' is {value}; it must be at least {low}.", param=name, code=code)
    if high is not None and value > high:
        code = f"{kind}_above_max_value"
        raise InvalidInput(f"'{name}' is {value}; it must be at most {high}.", param=name, code=code)


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one step gave one request.

    `text` may be empty while a code point is incomplete or a stop string may be beginning; `token_ids` never waits. End
    tokens and the tokens of a stop string are in `token_ids` (a trainer needs them) but not in `text`. `logprobs` are
    the model's own (temperature 1, no penalty, nothing cut off), one per token, the number that
    `model.logprobs.score` gives.
    """

    text: str
    token_ids: tuple[int, ...]
    version: str
    logprobs: tuple[float, ...] = ()
    top_logprobs: tuple[TopLogprobs, ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A finished answer: its chunks put together, and where its time went."""

    text: str
    token_ids: tuple[int, ...]
    version: str
    finish_reason: FinishReason
    logprobs: tuple[float, ...]
    top_logprobs: tuple[TopLogprobs, ...]
    prompt_tokens: int
    generated_tokens: int
    """As many as `token_ids`, except where another server answered and sent text alone."""
    cached_tokens: int
    """Prompt tokens whose keys and values were taken from the prefix cache."""
    ttft_s: float | None
    """Seconds from submission to the first token; None when there was none."""
    total_s: float


class Request:
    """The caller's end of a running generation: iterate over its chunks, wait for its completion, or abort it.

    All methods may be called from any thread. Iterating twice replays from the first chunk.
    """

    def __init__(
        self,
        prompt: tuple[int, ...],
        params: SamplingParams,
        *,
        version: str,
        priority: int = 0,
        owner: str | None = None,
        on_chunk: Callable[[Chunk], None] | None = None,
    ) -> None:
        self.prompt = prompt
        self.params = params
        self.version = version
        self.priority = priority
        self.owner = owner
        self.seed = params.seed if params.seed is not None else secrets.randbits(63)
        """The seed in use, also when none was asked for: with it the answer can be made again."""
        self.prompt_tokens = len(prompt)
        self.generated_tokens: int | None = None
        """None: count the ids. What another server counted, where there are none."""
        self.cached_tokens = 0
        self.error: Exception | None = None
        self.aborted = False
        self._on_chunk = on_chunk
        self._chunks: list[Chunk] = []
        self._news = threading.Condition()
        self._awaited = False
        self.submitted_at = time.monotonic()
        self._first_token: float | None = None
        self._finished: float | None = None

    @property
    def done(self) -> bool:
        """Whether the last chunk is there."""
        return self._finished is not None

    @property
    def missing(self) -> bool:
        """Whether it ended without an answer that can be used (failed or aborted)."""
        return self.done and self._chunks[-1].finish_reason in ("error", "abort")

    def abort(self) -> None:
        """Stop as soon as the current step ends; the last chunk then says "abort". Does nothing to a finished
        request."""
        self.aborted = True

    def result(self, timeout: float | None = None) -> Completion:
        """Wait for the end and return the whole answer.

        Raises:
            TimeoutError: it did not end within `timeout` seconds (it keeps running).
        """
        if not self._wait(lambda: self.done, timeout):
            raise TimeoutError(f"The request did not finish within {timeout} seconds.")
        finish_reason = self._chunks[-1].finish_reason
        assert finish_reason is not None
        assert self._finished is not None
        token_ids = tuple(token for chunk in self._chunks for token in chunk.token_ids)
        return Completion(
            text="".join(chunk.text for chunk in self._chunks),
            token_ids=token_ids,
            version=self.version,
            finish_reason=finish_reason,
            logprobs=tuple(value for chunk in self._chunks for value in chunk.logprobs),
            top_logprobs=tuple(top for chunk in self._chunks for top in chunk.top_logprobs),
            prompt_tokens=self.prompt_tokens,
            generated_tokens=len(token_ids) if self.generated_tokens is None else self.generated_tokens,
            cached_tokens=self.cached_tokens,
            ttft_s=None if self._first_token is None else self._first_token - self.submitted_at,
            total_s=self._finished - self.submitted_at,
        )

    def __iter__(self) -> Iterator[Chunk]:
        for position in itertools.count():
            self._wait(lambda: len(self._chunks) > position)  # noqa: B023 (called before the next turn)
            yield self._chunks[position]
            if self._chunks[position].finish_reason is not None:
                return

    def _wait(self, there: Callable[[], bool], timeout: float | None = None) -> bool:
        """Until what only `deliver` changes is so; False: it was not within `timeout` seconds."""
        if there():
            return True
        with self._news:
            self._awaited = True  # before looking: `deliver` puts its chunk there before it looks for us
            return self._news.wait_for(there, timeout)

    def deliver(self, chunk: Chunk) -> None:
        """Hand over one chunk (the engine's side). What the caller's `on_chunk` raises comes through, after
        delivery."""
        if self._first_token is None and (chunk.token_ids or chunk.text):
            self._first_token = time.monotonic()
        self._chunks.append(chunk)
        if chunk.finish_reason is not None:
            self._finished = time.monotonic()
        if self._awaited:  # hardly ever while an answer is told: the lock would cost half of all this
            with self._news:
                self._news.notify_all()
        if self._on_chunk is not None:
            self._on_chunk(chunk)
