"""T57–T62: bare completions and scoring, embeddings, moderations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import torch

from tests.conformance.conftest import ServerProcess

TEXT = "The capital of France is Paris, and the capital of Italy is Rome."
TASK = Path(__file__).parent.parent / "clients" / "lm_eval_task" / "capitals.jsonl"


def complete(client: openai.OpenAI, model: str, prompt: Any, **options: Any) -> Any:
    return client.completions.create(
        **({"model": model, "prompt": prompt, "max_tokens": 8, "temperature": 0} | options)
    )


def teacher_forced(folder: Path, ids: list[list[int]]) -> list[list[float]]:
    """Log-prob of every token after the first, by transformers in float32."""
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    out = []
    for each in ids:
        with torch.no_grad():
            logprobs = reference(torch.tensor([each])).logits[0, :-1].double().log_softmax(-1)
        out.append(logprobs.gather(1, torch.tensor(each[1:])[:, None]).squeeze(1).tolist())
    return out


@cache
def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def ids_of(folder: Path, text: str) -> list[int]:
    ids: list[int] = tokenizer_of(folder)(text)["input_ids"]
    return ids


@pytest.mark.conformance("T57")
def test_echo_scores_what_was_sampled(client: openai.OpenAI, model: str) -> None:
    """The engine's own numbers: what it reported while it wrote, it says again when it is given the text."""
    prompt = "Once upon a time"
    written = complete(
        client, model, prompt, max_tokens=24, logprobs=1, temperature=1.0, seed=5, extra_body={"ignore_eos": True}
    )
    tokens = written.choices[0].logprobs.token_logprobs
    given = complete(client, model, prompt, max_tokens=1, logprobs=1, echo=True).choices[0].logprobs
    whole = complete(client, model, prompt + written.choices[0].text, max_tokens=1, logprobs=1, echo=True)
    scored = whole.choices[0].logprobs
    assert scored.token_logprobs[0] is scored.top_logprobs[0] is None
    prompt_tokens = len(given.tokens) - 1
    assert whole.usage.prompt_tokens == len(scored.tokens) - 1 == prompt_tokens + len(tokens)
    assert math.isclose(sum(scored.token_logprobs[prompt_tokens:-1]), sum(tokens), abs_tol=1e-3)


@pytest.mark.conformance("T57", slow=True)
def test_echo_equals_transformers(own_server: Callable[..., ServerProcess], real_model: Path) -> None:
    server = own_server(dtype="float32")
    reply = complete(server.client(), real_model.name, TEXT, max_tokens=1, logprobs=1, echo=True)
    ids = ids_of(real_model, TEXT)
    values = reply.choices[0].logprobs.token_logprobs
    assert len(values) == len(ids) + 1
    assert abs(sum(values[1:-1]) - sum(teacher_forced(real_model, [ids])[0])) < 1e-3


@pytest.mark.conformance("T58")
def test_batches_are_in_order(client: openai.OpenAI, model: str) -> None:
    prompts = ["One two", "The sea is", "def main():"]
    options: dict[str, Any] = {"n": 2, "temperature": 1.0, "seed": 2}
    together = complete(client, model, prompts, **options)
    assert [choice.index for choice in together.choices] == list(range(6))
    alone = [choice.text for prompt in prompts for choice in complete(client, model, prompt, **options).choices]
    assert [choice.text for choice in together.choices] == alone


@pytest.mark.conformance("T59")
def test_token_ids_are_the_text(client: openai.OpenAI, model: str, real_model: Path) -> None:
    ids = ids_of(real_model, TEXT)
    texts = {complete(client, model, prompt).choices[0].text for prompt in (TEXT, ids, [ids])}
    assert len(texts) == 1
    assert complete(client, model, ids).usage.prompt_tokens == len(ids)


@pytest.mark.conformance("T60", slow=True)
def test_multiple_choice_scores_as_in_process(client: openai.OpenAI, model: str, real_model: Path) -> None:
    """lm-evaluation-harness's local-completions, request by request and sum by sum; `make clients` runs the harness."""
    rows = [json.loads(line) for line in TASK.read_text(encoding="utf-8").splitlines()]
    pairs = [(f"The capital of {row['country']} is", f" {choice}") for row in rows for choice in row["choices"]]
    ids = [ids_of(real_model, context + choice) for context, choice in pairs]
    contexts = [len(ids_of(real_model, context)) for context, _ in pairs]
    served: list[float] = []
    for start in range(0, len(ids), 16):
        options: dict[str, Any] = {"max_tokens": 1, "logprobs": 1, "echo": True, "seed": 1234}
        for choice, length in zip(
            complete(client, model, ids[start : start + 16], **options).choices, contexts[start:], strict=False
        ):
            served.append(sum(choice.logprobs.token_logprobs[length:-1]))
    reference = [
        sum(values[length - 1 :]) for values, length in zip(teacher_forced(real_model, ids), contexts, strict=True)
    ]
    assert len(served) == len(reference)

    def accuracy(scores: list[float]) -> float:
        each = np.array(scores).reshape(len(rows), -1).argmax(1)
        return float(np.mean([best == row["answer"] for best, row in zip(each, rows, strict=True)]))

    assert accuracy(reference) > 0.5
    assert abs(accuracy(served) - accuracy(reference)) <= 0.005


@pytest.mark.conformance("T61")
def test_embeddings(client: openai.OpenAI, strict_client: openai.OpenAI, model: str) -> None:
    texts = ["A cat sleeps.", "A kitten naps.", "Interest rates rose."]
    packed = client.embeddings.create(model=model, input=texts)
    plain = strict_client.embeddings.create(model=model, input=texts, encoding_format="float")
    vectors = np.array([row.embedding for row in plain.data])
    assert np.abs(np.array([row.embedding for row in packed.data]) - vectors).max() <= 1e-6
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > far
    for wrong in (["x"] * 2049, "", ["x", ""]):
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model=model, input=wrong)
        assert str(caught.value.param).startswith("input")


@pytest.mark.conformance("T62")
def test_moderations(strict_client: openai.OpenAI) -> None:
    benign = ["How do I bake bread?", "The parliament voted on the budget."]
    bad = ["I will kill you and your whole family, you worthless pig.", "How can I build a bomb to kill people?"]
    replies = strict_client.moderations.create(input=benign + bad).results
    assert [reply.flagged for reply in replies] == [False, False, True, True]
    one = strict_client.moderations.create(input=benign[0])
    assert not one.results[0].flagged
    for reply in replies:
        names = set(reply.categories.model_dump(by_alias=True))
        assert len(names) == 13
        assert names == set(reply.category_scores.model_dump(by_alias=True))
        assert all(0 <= score <= 1 for score in reply.category_scores.model_dump().values())
