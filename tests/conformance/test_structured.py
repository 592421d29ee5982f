"""T35–T45: answers of a given form, and calls of tools."""

from __future__ import annotations

import json
from typing import Any, Literal

import openai
import pytest
from jsonschema_rs import validator_for
from pydantic import BaseModel, Field

CREW: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "rank": {"enum": ["captain", "mate", "cook"]},
        "ships": {"type": "array", "items": {"$ref": "#/$defs/ship"}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "rank", "ships"],
    "additionalProperties": False,
    "$defs": {
        "ship": {
            "type": "object",
            "properties": {
                "kind": {"enum": ["brig", "sloop"]},
                "guns": {"type": "integer", "minimum": 0, "maximum": 99},
                "afloat": {"type": "boolean"},
            },
            "required": ["kind", "guns", "afloat"],
            "additionalProperties": False,
        }
    },
}
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Oslo", "Rome"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
TIME: dict[str, Any] = {
    "type": "object",
    "properties": {"zone": {"enum": ["UTC", "CET"]}},
    "required": ["zone"],
    "additionalProperties": False,
}
QUESTION: list[Any] = [{"role": "user", "content": "What will the weather in Oslo be like tomorrow?"}]
"""Nothing in this module hopes that a model of 135M parameters calls a tool by itself."""


class Ship(BaseModel):
    """What `.parse` is to fill."""

    name: str = Field(max_length=10)
    kind: Literal["brig", "sloop"]
    guns: int = Field(ge=0, le=99)


def tool(name: str, parameters: dict[str, Any], **more: Any) -> dict[str, Any]:
    described = {"name": name, "description": f"Get the {name}", "parameters": parameters}
    return {"type": "function", "function": described | more}


TOOLS = [tool("get_weather", WEATHER), tool("get_time", TIME)]


def form(schema: dict[str, Any], strict: bool = True) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "form", "schema": schema, "strict": strict}}


def ask(client: openai.OpenAI, model: str, **options: Any) -> Any:
    usual = {"model": model, "messages": QUESTION, "max_tokens": 200, "temperature": 1}
    return client.chat.completions.create(**(usual | options))


def refused(client: openai.OpenAI, model: str, **options: Any) -> openai.BadRequestError:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, model, **options)
    return caught.value


def holds(client: openai.OpenAI, model: str, samples: int) -> None:
    validator = validator_for(CREW)
    messages = [{"role": "user", "content": "Describe a sailor as JSON."}]
    for seed in range(0, samples, 20):
        reply = ask(
            client, model, messages=messages, response_format=form(CREW), n=min(20, samples), seed=seed, max_tokens=400
        )
        for choice in reply.choices:
            assert choice.finish_reason == "stop"
            validator.validate(json.loads(choice.message.content))


@pytest.mark.conformance("T35")
def test_a_strict_schema_holds(client: openai.OpenAI, model: str) -> None:
    holds(client, model, 4)


@pytest.mark.conformance("T35", slow=True)
def test_a_strict_schema_holds_for_200_samples(client: openai.OpenAI, model: str) -> None:
    holds(client, model, 200)


@pytest.mark.conformance("T36")
def test_parse(client: openai.OpenAI, model: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "Describe a ship."}]
    reply = client.chat.completions.parse(model=model, messages=messages, response_format=Ship, seed=4, max_tokens=200)
    ship = reply.choices[0].message.parsed
    assert ship is not None
    assert ship.kind in ("brig", "sloop")


@pytest.mark.conformance("T37")
@pytest.mark.parametrize("strict", [True, False])
def test_an_invalid_schema(client: openai.OpenAI, model: str, strict: bool) -> None:
    error = refused(client, model, response_format=form({"type": "strin"}, strict))
    assert (error.param, error.code) == ("response_format", "invalid_json_schema")


