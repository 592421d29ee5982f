"""The server and its own worker process together: a file goes in, a model that answers comes out."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from typing import Any

from tests.serve.conftest import Walk, serving
from tutee.settings import Settings

PATIENCE_SECONDS = 400
LINE = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bbbb"}]})


def test_fine_tuning_from_upload_to_answer_and_a_bad_line_breaks_nothing_else(
    make_home: Callable[..., Settings],
) -> None:
    with serving(make_home(), worker=True) as running:
        sdk = running.strict()
        good, bad = (
            sdk.files.create(file=("rows.jsonl", "\n".join(lines).encode()), purpose="fine-tune").id
            for lines in ([LINE] * 8, [LINE] * 6 + ["{bad"] + [LINE])
        )
        options: Any = {"model": "tiny", "hyperparameters": {"n_epochs": 2, "batch_size": 4}}
        broken = sdk.fine_tuning.jobs.create(training_file=bad, **options)
        job = sdk.fine_tuning.jobs.create(training_file=good, suffix="mine", **options)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (job := sdk.fine_tuning.jobs.retrieve(job.id)).status not in ("succeeded", "failed"):
            assert time.monotonic() < deadline, job
            time.sleep(0.1)
        failed = sdk.fine_tuning.jobs.retrieve(broken.id)
        assert failed.status == "failed"
        assert failed.error is not None
        assert "line 7" in failed.error.message
        assert failed.error.param == "training_file"

        assert job.status == "succeeded", job.error
        assert job.hyperparameters.learning_rate_multiplier == 1.0
        assert job.trained_tokens
        name = job.fine_tuned_model
        assert name is not None
        assert ":mine:" in name
        checkpoints = [row.fine_tuned_model_checkpoint for row in sdk.fine_tuning.jobs.checkpoints.list(job.id)]
        assert checkpoints[0] == name
        assert len(checkpoints) == 2
        rows = list(csv.DictReader(sdk.files.content(job.result_files[0]).read().decode().splitlines()))
        assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
        losses = [float(row["train_loss"]) for row in rows]
        assert losses[-1] < losses[0]
        for model in checkpoints:
            assert sdk.models.retrieve(model).id == model
            asked: Any = {"model": model, "messages": [{"role": "user", "content": "a"}], "max_tokens": 3}
            assert sdk.chat.completions.create(**asked).model == model

        # What somebody tunes by the API is not shown to people unasked.
        walk = Walk(running.http())
        shown = walk.ask("Which?", compare=True)
        kept = [running.services.store.generations.get(message["generation_id"]) for message in shown["messages"]]
        assert {generation.arm for generation in kept} == {"live"}
