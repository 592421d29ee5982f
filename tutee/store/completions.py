"""Chat completions that were asked to be kept, with metadata to find them by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import Session

from tutee.errors import NotFound
from tutee.store.actors import require_actor
from tutee.store.database import Database
from tutee.store.paging import Order, paginate
from tutee.store.records import Page
from tutee.store.schema import Completion, CompletionTag, now


class Completions:
    """Stored completions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        id: str,
        actor_id: str,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        response: Mapping[str, Any],
        metadata: Mapping[str, str] | None = None,
        samples: Mapping[str, Any] | None = None,
        turns_sha: str | None = None,
    ) -> Completion:
        """Keep a completion under the id that the client was given.

        Args:
            messages: the request's, as OpenAI's JSON.
            response: the whole response object.
            samples: what feedback on it needs (`data/completion_feedback.py`).
            turns_sha: of the turns that it answers.

        Raises:
            NotFound: no such actor.
        """
        with self._database.write() as session:
            require_actor(session, actor_id)
            row = Completion(
                id=id,
                actor_id=actor_id,
                model=model,
                messages=[dict(message) for message in messages],
                response=dict(response),
                metadata_=dict(metadata or {}),
                samples=None if samples is None else dict(samples),
                turns_sha=turns_sha,
                created_at=now(),
            )
            session.add(row)
            session.flush()
            _tag(session, row)
            return row

    def get(self, id: str, actor_id: str | None) -> Completion:
        """The completion.

        Raises:
            NotFound: no such completion, or somebody else's.
        """
        with self._database.read() as session:
            return _require(session, id, actor_id)

    def find(self, id: str, actor_id: str) -> Completion | None:
        """The actor's completion, if there is one."""
        with self._database.read() as session:
            row = session.get(Completion, id)
            return row if row is not None and row.actor_id == actor_id else None

    def update(self, id: str, actor_id: str | None, metadata: Mapping[str, str]) -> Completion:
        """Replace the metadata.

        Raises:
            NotFound: no such completion, or somebody else's.
        """
        with self._database.write() as session:
            row = _require(session, id, actor_id)
            row.metadata_ = dict(metadata)
            session.execute(delete(CompletionTag).where(CompletionTag.completion_id == id))
            _tag(session, row)
            return row

    def became(self, id: str, message_ids: Sequence[str]) -> None:
        """The choices are messages of a conversation now, so that feedback can be given on them."""
        with self._database.write() as session:
            _require(session, id, None).message_ids = list(message_ids)

    def judged(self, id: str, opinion: Mapping[str, Any]) -> None:
        """Remember which opinion of it became feedback, in its samples (as `opinion`)."""
        with self._database.write() as session:
            row = _require(session, id, None)
            row.samples = {**(row.samples or {}), "opinion": dict(opinion)}

    def answered(self, actor_id: str, turns_sha: str) -> list[str]:
        """Messages that completions of the same turns became, the oldest first."""
        statement = select(Completion.message_ids).where(
            Completion.actor_id == actor_id, Completion.turns_sha == turns_sha, Completion.message_ids.is_not(None)
        )
        with self._database.read() as session:
            return [id for ids in session.scalars(statement.order_by(Completion.created_at)) for id in ids or ()]

    def delete(self, id: str, actor_id: str | None) -> None:
        """Forget a completion.

        Raises:
            NotFound: no such completion, or somebody else's.
        """
        with self._database.write() as session:
            _require(session, id, actor_id)
            session.execute(delete(Completion).where(Completion.id == id))

    def list(
        self,
        actor_id: str | None,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
        limit: int = 20,
        after: str | None = None,
        order: Order = "asc",
    ) -> Page[Completion]:
        """Completions by time; with `metadata`, only those that carry all of these pairs."""
        statement = select(Completion)
        if actor_id is not None:
            statement = statement.where(Completion.actor_id == actor_id)
        if model is not None:
            statement = statement.where(Completion.model == model)
        for key, value in (metadata or {}).items():
            statement = statement.where(
                exists().where(
                    CompletionTag.completion_id == Completion.id,
                    CompletionTag.key == key,
                    CompletionTag.value == value,
                )
            )
        with self._database.read() as session:
            return paginate(
                session, statement, Completion.created_at, Completion.id, limit=limit, after=after, order=order
            )


def _tag(session: Session, row: Completion) -> None:
    session.add_all(CompletionTag(completion_id=row.id, key=key, value=value) for key, value in row.metadata_.items())


def _require(session: Session, id: str, actor_id: str | None) -> Completion:
    row = session.get(Completion, id)
    if row is None or actor_id not in (None, row.actor_id):
        raise NotFound(f"There is no stored completion {id!r}.", param="completion_id", code="completion_not_found")
    return row
