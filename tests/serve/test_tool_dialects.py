"""Tools of models that write calls in other ways than the common one, over HTTP on tiny random models: what is enforced
is what is parsed, and what was parsed can be sent back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.conftest import write_tiny_model
from tests.model.tool_templates import MARKS, TEMPLATES
from tests.serve.conftest import home_at, serving
from tests.serve.test_tools import TOOLS, ask, joined

OTHERS = [name for name in TEMPLATES if name != "hermes"]
STRICT: Any = [{**tool, "function": {**tool["function"], "strict": True}} for tool in TOOLS]


@pytest.fixture(scope="module", params=OTHERS)
def dialect(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    """(name, client) of a server whose model writes so."""
    folder = tmp_path_factory.mktemp(request.param) / "tiny"
    folder.mkdir()
    write_tiny_model(folder, context=2048, template=TEMPLATES[request.param], marks=MARKS)
    with serving(home_at(folder.parent / "home", folder)) as running:
        yield request.param, running.strict()


def test_required_calls_are_the_same_streamed_and_go_back(dialect: tuple[str, openai.OpenAI]) -> None:
    name, sdk = dialect
    counts = []
    for seed in range(2):
        options = {"tools": TOOLS, "tool_choice": "required", "seed": seed, "max_tokens": 400}
        whole = ask(sdk, **options).choices[0]
        content, calls, reason = joined(list(ask(sdk, **options, stream=True)))
        assert (content, whole.message.content, whole.finish_reason, reason) == ("", None, "tool_calls", "tool_calls")
        told = [[call.function.name, call.function.arguments] for call in whole.message.tool_calls]
        assert [call[1:] for call in calls] == told
        assert all(json.loads(arguments)["city"] in ("Oslo", "Rome") for _, arguments in told)
        counts.append(len(told))
        results = [{"role": "tool", "tool_call_id": call.id, "content": "rain"} for call in whole.message.tool_calls]
        back = [{"role": "user", "content": "Hi"}, whole.message.model_dump(exclude_none=True), *results]
        assert ask(sdk, messages=back, tools=TOOLS, max_tokens=1).choices
    assert name != "llama" or max(counts) == 1, "its template takes one call a turn"


def test_a_named_tool_is_called_once(dialect: tuple[str, openai.OpenAI]) -> None:
    choice = {"type": "function", "function": {"name": "get_time"}}
    calls = ask(dialect[1], tools=TOOLS, tool_choice=choice, max_tokens=400).choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["get_time"]


def test_strict_functions_fit_where_the_model_decides(dialect: tuple[str, openai.OpenAI]) -> None:
    """What begins a call is made likely now and then, so that there are some."""
    name, sdk = dialect
    opening = {"llama": ord("{") - 33}.get(name, 258)
    seen = set()
    for seed in range(2):
        options = {"tools": STRICT, "seed": seed, "max_tokens": 120, "logit_bias": {str(opening): 9 * (seed % 2)}}
        whole = ask(sdk, **options).choices[0]
        content, calls, _ = joined(list(ask(sdk, **options, stream=True)))
        assert content == (whole.message.content or "")
        assert [call[1:] for call in calls] == [
            [call.function.name, call.function.arguments] for call in whole.message.tool_calls or []
        ]
        ended = calls if whole.finish_reason == "tool_calls" else calls[:-1]
        assert all(json.loads(call[2])["city"] in ("Oslo", "Rome") for call in ended)
        assert "[TOOL_CALLS]" not in content or whole.finish_reason == "length"
        seen.add(bool(calls))
    assert True in seen


def test_log_probs_of_marks_are_of_the_text(dialect: tuple[str, openai.OpenAI]) -> None:
    name, sdk = dialect
    choice = ask(sdk, tools=TOOLS, tool_choice="required", logprobs=True, max_tokens=400).choices[0]
    text = bytes(byte for entry in choice.logprobs.content for byte in entry.bytes).decode()
    begins = {"llama": '{"name": "get_', "mistral-list": '[TOOL_CALLS] [{"name": "get_'}
    assert text.startswith(begins.get(name, "[TOOL_CALLS]get_"))


def test_responses_speak_it_too(dialect: tuple[str, openai.OpenAI]) -> None:
    """No seed can be asked for there: a coin may toss on until the limit, and the call that it cut is marked."""
    tools: Any = [{"type": "function", **tool["function"]} for tool in TOOLS]
    answer = dialect[1].responses.create(
        model="chat", input="Hello", tools=tools, tool_choice="required", max_output_tokens=400
    )
    calls = [item for item in answer.output if item.type == "function_call"]
    whole = [call for call in calls if call.status == "completed"]
    assert calls
    assert calls[: len(whole)] == whole
    assert [call.status for call in calls[len(whole) :]] in ([], ["incomplete"])
    assert len(whole) == len(calls) or answer.status == "incomplete"
    assert all(json.loads(call.arguments)["city"] in ("Oslo", "Rome") for call in whole)
