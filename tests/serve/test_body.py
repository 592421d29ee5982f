"""Bodies of any shape end in a checked request or in an error that names a field; never in anything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutee.conversation import Message, merge_system_messages
from tutee.errors import InvalidInput
from tutee.serve.body import Fields, parse_object
from tutee.serve.chat.request import NOT_SERVED, read_chat_request
from tutee.serve.fine_tuning.request import read_fine_tuning_request

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
LIMITS = ("seed", "min_tokens", "ignore_eos", "max_tokens", "max_completion_tokens", "stop", "logit_bias", "n")
CHAT_FIELDS = ("model", "messages", "stream", "logprobs", "top_logprobs", "stream_options", "user", "store", "metadata")
FILES = ("training_file", "validation_file")
JOB_FIELDS = ("model", *FILES, "suffix", "seed", "metadata", "integrations", "hyperparameters", "method")
METHOD = st.fixed_dictionaries(
    {"type": st.sampled_from(["dpo", "supervised", "x"])}, optional={"dpo": JSON, "supervised": JSON}
)


def bodies(names: Sequence[str], **known: Any) -> Any:
    return st.fixed_dictionaries({}, optional={name: known.get(name, JSON) | JSON for name in names} | {"extra": JSON})


def named(error: InvalidInput, body: bool = False) -> None:
    assert error.message
    assert error.code
    assert error.param or body


@settings(max_examples=120, deadline=None)
@given(
    bodies(
        [*CHAT_FIELDS, *SAMPLING, *LIMITS, *NOT_SERVED],
        model=st.just("chat"),
        messages=st.just([{"role": "user", "content": "x"}]),
    )
)
def test_any_chat_body_is_read_or_refused(raw: dict[str, Any]) -> None:
    try:
        asked = read_chat_request(Fields(raw))
    except InvalidInput as error:
        named(error)
    else:
        assert 1 <= asked.n <= 128


@settings(max_examples=120, deadline=None)
@given(bodies(JOB_FIELDS, model=st.just("chat"), training_file=st.just("file-1"), method=METHOD))
def test_any_job_body_is_read_or_refused(raw: dict[str, Any]) -> None:
    try:
        asked = read_fine_tuning_request(Fields(raw))
    except InvalidInput as error:
        named(error)
    else:
        assert asked.method in ("supervised", "dpo")


@settings(max_examples=120, deadline=None)
@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode))
def test_any_bytes_are_an_object_or_refused(text: bytes) -> None:
    try:
        assert isinstance(parse_object(text, "application/json"), dict)
    except InvalidInput as error:
        named(error, body=True)


def test_an_escaped_backslash_before_u0000_is_no_nul() -> None:
    assert parse_object(b'{"code": "\\\\u0000"}', "application/json; charset=utf-8") == {"code": "\\u0000"}
    with pytest.raises(InvalidInput, match="NUL"):
        parse_object(b'{"a": [{"b\\u0000": 1}]}', "application/json")


def test_fields_that_nobody_took_are_known_by_their_path() -> None:
    body = Fields({"a": 1, "b": {"c": 2, "d": 3}, "e": None})
    body.integer("a")
    child = body.object("b")
    assert child is not None
    child.integer("c")
    assert body.unknown() == ["e", "b.d"]
    with pytest.raises(InvalidInput) as caught:
        child.refuse_unknown()
    assert caught.value.param == "b.d"


def test_whole_floats_are_whole_numbers() -> None:
    assert Fields({"n": 3.0}).integer("n") == 3
    with pytest.raises(InvalidInput):
        Fields({"n": 3.5}).integer("n")


def test_leading_system_messages_become_one() -> None:
    said = [Message("developer", "a"), Message("system", "b"), Message("user", "c"), Message("system", "d")]
    assert merge_system_messages(said) == [Message("system", "a\n\nb"), Message("user", "c"), Message("system", "d")]
    assert merge_system_messages([Message("user", "c")]) == [Message("user", "c")]
