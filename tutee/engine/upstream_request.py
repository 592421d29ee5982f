"""A request as another server gets it: messages and the sampling parameters that OpenAI's API has, nothing else.

Does not know connections or replies (`upstream.py`, `upstream_reply.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Any

from tutee.conversation import Message
from tutee.engine.request import FinishReason, Request, SamplingParams
from tutee.errors import InvalidInput

MOST_STOPS = 4
UNTOLD = ("top_k", "min_p", "repetition_penalty", "logit_bias", "min_tokens", "ignore_eos", "logprobs")
"""Sampling parameters that OpenAI's API lacks, or that need our own token ids."""


class UpstreamRequest(Request):
    """A request that another server answers: text, but no token ids; the token counts are the upstream's word."""

    def __init__(self, params: SamplingParams, cancel: Callable[[UpstreamRequest], None], **options: Any) -> None:
        super().__init__((), params, **options)
        self.finish_reason: FinishReason | None = None
        self.length = 0
        """Characters so far."""
        self._cancel = cancel

    def abort(self) -> None:
        """Close the connection; the last chunk then says "abort"."""
        super().abort()
        self._cancel(self)

    def body(self, model: str, prompt: Seq[Message]) -> dict[str, Any]:
        """What is sent. Raises InvalidInput for what an upstream cannot follow (code `upstream_cannot`)."""
        params = self.params
        if not prompt or not all(isinstance(message, Message) for message in prompt):
            raise InvalidInput("An upstream takes messages, at least one.", param="messages", code="upstream_cannot")
        plain = SamplingParams()
        for name in UNTOLD:
            if getattr(params, name) != getattr(plain, name):
                message = f"'{name}' cannot be used with '{model}': another server runs it and may ignore it."
                raise InvalidInput(message, param=name, code="upstream_cannot")
        if len(params.stop) > MOST_STOPS:
            message = f"'stop' holds {len(params.stop)} strings; an upstream takes {MOST_STOPS}."
            raise InvalidInput(message, param="stop", code="array_above_max_length")
        optional = {
            "presence_penalty": params.presence_penalty,
            "frequency_penalty": params.frequency_penalty,
            "max_tokens": params.max_tokens,
            "stop": list(params.stop),
        }
        return {
            "model": model,
            "messages": [{k: v for k, v in message.to_dict().items() if k != "weight"} for message in prompt],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": params.temperature,
            "top_p": params.top_p,
            "seed": self.seed,
        } | {name: value for name, value in optional.items() if value}
