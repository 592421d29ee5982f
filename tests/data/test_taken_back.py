"""Words that were taken back leave the folders of the jobs that learned from them, and of those jobs only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.homes import Home
from tutee.data.from_feedback import collect
from tutee.data.snapshot import freeze
from tutee.data.taken_back import GONE, NUMBERS, forget_taken_back
from tutee.store.schema import Job
from tutee.train.record import FILES
from tutee.worker import wandb_run


def begun(home: Home, method: str = "improve", training_file: str | None = None) -> Job:
    """A job that a worker works on, and its folder with a stage file, a checkpoint and numbers."""
    job = home.store.jobs.add(method, "tiny", {}, training_file=training_file)
    if method == "improve":
        home.store.jobs.set_snapshot(job.id, freeze(home.store, collect(home.store)).sha)
    assert home.store.jobs.lease("worker", 60) is not None
    home.store.jobs.progress(job.id, "train", 1, 2, samples=[{"prompt": "the secret", "answer": "yes"}])
    folder = folder_of(home, job)
    (folder / "train-1").mkdir(parents=True)
    (folder / "train-1" / "rows.jsonl").write_text("the secret")
    (folder / "candidates.jsonl").write_text("the secret")
    (folder / "metrics.jsonl").write_text("{}\n")
    return job


def folder_of(home: Home, job: Job) -> Path:
    return home.store.home / "jobs" / job.id


def words_of(home: Home, job: Job) -> bool:
    """Whether the secret is anywhere in the job's folder or in its row."""
    said = "".join(path.read_text() for path in folder_of(home, job).rglob("*") if path.is_file())
    return "the secret" in said + repr(home.store.jobs.get(job.id).progress)


def end(home: Home, job: Job, how: str) -> None:
    jobs = home.store.jobs
    if how == "failed":
        jobs.fail(job.id, "diverged", "It diverged.")
    elif how == "cancelled":
        jobs.mark_cancelled(job.id)
    elif how == "succeeded":
        jobs.finish(job.id)
    else:
        if how == "paused":
            jobs.request_pause(job.id)
        jobs.release(job.id, "worker")
    assert jobs.get(job.id).status == how


def test_numbers_are_what_the_record_and_the_curves_leave() -> None:
    assert {*FILES, wandb_run.FOLDER} == set(NUMBERS)


@pytest.mark.parametrize("how", ["failed", "cancelled", "paused", "queued", "succeeded"])
def test_erased_feedback_leaves_the_folder_of_a_job_that_nobody_works_on(home: Home, how: str) -> None:
    gone = home.thumb(home.answer(home.ask("2+2?"), "4"), 1)
    job = begun(home)
    end(home, job, how)
    assert forget_taken_back(home.store) == []
    assert words_of(home, job), "nothing was taken back yet"
    home.store.feedback.erase(gone.id, home.person())
    assert forget_taken_back(home.store) == [job.id]
    assert not words_of(home, job)
    assert [path.name for path in folder_of(home, job).iterdir()] == ["metrics.jsonl"]
    assert "took back" in home.store.jobs.events(job.id).data[0].message
    assert forget_taken_back(home.store) == [], "there is nothing more to delete"


def test_a_running_job_is_left_to_its_worker(home: Home) -> None:
    gone = home.thumb(home.answer(home.ask("2+2?"), "4"), 1)
    job = begun(home)
    home.store.feedback.erase(gone.id, home.person())
    assert forget_taken_back(home.store) == []
    assert words_of(home, job)
    end(home, job, "paused")
    assert forget_taken_back(home.store) == [job.id]


def test_withdrawn_consent_and_a_deleted_conversation_do_the_same(home: Home) -> None:
    first, second = (home.thumb(home.answer(home.ask(question), "4"), 1) for question in ("2+2?", "1+3?"))
    job = begun(home)
    end(home, job, "failed")
    assert first.conversation_id is not None
    home.store.conversations.update(first.conversation_id, home.person(), train=False)
    assert forget_taken_back(home.store) == [job.id]
    again = begun(home)
    end(home, again, "cancelled")
    assert forget_taken_back(home.store) == [], "it began after the consent was withdrawn"
    assert second.conversation_id is not None
    home.store.conversations.delete(second.conversation_id, home.person())
    assert forget_taken_back(home.store) == [again.id]


def test_a_job_whose_file_was_deleted_keeps_no_words_of_it(home: Home) -> None:
    file = home.store.files.add(b"{}\n", "rows.jsonl", "fine-tune", home.person())
    job = begun(home, "supervised", file.id)
    end(home, job, "failed")
    assert forget_taken_back(home.store) == []
    home.store.files.delete(file.id)
    assert forget_taken_back(home.store) == [job.id]
    assert not words_of(home, job)


def test_what_a_killed_sweep_left_goes_with_the_next(home: Home) -> None:
    left = home.store.home / "jobs" / f"{GONE}1"
    left.mkdir(parents=True)
    (left / "rows.jsonl").write_text("the secret")
    forget_taken_back(home.store)
    assert not left.exists()
