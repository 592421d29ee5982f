"""From checked messages to what the engine is asked: chat completions and responses go through here.

What only the model can tell is checked here, with the names that the route has for its fields. Does not know what
becomes of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tutee.conversation import Message
from tutee.engine.request import SamplingParams
from tutee.errors import InvalidInput
from tutee.serve.chat.answer_form import with_grammar
from tutee.serve.chat.tools import Tools
from tutee.serve.served import Prompt, Served


@dataclass(frozen=True, slots=True)
class Wish:
    """How the answer is to be."""

    params: SamplingParams
    tools: Tools
    text_rule: str | None
    """The form that its text must have, as a rule of a grammar."""
    effort: str | None


@dataclass(frozen=True, slots=True)
class Named:
    """What a route calls the fields that may be at fault."""

    messages: str
    effort: str
    form: str
    """Of the answer's text."""


def prepare(served: Served, messages: Sequence[Message], wish: Wish, named: Named) -> tuple[Prompt, SamplingParams]:
    """The prompt, and how to draw.

    Raises:
        InvalidInput: a context too short, tokens or a way to think that the model has not.
    """
    params = wish.params
    if params.logit_bias and not served.upstream:
        vocabulary = served.model.config.vocab_size
        if any(token >= vocabulary for token in params.logit_bias):
            message = f"'logit_bias' names a token beyond the vocabulary of {vocabulary}."
            raise InvalidInput(message, param="logit_bias", code="invalid_value")
    prompt = served.prompt(messages, wish.tools.functions, _effort(served, wish.effort, named.effort))
    limit, wanted = served.context_length, params.max_tokens or 1
    if limit is not None and len(prompt.ids) + wanted > limit:
        raise InvalidInput(
            f"This model's maximum context length is {limit} tokens, but {len(prompt.ids)} are in the messages and "
            f"{wanted} were asked for.",
            param=named.messages,
            code="context_length_exceeded",
        )
    if wish.tools.functions and not served.upstream:
        params = replace(params, spoken=tuple(served.model.chat_format.spoken.values()))
    return prompt, with_grammar(params, served, wish.tools, wish.text_rule, prompt, named.form)


def _effort(served: Served, effort: str | None, param: str) -> str | None:
    if effort is None or (not served.upstream and served.model.chat_format.takes_effort):
        return effort
    if effort != "none" or (not served.upstream and served.model.chat_format.thinks):
        message = f"'{param}' changes nothing for '{served.version.name}': it cannot think more or less."
        raise InvalidInput(message, param=param, code="unsupported_parameter")
    return None
