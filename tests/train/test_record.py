"""Metrics in files: what a crash leaves is cut back, and TensorBoard reads what we wrote."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tutee.train.progress import Progress
from tutee.train.record import Recorder, read_metrics


def step(number: int, loss: float, total: int = 4) -> Progress:
    return Progress("train", number, total, {"loss": loss, "reward": float("nan")}, health="The loss is falling.")


def test_every_step_is_a_line_and_a_point_and_goes_on_to_the_listener(tmp_path: Path) -> None:
    heard: list[Progress] = []
    recorder = Recorder(tmp_path, heard.append)
    recorder(Progress("pairs", 0, 1))
    for number in range(1, 5):
        recorder(step(number, 1 / number))
    recorder.close()
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert "reward" not in lines[0]  # not a number is no JSON
    assert len(heard) == 5
    events = EventAccumulator(str(tmp_path / "tensorboard" / "train"))
    events.Reload()
    assert [(point.step, round(point.value, 4)) for point in events.Scalars("loss")] == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.3333),
        (4, 0.25),
    ]


def test_a_run_that_goes_on_takes_back_what_it_repeats(tmp_path: Path) -> None:
    first = Recorder(tmp_path, lambda progress: None)
    first(Progress("imitate", 9, 9, {"loss": 7.0}))
    for number in (1, 2, 3):
        first(step(number, float(number)))
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "train", "st')  # the crash
    second = Recorder(tmp_path, lambda progress: None)
    second(step(3, 30.0))
    second.close()
    lines = [(line["stage"], line["step"], line["loss"]) for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert lines == [("imitate", 9, 7.0), ("train", 1, 1.0), ("train", 2, 2.0), ("train", 3, 30.0)]
    events = EventAccumulator(str(tmp_path / "tensorboard" / "train"))
    events.Reload()
    assert [point.value for point in events.Scalars("loss") if point.step == 3] == [30.0]
