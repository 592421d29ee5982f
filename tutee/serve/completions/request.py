"""What a client asks of a legacy completion: the body checked field by field, before anything runs.

Does not know which models exist; does not run anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tutee.engine.request import SamplingParams
from tutee.serve.body import Fields
from tutee.serve.chat.request import INT32, LABELS, MOST_CHOICES, read_include_usage, read_sampling
from tutee.serve.completions.prompts import Bare, read_prompts

MOST_PROMPTS = 2048
MOST_REQUESTS = 4096
"""Prompts times candidates of one request."""
MOST_LOGPROBS = 20
"""OpenAI serves 5; those who score models ask for more."""
MOST_BEST_OF = 20
DEFAULT_MAX_TOKENS = 16

NOT_SERVED: Mapping[str, Sequence[Any]] = {"suffix": ("",), "prompt_logprobs": (), "use_beam_search": (False,)}
"""Fields of OpenAI's API, or of vLLM's, that this server refuses, each with the values that ask for nothing."""


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A checked body."""

    model: str
    prompts: list[Bare]
    params: SamplingParams
    """Its `max_tokens` is at least 1: the engine always draws a token."""
    max_tokens: int
    """What was asked for; 0 wants the prompt alone, with `echo`."""
    n: int
    best_of: int
    echo: bool
    logprobs: int | None
    stream: bool
    include_usage: bool

    @property
    def candidates(self) -> list[SamplingParams]:
        """One set of parameters a candidate of a prompt, with seeds of their own."""
        return [self.params.for_sample(index) for index in range(self.best_of)]


def read_completion_request(body: Fields) -> CompletionRequest:
    """Check a completion's body.

    Raises:
        InvalidInput: naming the field at fault.
    """
    model = body.need_string("model")
    prompts = read_prompts(body, "prompt", most=MOST_PROMPTS)
    stream = body.boolean("stream") or False
    echo = body.boolean("echo") or False
    logprobs = body.integer("logprobs", 0, MOST_LOGPROBS)
    max_tokens = body.integer("max_tokens", 0, INT32)
    max_tokens = DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens
    if max_tokens == 0 and not echo:
        body.refuse("max_tokens", "is 0, which leaves nothing to say without 'echo': true", "integer_below_min_value")
    n, best_of = _counts(body, stream, len(prompts))
    body.unsupported(NOT_SERVED)
    for name in LABELS:
        body.string(name, most=512)
    # The best of several is the one with the highest log-prob a token, so they are needed for the choice.
    needed = 0 if logprobs is None and best_of > n else logprobs
    params = read_sampling(body, logprobs=needed, max_tokens=max(1, max_tokens))
    include_usage = read_include_usage(body, stream)
    body.close()
    return CompletionRequest(
        model=model,
        prompts=prompts,
        params=replace(params, min_tokens=0) if max_tokens == 0 else params,
        max_tokens=max_tokens,
        n=n,
        best_of=best_of,
        echo=echo,
        logprobs=logprobs,
        stream=stream,
        include_usage=include_usage,
    )


def _counts(body: Fields, stream: bool, prompts: int) -> tuple[int, int]:
    """(n, best_of)."""
    n = body.integer("n", 1, MOST_CHOICES) or 1
    best_of = body.integer("best_of", 1, MOST_BEST_OF) or n
    if best_of < n:
        body.refuse("best_of", f"is {best_of}; it must be at least 'n', which is {n}", "invalid_value")
    if best_of > n and stream:
        body.refuse("best_of", "must be equal to 'n' with 'stream': true", "invalid_value")
    if prompts * best_of > MOST_REQUESTS:
        message = f"asks for {prompts * best_of} completions; at most {MOST_REQUESTS} are allowed"
        body.refuse("prompt", message, "array_above_max_length")
    return n, best_of