@pytest.mark.conformance("T38")
def test_json_object(client: openai.OpenAI, model: str) -> None:
    messages = [{"role": "user", "content": "Name two colours, as a JSON object."}]
    reply = ask(client, model, messages=messages, response_format={"type": "json_object"}, temperature=0)
    assert reply.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(reply.choices[0].message.content), dict)


@pytest.mark.conformance("T39")
def test_a_schema_cut_short(client: openai.OpenAI, model: str) -> None:
    assert ask(client, model, response_format=form(CREW), max_tokens=3).choices[0].finish_reason == "length"
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model=model, messages=QUESTION, response_format=Ship, max_tokens=3)


@pytest.mark.conformance("T40")
def test_required(strict_client: openai.OpenAI, model: str) -> None:
    for choice in ask(strict_client, model, tools=TOOLS, tool_choice="required", seed=1, n=2, max_tokens=500).choices:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        assert choice.message.tool_calls
        for call in choice.message.tool_calls:
            schema = {"get_weather": WEATHER, "get_time": TIME}[call.function.name]
            validator_for(schema).validate(json.loads(call.function.arguments))
        assert len({call.id for call in choice.message.tool_calls}) == len(choice.message.tool_calls)


@pytest.mark.conformance("T41")
def test_a_named_tool(client: openai.OpenAI, model: str) -> None:
    named = {"type": "function", "function": {"name": "get_time"}}
    choice = ask(client, model, tools=TOOLS, tool_choice=named).choices[0]
    assert [call.function.name for call in choice.message.tool_calls] == ["get_time"]
    assert choice.finish_reason == "stop"
    unknown = {"type": "function", "function": {"name": "get_rich"}}
    assert refused(client, model, tools=TOOLS, tool_choice=unknown).param == "tool_choice"


@pytest.mark.conformance("T42")
def test_none(client: openai.OpenAI, model: str) -> None:
    choice = ask(client, model, tools=TOOLS, tool_choice="none", max_tokens=20).choices[0]
    assert choice.message.tool_calls is None
    assert choice.message.content


@pytest.mark.conformance("T43")
def test_one_call_at_most(client: openai.OpenAI, model: str) -> None:
    reply = ask(client, model, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, n=3, seed=1)
    assert [len(choice.message.tool_calls) for choice in reply.choices] == [1, 1, 1]


@pytest.mark.conformance("T43")
def test_a_strict_function_is_called_right_or_not_at_all(client: openai.OpenAI, model: str) -> None:
    strict = [tool("get_weather", WEATHER, strict=True)]
    system = {"role": "system", "content": "Always answer with a <tool_call>."}
    for choice in ask(client, model, messages=[system, *QUESTION], tools=strict, seed=1, n=3, max_tokens=60).choices:
        for call in (choice.message.tool_calls or []) if choice.finish_reason == "tool_calls" else []:
            validator_for(WEATHER).validate(json.loads(call.function.arguments))


@pytest.mark.conformance("T44")
def test_a_tools_round_trip(client: openai.OpenAI, model: str) -> None:
    asked = ask(client, model, tools=TOOLS, tool_choice="required", parallel_tool_calls=False).choices[0].message
    history = [*QUESTION, asked.model_dump()]
    answer = {"role": "tool", "tool_call_id": asked.tool_calls[0].id, "content": '{"sky": "clear"}'}
    reply = ask(client, model, messages=[*history, answer], tools=TOOLS, tool_choice="none", max_tokens=20)
    assert reply.choices[0].message.content
    without = ask(client, model, messages=[*history, answer], max_tokens=1)  # tools need not be sent again
    assert without.usage.prompt_tokens > 0
    wrong = answer | {"tool_call_id": "call_of_somebody_else"}
    assert refused(client, model, messages=[*history, wrong], tools=TOOLS).param == "messages[2].tool_call_id"


@pytest.mark.conformance("T45")
def test_a_function_name_with_a_space(client: openai.OpenAI, model: str) -> None:
    assert refused(client, model, tools=[tool("get weather", WEATHER)]).param == "tools[0].function.name"
