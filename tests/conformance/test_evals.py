"""T81: evals count rightly, and as one of the gate's checks block a worse model and let a better one through."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
import torch

from tests.conformance.conftest import ServerProcess
from tests.evaluate.test_gate import GOOD
from tests.tiny_home import show_two, vote
from tutee.model.lora import Lora, LoraConfig
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.store import Store
from tutee.store.schema import ModelVersion

LABELLED = (
    ("Paris", "Paris", True),
    ("Paris", "It is Paris.", True),
    ("Paris", "PARIS", True),
    ("Rome", "Milan", False),
    ("Rome", "", False),
    ("Rome", "rome", True),
    ("Berlin", "Ber lin", False),
    ("Madrid", "I think it is Madrid, or Barcelona", True),
    ("Cairo", "cairn", False),
    ("Oslo", "The capital is Oslo", True),
)
"""(reference, answer, whether it names the capital): labelled by hand."""
NAMES_IT = {
    "type": "string_check",
    "name": "names it",
    "input": "{{ sample.output_text }}",
    "reference": "{{ item.capital }}",
    "operation": "ilike",
}
SCHEMA = {"type": "object", "properties": {"capital": {"type": "string"}}, "required": ["capital"]}
CONFIG = {"type": "custom", "item_schema": SCHEMA, "include_sample_schema": True}
COUNTRIES = ("France Paris", "Italy Rome", "Germany Berlin", "Spain Madrid", "Japan Tokyo", "Egypt Cairo")
SOURCE = {
    "type": "completions",
    "source": {
        "type": "file_content",
        "content": [{"item": dict(zip(("country", "capital"), pair.split(), strict=True))} for pair in COUNTRIES],
    },
    "input_messages": {
        "type": "template",
        "template": [{"role": "user", "content": "What is the capital of {{ item.country }}?"}],
    },
    "sampling_params": {"temperature": 0, "max_completion_tokens": 24},
}


def until(look: Callable[[], Any], seconds: float = 300.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.1)
    return found


def make_eval(client: openai.OpenAI) -> str:
    return client.evals.create(name="capitals", data_source_config=CONFIG, testing_criteria=[NAMES_IT]).id  # type: ignore[arg-type,list-item]


@pytest.mark.conformance("T81")
def test_ten_rows_labelled_by_hand_are_counted_rightly(strict_client: openai.OpenAI) -> None:
    eval_id = make_eval(strict_client)
    rows = [{"item": {"capital": capital}, "sample": {"output_text": said}} for capital, said, _ in LABELLED]
    source = {"type": "jsonl", "source": {"type": "file_content", "content": rows}}
    run = strict_client.evals.runs.create(eval_id, data_source=source)  # type: ignore[arg-type]

    def ended() -> Any:
        now = strict_client.evals.runs.retrieve(run.id, eval_id=eval_id)
        return now if now.status == "completed" else None

    counts = until(ended, 60).result_counts
    passing = sum(right for _, _, right in LABELLED)
    assert (counts.total, counts.passed, counts.failed, counts.errored) == (10, passing, 10 - passing, 0)
    items = list(strict_client.evals.runs.output_items.list(run.id, eval_id=eval_id, limit=4))
    assert [item.results[0].passed for item in items] == [right for _, _, right in LABELLED]


@contextmanager
def store_of(server: ServerProcess) -> Iterator[Store]:
    with Store.open(f"sqlite:///{server.home / 'tutee.db'}", server.home) as store:
        yield store


def add_adapter(store: Store, model: Pretrained, base: ModelVersion, name: str, scale: float) -> ModelVersion:
    """An adapter of random numbers as a candidate: 0 changes nothing, a large one leaves only noise."""
    lora = Lora(model.config, LoraConfig(rank=4, alpha=8))
    dice = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=dice) * scale)
    folder = f"versions/{name}"
    lora.save(store.home / folder, model.weights_sha256, model.name)
    sha = hashlib.sha256(name.encode()).hexdigest()
    return store.versions.add(name, "adapter", weights_sha256=sha, folder=folder, parent_id=base.id)


def speak_for(store: Store, model: Pretrained, candidate: ModelVersion, live: ModelVersion) -> None:
    """Everything else that the gate looks at is in the candidate's favour."""
    for score in GOOD:
        store.evaluations.add(
            candidate.id,
            live.id,
            score.suite,
            score.n,
            score.estimate,
            score.ci_lo,
            score.ci_hi,
            "",
            score.role,
            dict(score.detail),
        )
    for i in range(40):
        shown = show_two(
            store,
            model,
            f"person-{i % 6}",
            f"Question {i} of {candidate.name}?",
            [(candidate.id, "a b"), (live.id, "c d")],
        )
        vote(store, f"person-{i % 6}", shown, "b" if i % 5 == 0 else "a")


def judged(http: httpx.Client, name: str) -> dict[str, Any]:
    """The gate's word once its eval has run."""

    def look() -> Any:
        gate = http.post(f"/v1/tutee/versions/{name}/gate").json()
        check = next(check for check in gate["checks"] if check["name"] == "eval: capitals")
        return gate | {"check": check} if check["value"] is not None else None

    return dict(until(look))


@pytest.mark.conformance("T81", slow=True)
def test_the_gate_blocks_a_worse_model_and_promotes_a_better_one(own_server: Callable[..., ServerProcess]) -> None:
    server = own_server()
    model = load_pretrained(server.model, "bfloat16", name=server.model.name)
    with server.client() as client, server.http() as http, store_of(server) as store:
        eval_id = make_eval(client)
        http.put(f"/v1/tutee/gate/evals/{eval_id}", json={"data_source": SOURCE}).raise_for_status()
        base = store.versions.live()

        worse = add_adapter(store, model, base, "worse", 0.5)
        speak_for(store, model, worse, base)
        gate = judged(http, "worse")
        assert (gate["verdict"], gate["check"]["verdict"]) == ("fail", "fail"), gate
        refused = http.post("/v1/tutee/versions/worse/promote", json={})
        assert refused.json()["error"]["code"] == "gate_not_passed"
        forced = {"override": True, "reason": "so that there is something to be better than"}
        http.post("/v1/tutee/versions/worse/promote", json=forced).raise_for_status()

        better = add_adapter(store, model, base, "better", 0.0)
        speak_for(store, model, better, worse)
        gate = judged(http, "better")
        assert (gate["verdict"], gate["check"]["verdict"]) == ("pass", "pass"), gate
        http.post("/v1/tutee/versions/better/promote", json={}).raise_for_status()
        assert store.versions.live().id == better.id

        http.post("/v1/tutee/rollback", json={"reason": "regret"}).raise_for_status()
        assert store.versions.live().id == worse.id
