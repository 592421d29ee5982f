"""Erasing a person: what they said, what was answered them and what they sent goes; what holds no words stays.

`RULES` says for every column that names a person what becomes of its rows. What stays (consents, the audit log, which
version somebody promoted) names an actor whose own name is gone. The owner of the machine, and the account that keys of
nobody in particular share, have no name that could go, and keep their keys.

A file and its bytes go one by one after the rows; an erasure that was killed is made whole by erasing again. Copies are
out of reach: backups that were made before still hold everything.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound
from tutee.store import audit, erasing
from tutee.store.actors import OWNER, require_actor
from tutee.store.database import Database, affected
from tutee.store.files import Files
from tutee.store.jobs import ENDED, Jobs
from tutee.store.projects import SERVICE
from tutee.store.schema import (
    ApiKey,
    Audit,
    Base,
    Batch,
    Completion,
    Consent,
    Conversation,
    Erasure,
    Eval,
    EvalRun,
    Feedback,
    File,
    GateEval,
    Job,
    JobEvent,
    Message,
    ModelAlias,
    OpenAIConversation,
    Presentation,
    Promotion,
    Response,
    Review,
    SnapshotRow,
    Upload,
    UploadPart,
    WebhookEndpoint,
    now,
    table,
)

Fate = Literal["deleted", "with its conversation or feedback", "with its bytes", "emptied", "kept"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of the rows that name an erased person in one column."""

    fate: Fate
    values: Mapping[str, Any] = field(default_factory=dict)
    """What is written over their words, where they are emptied."""


DELETED, KEPT = Rule("deleted"), Rule("kept")
WITH_TALK = Rule("with its conversation or feedback")

RULES: Mapping[tuple[type[Base], str], Rule] = {
    (Conversation, "actor_id"): WITH_TALK,
    (Message, "author_actor_id"): WITH_TALK,  # an author owns the conversation
    (Feedback, "actor_id"): WITH_TALK,
    (SnapshotRow, "actor_id"): WITH_TALK,  # the hash stays, as proof
    (Review, "reviewer_id"): DELETED,
    (Completion, "actor_id"): DELETED,
    (Response, "actor_id"): DELETED,
    (OpenAIConversation, "actor_id"): DELETED,
    (Upload, "actor_id"): DELETED,
    (Batch, "actor_id"): DELETED,
    (WebhookEndpoint, "actor_id"): DELETED,
    (GateEval, "actor_id"): DELETED,
    (EvalRun, "actor_id"): DELETED,
    (Eval, "actor_id"): DELETED,
    (File, "actor_id"): Rule("with its bytes"),
    (Job, "actor_id"): Rule("emptied", {"metadata_": {}, "suffix": None}),  # and more: `_empty_jobs`
    (ApiKey, "actor_id"): KEPT,  # revoked and without their names, if the actor had one: `_unname`
    (Presentation, "actor_id"): KEPT,  # an order of ids
    (Promotion, "actor_id"): KEPT,  # who answers for it, and why: the audit log says so too
    (Consent, "actor_id"): KEPT,
    (ModelAlias, "actor_id"): KEPT,
    (Erasure, "actor_id"): KEPT,
    (Audit, "actor_id"): KEPT,  # a chain of hashes
}

JOB_WORDS = ("grader", "response_format", "integrations")
"""Keys of a job's config that say what its owner wrote."""
NO_NAME = (OWNER, SERVICE)
ERASED = "erase.person"
"""The action in the audit log, on the tombstone."""


@dataclass(frozen=True, slots=True)
class ErasedPerson:
    """What an erasure did: the tombstone, and how many rows went, table by table."""

    tombstone: Erasure
    removed: Mapping[str, int]


