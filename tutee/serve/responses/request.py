"""What a client asks of a response: the body checked field by field, before anything runs.

Names differ from chat completions; sampling, tools and the form of the text are read by the same code. Does not know
which models or earlier responses exist; does not run anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tutee.engine.request import SamplingParams
from tutee.serve.body import Fields
from tutee.serve.chat.request import EFFORTS, INT32, LABELS, MOST_TOP_LOGPROBS, read_sampling
from tutee.serve.chat.response_format import read_format
from tutee.serve.chat.tools import MOST_FUNCTIONS, Tools, choose, need_function_type, read_function
from tutee.serve.live import ALIAS
from tutee.serve.responses.items import Item, Lookup, read_input

LEAST_OUTPUT_TOKENS = 16
LONGEST_INSTRUCTIONS = 200_000

NOT_SERVED: Mapping[str, Sequence[Any]] = {
    "access_programs": (),
    "background_options": (),
    "context_management": ([],),
    "image": (),
    "max_tool_calls": (),
    "moderation": (),
    "prompt": (),
    "service_tier": ("auto", "default"),
}
"""Fields of OpenAI's API that this server refuses, each with the values that ask for nothing."""
LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = (
    LOGPROBS,
    "reasoning.encrypted_content",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
)
"""What `include` may name. Only log-probs change anything: reasoning is told in the open, and the tools of the others
are refused."""


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """A checked body."""

    model: str
    items: list[Item]
    instructions: str | None
    previous_id: str | None
    conversation_id: str | None
    params: SamplingParams
    tools: Tools
    text_rule: str | None
    effort: str | None
    truncate: bool
    logprobs: bool
    stream: bool
    store: bool
    background: bool
    echo: dict[str, Any]
    """The fields of the response object that say again what was asked for."""


def read_response_request(body: Fields, find: Lookup) -> ResponseRequest:
    """Check the body of a response to be made.

    Args:
        find: the caller's items by id, for references.

    Raises:
        InvalidInput: naming the field at fault.
    """
    model = body.need_string("model")
    stream, store = body.boolean("stream") or False, body.boolean("store") is not False
    background = body.boolean("background") or False
    _stream_options(body, stream)
    if background and not store:
        body.refuse("background", "needs 'store': true, or nobody could read the answer", "invalid_value")
    asked = _read(body, find, model, stream=stream, store=store, background=background)
    body.close()
    return asked


def read_input_tokens_request(body: Fields, find: Lookup) -> ResponseRequest:
    """Check the body of a question how long an input is. Raises as `read_response_request`."""
    asked = _read(body, find, body.string("model") or ALIAS, stream=False, store=False, background=False)
    body.close()
    return asked


def _read(body: Fields, find: Lookup, model: str, *, stream: bool, store: bool, background: bool) -> ResponseRequest:
    previous_id, conversation_id = body.string("previous_response_id", least=1), _conversation(body)
    if previous_id is not None and conversation_id is not None:
        body.refuse("previous_response_id", "cannot be combined with 'conversation'", "mutually_exclusive_parameters")
    if previous_id is None and conversation_id is None:
        body.need("input")
    body.unsupported(NOT_SERVED)
    labels = {name: body.string(name, most=512) for name in LABELS}
    text, reasoning = body.object("text"), body.object("reasoning")
    include = _include(body)
    top = body.integer("top_logprobs", 0, MOST_TOP_LOGPROBS)
    logprobs = top is not None or LOGPROBS in include
    truncation = body.choice("truncation", ("auto", "disabled")) or "disabled"
    most = body.integer("max_output_tokens", LEAST_OUTPUT_TOKENS, INT32)
    params = read_sampling(body, logprobs=(top or 0) if logprobs else None, max_tokens=most)
    tools = read_tools(body)
    effort, instructions = _effort(reasoning), body.string("instructions", most=LONGEST_INSTRUCTIONS)
    echo = {
        "background": background,
        "conversation": None if conversation_id is None else {"id": conversation_id},
        "instructions": instructions,
        "max_output_tokens": most,
        "metadata": body.metadata() or {},
        "parallel_tool_calls": body.boolean("parallel_tool_calls") is not False,
        "previous_response_id": previous_id,
        "prompt_cache_key": labels["prompt_cache_key"],
        "reasoning": {"effort": effort, "summary": None},
        "safety_identifier": labels["safety_identifier"],
        "service_tier": "default",
        "store": store,
        "temperature": params.temperature,
        "text": _text_config(text),
        "tool_choice": body.raw.get("tool_choice") or "auto",
        "tools": [_tool_view(tool) for tool in body.raw.get("tools") or ()],
        "top_logprobs": top or 0,
        "top_p": params.top_p,
        "truncation": truncation,
        "user": labels["user"],
    }
    return ResponseRequest(
        model=model,
        items=read_input(body, find),
        instructions=instructions,
        previous_id=previous_id,
        conversation_id=conversation_id,
        params=params,
        tools=tools,
        text_rule=read_format(None if text is None else text.object("format"), nested=False),
        effort=effort,
        truncate=truncation == "auto",
        logprobs=logprobs,
        stream=stream,
        store=store,
        background=background,
        echo=echo,
    )


def _stream_options(body: Fields, stream: bool) -> None:
    options = body.object("stream_options")
    if options is None:
        return
    if not stream:
        body.refuse("stream_options", "is only allowed with 'stream': true", "invalid_value")
    options.boolean("include_obfuscation")  # events are not filled up: most connections do not leave the machine


def _conversation(body: Fields) -> str | None:
    """The id in `conversation`, which is a string or an object."""
    value = body.raw.get("conversation")
    if not isinstance(value, dict):
        return body.string("conversation", least=1)
    fields = body.object("conversation")
    assert fields is not None
    return fields.need_string("id")


def _include(body: Fields) -> list[str]:
    names = body.strings("include", most=len(INCLUDABLE), longest=64) or []
    for i, name in enumerate(names):
        if name not in INCLUDABLE:
            body.refuse(f"include[{i}]", f"is {name!r}; it must be one of {', '.join(INCLUDABLE)}", "invalid_value")
    return names


def _effort(reasoning: Fields | None) -> str | None:
    if reasoning is None:
        return None
    # Reasoning is told whole, so there is nothing to sum up.
    reasoning.choice("summary", ("auto", "concise", "detailed"))
    reasoning.choice("generate_summary", ("auto", "concise", "detailed"))
    return reasoning.choice("effort", EFFORTS)


def _text_config(text: Fields | None) -> dict[str, Any]:
    if text is None:
        return {"format": {"type": "text"}}
    text.unsupported({"verbosity": ("medium",)})
    return {"format": text.raw.get("format") or {"type": "text"}}


def read_tools(body: Fields) -> Tools:
    """Functions in the flat form: their fields lie beside `type`. Raises as `chat.tools.read_chat_tools`."""
    functions = []
    for tool in body.objects("tools", most=MOST_FUNCTIONS):
        need_function_type(tool)
        functions.append(read_function(tool, tool.path))
    return choose(body, functions, named_in="")


def _tool_view(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A function as it is said again."""
    return {"type": "function", "description": None, "parameters": None, "strict": False} | dict(tool)
