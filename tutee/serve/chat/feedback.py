"""What a completion that is stored keeps of its answers, so that feedback can be given on it later.

The feedback itself (metadata such as `rating`) is `tutee/data/completion_feedback.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tutee.conversation import Function, Message
from tutee.data import completion_feedback
from tutee.engine.request import Completion as Generated
from tutee.engine.request import SamplingParams
from tutee.serve.served import Prompt, Served


def samples_of(
    served: Served,
    prompt: Prompt,
    messages: Sequence[Message],
    functions: Sequence[Function],
    drawn: Sequence[tuple[SamplingParams, Generated]],
) -> tuple[dict[str, Any], str]:
    """What to keep of a completion that was drawn here, and the hash of what it answers."""
    choices = [
        {
            "text": answer.text,
            "token_ids": answer.token_ids,
            "logprobs": answer.logprobs,
            "finish_reason": answer.finish_reason,
            "sampling": _sampling(params),
        }
        for params, answer in drawn
    ]
    made = {
        "version_id": served.version.id,
        "prompt_ids": list(prompt.ids),
        "weights_sha256": served.version.weights_sha256,
        "tokenizer_sha256": served.tokenizer_sha256,
        "template_sha256": served.template_sha256,
    }
    return completion_feedback.samples_of(messages, functions, made, choices)


def _sampling(params: SamplingParams) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(params).items() if name not in ("logprobs", "grammar")}
    # What a grammar forced is no sample of the model's own; whoever learns from it must know.
    return kept | ({"grammar": params.grammar.text} if params.grammar is not None else {})