class Persons:
    """Actors, as people who can go."""

    def __init__(self, database: Database, home: Path, files: Files, jobs: Jobs) -> None:
        self._database = database
        self._uploads = home / "uploads"
        self._files = files
        self._jobs = jobs

    def erase(self, actor_id: str) -> ErasedPerson:
        """Erase everything that this person said, sent or was answered; their jobs on files are cancelled. The actor
        stays, without a name and with keys that are revoked.

        Folders of jobs are the caller's to sweep (`data/taken_back.py`).

        Raises:
            NotFound: no such actor.
        """
        with self._database.read() as session:
            require_actor(session, actor_id)
            uploads = session.scalars(select(Upload.id).where(Upload.actor_id == actor_id)).all()
            running = select(Job.id).where(Job.actor_id == actor_id, Job.method != "improve", Job.status.not_in(ENDED))
            jobs = session.scalars(running).all()
        for id in jobs:
            with suppress(InvalidInput):  # it has ended meanwhile
                self._jobs.request_cancel(id)
        for id in uploads:
            shutil.rmtree(self._uploads / id, ignore_errors=True)
        with self._database.write(lock=f"feedback:{actor_id}") as session:
            tombstone, removed = _erase(session, actor_id)
        removed |= {"file": self._forget_files(actor_id)}
        return ErasedPerson(tombstone, {name: count for name, count in removed.items() if count})

    def _forget_files(self, actor_id: str) -> int:
        self._files.sweep()  # of a file whose time is over nobody hears any more
        with self._database.read() as session:
            ids = session.scalars(select(File.id).where(File.actor_id == actor_id)).all()
        for id in ids:
            with suppress(NotFound):
                self._files.delete(id)
        return len(ids)


def _erase(session: Session, actor_id: str) -> tuple[Erasure, dict[str, int]]:
    removed = {}
    for (kind, column), rule in RULES.items():
        mine = table(kind).c[column] == actor_id
        if rule.fate == "deleted":
            if kind is Upload:
                parts = UploadPart.upload_id.in_(select(Upload.id).where(mine))
                session.execute(delete(UploadPart).where(parts))
            removed[kind.__tablename__] = affected(session, delete(kind).where(mine))
        elif rule.fate == "emptied":
            session.execute(update(kind).where(mine).values(dict(rule.values)))
    for kind in (Conversation, Feedback):
        counted = select(func.count()).select_from(kind).where(table(kind).c.actor_id == actor_id)
        removed[kind.__tablename__] = session.scalar(counted) or 0
    conversations = list(session.scalars(select(Conversation.id).where(Conversation.actor_id == actor_id)))
    feedback = list(session.scalars(select(Feedback.id).where(Feedback.actor_id == actor_id)))
    jobs = _empty_jobs(session, actor_id)
    tombstone = erasing.erase_conversations(session, conversations, actor_id, feedback, jobs)
    audit.append(session, ERASED, tombstone.id, actor_id)
    removed["api_key"] = _unname(session, actor_id)
    return tombstone, removed


def _empty_jobs(session: Session, actor_id: str) -> set[str]:
    """Take the words out of the actor's jobs; ids of those that trained on the actor's files."""
    on_files = set()
    for job in session.scalars(select(Job).where(Job.actor_id == actor_id)):
        job.progress = {key: value for key, value in job.progress.items() if key not in ("samples", "health")}
        if job.method == "improve":
            continue
        on_files.add(job.id)
        job.config = {key: value for key, value in job.config.items() if key not in JOB_WORDS}
        job.error = None if job.error is None else {**job.error, "message": "Erased."}
        session.execute(update(JobEvent).where(JobEvent.job_id == job.id).values(message="Erased."))
    return on_files


def _unname(session: Session, actor_id: str) -> int:
    """Take the actor's name, and the use of their keys; how many keys that are."""
    actor = require_actor(session, actor_id)
    *project, name = actor.handle.split("/", 1)
    if name in NO_NAME:
        return 0
    actor.handle, actor.cohort = "/".join([*project, f"erased-{actor.id}"]), None
    session.execute(update(ApiKey).where(ApiKey.actor_id == actor_id).values(name=""))
    live = (ApiKey.actor_id == actor_id, ApiKey.revoked_at.is_(None))
    return affected(session, update(ApiKey).where(*live).values(revoked_at=now()))
