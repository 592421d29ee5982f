"""`sampling_params` of an eval's run: checked before the first row is asked, and as the fields of a chat completion.

A source of type `completions` names them as chat completions do, one of type `responses` as responses do
(`text.format`, flat `tools`); both are asked as chat completions.
"""

from __future__ import annotations

from typing import Any

from tutee.errors import InvalidInput
from tutee.evaluate.eval_data import DataSource
from tutee.serve.body import Fields
from tutee.serve.chat.request import EFFORTS, read_sampling
from tutee.serve.chat.response_format import read_format
from tutee.serve.chat.tools import read_chat_tools
from tutee.serve.responses.request import read_tools

MOST_TOKENS = 1024
"""Of an answer, where `sampling_params` do not say: a small model may go on for ever."""


def check_sampling(source: DataSource, param: str) -> None:
    """Check the sampling parameters of a data source that lies at `param`.

    Raises:
        InvalidInput: naming the field at fault, also one that nobody knows.
    """
    at = f"{param}.sampling_params"
    fields = Fields(source.sampling, at)
    try:
        read_sampling(fields, logprobs=None)
        fields.choice("reasoning_effort", EFFORTS)
        if source.kind == "responses":
            text = fields.object("text")
            read_format(None if text is None else text.object("format"), nested=False)
            read_tools(fields)
        else:
            read_format(fields.object("response_format"), nested=True)
            read_chat_tools(fields)
        fields.refuse_unknown()
    except InvalidInput as error:
        if error.param is None or error.param.startswith(at):
            raise
        whole = f"{at}.{error.param}"
        raise InvalidInput(error.message.replace(error.param, whole, 1), param=whole, code=error.code) from None


def sampling_body(source: DataSource) -> dict[str, Any]:
    """Checked sampling parameters as a chat completion's fields."""
    body = {name: value for name, value in source.sampling.items() if value is not None}
    most = body.pop("max_tokens", MOST_TOKENS)
    body.setdefault("max_completion_tokens", most)
    if source.kind != "responses":
        return body
    shape = (body.pop("text", None) or {}).get("format")
    if shape is not None:
        named = {name: value for name, value in shape.items() if name != "type"}
        nested = shape["type"] == "json_schema"
        body["response_format"] = {"type": "json_schema", "json_schema": named} if nested else shape
    if "tools" in body:
        body["tools"] = [_nested(tool) for tool in body["tools"]]
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        if choice["type"] == "function":
            body["tool_choice"] = _nested(choice)
        else:
            allowed = {"mode": choice["mode"], "tools": [_nested(tool) for tool in choice["tools"]]}
            body["tool_choice"] = {"type": choice["type"], "allowed_tools": allowed}
    return body


def _nested(function: dict[str, Any]) -> dict[str, Any]:
    """A function, or the naming of one, in the form of chat completions."""
    return {"type": "function", "function": {name: value for name, value in function.items() if name != "type"}}
