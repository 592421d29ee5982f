"""What people take back leaves the jobs that learned from it: erased feedback, withdrawn consent, deleted files.

A job's folder holds people's words as stage files and checkpoints. While a worker is on the job, the job itself looks
whether something was taken back and begins again (`improve.py`); everything else is swept here, after each erasure and
whenever a worker lets go of a job. Numbers stay. Does not know what a stage file says.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from tutee.data.threads import consented
from tutee.store import Store
from tutee.store.job_log import add_event
from tutee.store.persons import ErasedPerson
from tutee.store.schema import File, Job

NUMBERS = ("metrics.jsonl", "tensorboard", "wandb")
"""What holds no words in a job's folder; see `train/record.py` and `worker/wandb_run.py`."""
GONE = ".gone-"
SAID = "Somebody took back what the job had learned from: its files were deleted."


def taken_back(store: Store, sha: str) -> bool:
    """Whether somebody erased a row of the snapshot, or withdrew consent to it, after it was frozen: then nothing made
    from it may be kept."""
    rows = store.snapshots.rows(sha)
    if len(rows) < store.snapshots.get(sha).row_count:
        return True
    talked = {str(row.payload["conversation_id"]) for row in rows if row.payload}
    return len(consented(store, talked)) < len(talked)


def forget_taken_back(store: Store) -> list[str]:
    """Delete the words in the folders of all jobs that learned from what was taken back; ids of those jobs.

    A job that waits or is paused begins again when its turn comes. A running one is left to its worker, who looks
    itself and calls this when it lets go of the job.
    """
    _sweep(store)
    with store.database.read() as session:
        kept = [job.id for job in session.scalars(select(Job).order_by(Job.id)) if _holds_words(store, job)]
    lost = cache(lambda sha: taken_back(store, sha))
    return [id for id in kept if _forget(store, id, lost)]


def erase_person(store: Store, actor_id: str) -> tuple[ErasedPerson, list[str]]:
    """Erase a person wherever they are, in the folders of jobs too; ids of the jobs whose words went.

    Raises:
        NotFound: no such actor.
    """
    erased = store.persons.erase(actor_id)
    return erased, forget_taken_back(store)


def forget_words(folder: Path) -> None:
    """Empty a job's folder but for its numbers; nobody may be working in it."""
    for path in _words(folder):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    _drop_if_empty(folder)


def _forget(store: Store, id: str, lost: Callable[[str], bool]) -> bool:
    job = store.jobs.get(id)
    if not (_file_is_gone(store, job) or (job.snapshot_sha is not None and lost(job.snapshot_sha))):
        return False
    folder = store.home / "jobs" / id
    aside = folder.parent / f"{GONE}{secrets.token_hex(8)}"
    with store.database.write(lock="jobs") as session:  # so that no worker takes it meanwhile
        row = session.get(Job, id)
        if row is None or row.status == "running":
            return False
        _set_aside(folder, aside)
        row.progress = {key: value for key, value in row.progress.items() if key != "samples"}
        add_event(session, id, "warn", SAID)
    shutil.rmtree(aside, ignore_errors=True)
    return True


def _holds_words(store: Store, job: Job) -> bool:
    return job.status != "running" and ("samples" in job.progress or bool(_words(store.home / "jobs" / job.id)))


def _words(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.name not in NUMBERS]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _set_aside(folder: Path, aside: Path) -> None:
    words = _words(folder)
    if words:
        aside.mkdir(parents=True)
    for path in words:
        with suppress(FileNotFoundError):  # its worker, who is done with it, was quicker
            path.rename(aside / path.name)
    _drop_if_empty(folder)


def _drop_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()  # nothing was worth keeping


def _sweep(store: Store) -> None:
    """Delete what somebody set aside who was killed then. Under the lock nobody is just setting something aside."""
    if not any((store.home / "jobs").glob(f"{GONE}*")):
        return
    with store.database.write(lock="jobs"):
        left = list((store.home / "jobs").glob(f"{GONE}*"))
    for path in left:
        shutil.rmtree(path, ignore_errors=True)


def _file_is_gone(store: Store, job: Job) -> bool:
    with store.database.read() as session:
        return any(_missing(session, id) for id in (job.training_file, job.validation_file) if id is not None)


def _missing(session: Session, file_id: str) -> bool:
    return not session.scalar(select(exists().where(File.id == file_id)))
