"""What a client asks of a chat completion: the body checked field by field, once, before anything runs.

To add a sampling parameter: a field of `engine.request.SamplingParams`, then one line in `read_sampling`.
Does not know which models exist; does not run anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutee.conversation import Message, parse_messages
from tutee.engine.request import SamplingParams
from tutee.errors import InvalidInput
from tutee.serve.body import Fields
from tutee.serve.chat.response_format import read_format
from tutee.serve.chat.tools import Tools, read_chat_tools

MOST_CHOICES = 128
MOST_STOPS = 4
MOST_TOP_LOGPROBS = 20
INT32 = 2**31 - 1

NOT_SERVED: Mapping[str, Sequence[Any]] = {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Fields of OpenAI's API that this server refuses, each with the values that ask for nothing."""
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
LABELS = ("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
"""Strings that name the caller's user or cache: they change no answer."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What events are to hold beside text."""

    include_usage: bool = False
    continuous_usage: bool = False
    obfuscate: bool = False


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A checked body."""

    model: str
    messages: list[Message]
    params: SamplingParams
    n: int
    stream: bool
    stream_options: StreamOptions
    logprobs: bool
    tools: Tools
    text_rule: str | None
    """The form that the answer's text must have, as a rule of a grammar."""
    effort: str | None
    store: bool
    metadata: dict[str, str] | None
    raw_messages: list[dict[str, Any]]


def read_chat_request(body: Fields) -> ChatRequest:
    """Check a chat completion's body.

    Raises:
        InvalidInput: naming the field at fault.
    """
    model = body.need_string("model")
    body.need("messages")
    raw_messages = body.take("messages")
    messages = parse_messages(raw_messages)
    check_tool_turns(messages)
    stream = body.boolean("stream") or False
    logprobs = body.boolean("logprobs") or False
    top = body.integer("top_logprobs", 0, MOST_TOP_LOGPROBS)
    if top is not None and not logprobs:
        body.refuse("top_logprobs", "needs 'logprobs': true", "invalid_value")
    n = body.integer("n", 1, MOST_CHOICES)
    options = read_stream_options(body, stream)
    body.unsupported(NOT_SERVED)
    for name in LABELS:
        body.string(name, most=512)
    asked = ChatRequest(
        model=model,
        messages=messages,
        params=read_sampling(body, logprobs=(top or 0) if logprobs else None),
        n=1 if n is None else n,
        stream=stream,
        stream_options=options,
        logprobs=logprobs,
        tools=read_chat_tools(body),
        text_rule=read_format(body.object("response_format"), nested=True),
        effort=body.choice("reasoning_effort", EFFORTS),
        store=body.boolean("store") or False,
        metadata=body.metadata(),
        raw_messages=raw_messages,
    )
    body.close()
    return asked


def check_tool_turns(messages: Sequence[Message]) -> None:
    """Raise InvalidInput unless every tool message answers a call of the assistant's turn before it."""
    open_ids: set[str] = set()
    for i, message in enumerate(messages):
        if message.role != "tool":
            open_ids = {call.id for call in message.tool_calls}
            continue
        param = f"messages[{i}].tool_call_id"
        if message.tool_call_id is None:
            raise InvalidInput(f"'{param}' is missing.", param=param, code="missing_required_parameter")
        if message.tool_call_id not in open_ids:
            raise InvalidInput(
                f"'{param}' is {message.tool_call_id!r}, which is no tool call of the assistant's turn before it.",
                param=param,
                code="invalid_value",
            )


def read_include_usage(body: Fields, stream: bool) -> bool:
    """`stream_options` where nothing but the token counts can be asked for."""
    return read_stream_options(body, stream).include_usage


def read_stream_options(body: Fields, stream: bool) -> StreamOptions:
    """`stream_options`, which only streams have."""
    options = body.object("stream_options")
    if options is None:
        return StreamOptions()
    if not stream:
        body.refuse("stream_options", "is only allowed with 'stream': true", "invalid_value")
    continuous = options.boolean("continuous_usage_stats") or False
    # Unlike OpenAI's, events are not filled up unless asked: most connections do not leave the machine.
    obfuscate = options.boolean("include_obfuscation") or False
    return StreamOptions((options.boolean("include_usage") or False) or continuous, continuous, obfuscate)


def read_sampling(body: Fields, *, logprobs: int | None, max_tokens: int | None = None) -> SamplingParams:
    """Sampling parameters, with OpenAI's names and ranges; `top_k`, `min_p` and the like as vLLM spells them.

    Args:
        max_tokens: where the caller has read it under the name that its route has for it.
    """
    given: dict[str, Any] = {
        "temperature": body.number("temperature", 0, 2),
        "top_p": body.number("top_p", 0, 1),
        "top_k": body.integer("top_k", -1, INT32),
        "min_p": body.number("min_p", 0, 1),
        "presence_penalty": body.number("presence_penalty", -2, 2),
        "frequency_penalty": body.number("frequency_penalty", -2, 2),
        "repetition_penalty": body.number("repetition_penalty", 0.01, 10),
        "seed": body.integer("seed"),
        "min_tokens": body.integer("min_tokens", 0, INT32),
        "ignore_eos": body.boolean("ignore_eos"),
        "max_tokens": _max_tokens(body) if max_tokens is None else max_tokens,
        "stop": _stop(body),
        "logit_bias": _logit_bias(body),
        "logprobs": logprobs,
    }
    if given["top_k"] == -1:  # vLLM's word for "keep all"
        given["top_k"] = 0
    return SamplingParams(**{name: value for name, value in given.items() if value is not None})


def _max_tokens(body: Fields) -> int | None:
    new = body.integer("max_completion_tokens", 1, INT32)
    old = body.integer("max_tokens", 1, INT32)
    if new is not None and old is not None and new != old:
        body.refuse("max_tokens", "and 'max_completion_tokens' differ; send only the latter", "invalid_value")
    return new if new is not None else old


def _stop(body: Fields) -> tuple[str, ...]:
    value = body.take("stop")
    if value is None:
        return ()
    values = [value] if isinstance(value, str) else body.strings("stop", most=MOST_STOPS, longest=1024) or []
    for text in values:
        if not text:
            body.refuse("stop", "must not hold an empty string", "invalid_value")
    return tuple(values)


def _logit_bias(body: Fields) -> dict[int, float] | None:
    biases = body.object("logit_bias")
    if biases is None:
        return None
    out = {}
    for key in biases.raw:
        value = biases.number(key, -100, 100)
        if not key.isdecimal() or len(key) > 9:
            raise InvalidInput(
                f"'logit_bias' has the key {key!r}; keys are token ids.", param="logit_bias", code="invalid_value"
            )
        out[int(key)] = value or 0.0
    return out
