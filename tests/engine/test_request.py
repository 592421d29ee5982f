from __future__ import annotations

import threading
from typing import Any

import pytest

from tutee.engine.request import Chunk, Request, SamplingParams
from tutee.errors import InvalidInput


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("temperature", -0.1, "decimal_below_min_value"),
        ("temperature", 2.1, "decimal_above_max_value"),
        ("temperature", float("nan"), "invalid_type"),
        ("temperature", "hot", "invalid_type"),
        ("top_p", 1.5, "decimal_above_max_value"),
        ("min_p", -1.0, "decimal_below_min_value"),
        ("top_k", -1, "integer_below_min_value"),
        ("top_k", 1.5, "invalid_type"),
        ("presence_penalty", 3.0, "decimal_above_max_value"),
        ("frequency_penalty", -3.0, "decimal_below_min_value"),
        ("repetition_penalty", 0.0, "decimal_below_min_value"),
        ("max_tokens", 0, "integer_below_min_value"),
        ("max_tokens", True, "invalid_type"),
        ("min_tokens", -1, "integer_below_min_value"),
        ("seed", 2**63, "integer_above_max_value"),
        ("logprobs", 101, "integer_above_max_value"),
        ("logit_bias", {5: 101.0}, "decimal_above_max_value"),
        ("logit_bias", {-1: 1.0}, "integer_below_min_value"),
        ("stop", "word", "invalid_type"),
        ("stop", ("",), "invalid_type"),
        ("stop", ("x",) * 17, "array_above_max_length"),
    ],
)
def test_a_parameter_out_of_range_is_named(name: str, value: Any, code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        SamplingParams(**{name: value})
    assert (caught.value.param, caught.value.code) == (name, code)


def test_min_tokens_above_max_tokens_is_refused() -> None:
    with pytest.raises(InvalidInput, match="min_tokens"):
        SamplingParams(max_tokens=3, min_tokens=4)


def test_samples_of_a_group_get_seeds_of_their_own() -> None:
    params = SamplingParams(seed=2**63 - 1)
    seeds = [params.for_sample(i).seed for i in range(3)]
    assert seeds[0] == params.seed
    assert len(set(seeds)) == 3
    assert SamplingParams().for_sample(2).seed is None


def test_a_request_can_be_read_from_another_thread_and_again() -> None:
    request = Request((1, 2), SamplingParams(), version="base")
    texts: list[str] = []
    reader = threading.Thread(target=lambda: texts.extend(chunk.text for chunk in request))
    reader.start()
    for word in ("one ", "two "):
        request.deliver(Chunk(word, (1,), "base", logprobs=(-0.5,)))
    request.deliver(Chunk("three", (2,), "base", logprobs=(-1.0,), finish_reason="stop"))
    reader.join(timeout=60)
    assert texts == [chunk.text for chunk in request] == ["one ", "two ", "three"]
    result = request.result(timeout=0)
    assert (result.text, result.token_ids, result.logprobs) == ("one two three", (1, 1, 2), (-0.5, -0.5, -1.0))
    assert (result.finish_reason, result.prompt_tokens) == ("stop", 2)
    assert result.ttft_s is not None
    assert result.ttft_s <= result.total_s


def test_result_times_out_while_the_request_runs() -> None:
    with pytest.raises(TimeoutError):
        Request((1,), SamplingParams(), version="base").result(timeout=0.01)


def test_no_reader_misses_the_chunk_that_comes_while_it_looks() -> None:
    """The chunks come without a lock, so readers begin to wait at every moment between two of them."""
    for _ in range(100):
        assert _read_by_four() == ["0123"] * 4


def _read_by_four() -> list[str]:
    request = Request((1,), SamplingParams(), version="base")
    results: list[str] = []
    readers = [threading.Thread(target=lambda: results.append(request.result(10).text)) for _ in range(2)]
    readers += [threading.Thread(target=lambda: results.append("".join(c.text for c in request))) for _ in range(2)]
    for i, reader in enumerate(readers):
        reader.start()
        request.deliver(Chunk(str(i), (i,), "base", finish_reason="stop" if i == 3 else None))
    for reader in readers:
        reader.join(10)
    return results
