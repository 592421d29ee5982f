"""The list of models and the names that answer."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.serve.conftest import Running, add_candidate

HELLO: Any = [{"role": "user", "content": "Hello"}]


def test_the_alias_and_the_base_are_listed_and_retrieved(sdk: openai.OpenAI) -> None:
    ids = [model.id for model in sdk.models.list()]
    assert ids[0] == "chat"
    assert "tiny" in ids
    assert sdk.models.retrieve("tiny").created > 0
    assert sdk.models.retrieve("chat").object == "model"


def test_unknown_models_are_404(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


def test_a_version_answers_to_its_name_id_and_number(server: Running, sdk: openai.OpenAI) -> None:
    name = "ft:tiny:local:named:0a1b2c3d"
    id = add_candidate(server, name, verdict=None)
    row = server.services.store.versions.get(id)
    assert sdk.models.retrieve(name).id == name
    texts = {
        sdk.chat.completions.create(model=model, messages=HELLO, temperature=0, max_tokens=12)
        .choices[0]
        .message.content
        for model in (name, id, str(row.number))
    }
    base = sdk.chat.completions.create(model="tiny", messages=HELLO, temperature=0, max_tokens=12)
    assert len(texts) == 1
    assert base.choices[0].message.content not in texts


def test_a_deleted_version_answers_no_more_but_keeps_its_row(server: Running, sdk: openai.OpenAI) -> None:
    id = add_candidate(server, "doomed", verdict=None)
    sdk.chat.completions.create(model="doomed", messages=HELLO, max_tokens=1)
    assert sdk.models.delete("doomed").deleted
    assert server.services.store.versions.get(id).state == "revoked"
    for ask in (
        lambda: sdk.models.retrieve("doomed"),
        lambda: sdk.chat.completions.create(model="doomed", messages=HELLO, max_tokens=1),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()


def test_the_base_and_the_live_version_cannot_be_deleted(sdk: openai.OpenAI) -> None:
    for name in ("tiny", "chat"):
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.models.delete(name)
        assert caught.value.code == "model_in_use"


def test_an_alias_answers_wherever_a_model_is_named_and_the_reply_says_who(server: Running, sdk: openai.OpenAI) -> None:
    aliases = server.services.store.model_aliases
    aliases.set("gpt-4.1-nano", "tiny")
    aliases.set("gpt-4o*", "chat")
    try:
        assert "gpt-4.1-nano" in [model.id for model in sdk.models.list()]
        assert sdk.models.retrieve("gpt-4o-mini").id == "gpt-4o-mini"
        for name in ("gpt-4.1-nano", "gpt-4o-mini"):
            answer = sdk.chat.completions.create(model=name, messages=HELLO, max_tokens=1)
            assert answer.model == "tiny"
            chunks = sdk.chat.completions.create(model=name, messages=HELLO, max_tokens=1, stream=True)
            assert {chunk.model for chunk in chunks} == {"tiny"}
        asked = "gpt-4.1-nano"
        assert sdk.completions.create(model=asked, prompt="Hi", max_tokens=1).model == "tiny"
        assert sdk.embeddings.create(model=asked, input="Hi", encoding_format="float").model == "tiny"
        assert sdk.responses.create(model=asked, input="Hi", max_output_tokens=16).model == "tiny"
        rows = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
        file = sdk.files.create(file=("rows.jsonl", rows), purpose="fine-tune")
        job = sdk.fine_tuning.jobs.create(model=asked, training_file=file.id)
        assert job.model == "tiny"
        sdk.fine_tuning.jobs.cancel(job.id)
        with pytest.raises(openai.BadRequestError) as caught:
            sdk.models.delete("gpt-4.1-nano")
        assert caught.value.code == "model_is_alias"
    finally:
        aliases.remove("gpt-4.1-nano")
        aliases.remove("gpt-4o*")
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("gpt-4o-mini")
