"""Deleting what a person said, so that nothing of it is left but a tombstone. Works inside the caller's transaction.

Erased feedback goes with every earlier event on the same target (else the older vote would come back to life); rows of
snapshots keep their hash as proof and lose their content; the tombstone names the versions that had learned from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from tutee.ids import new_id
from tutee.store import audit, blobs
from tutee.store.schema import (
    Conversation,
    Erasure,
    Feedback,
    Generation,
    GenerationChunk,
    Message,
    ModelVersion,
    Presentation,
    PresentationItem,
    SnapshotRow,
)


def erase_feedback(
    session: Session,
    ids: Iterable[str],
    actor_id: str | None,
    conversations: Sequence[str] = (),
    jobs: Set[str] = frozenset(),
) -> Erasure:
    """Delete feedback rows, empty the snapshot rows made from them, and leave a tombstone.

    Args:
        ids: feedback ids; earlier events of the same chains must be among them (see `chain`).
        actor_id: whose it was, for the tombstone and the audit log.
        conversations: whose prompts are emptied in the snapshots too.
        jobs: that learned from files which go as well.
    """
    erased = sorted(set(ids))
    tainted = versions_from(session, snapshots_with(session, erased) | _empty_prompts(session, conversations), jobs)
    for batch in blobs.batched(erased):
        # by hash: a row made of two votes is listed under both
        rows = select(SnapshotRow.row_sha).where(SnapshotRow.feedback_id.in_(batch))
        session.execute(update(SnapshotRow).where(SnapshotRow.row_sha.in_(rows)).values(payload=None))
        session.execute(delete(Feedback).where(Feedback.id.in_(batch)))
    tombstone = Erasure(
        id=new_id("erase"),
        actor_id=actor_id,
        conversation_id=conversations[0] if len(conversations) == 1 else None,
        feedback_ids=erased,
        tainted_versions=tainted,
    )
    session.add(tombstone)
    session.flush()
    audit.append(session, "erase", tombstone.id, actor_id, {"feedback": len(erased), "tainted_versions": tainted})
    return tombstone


def chain(session: Session, feedback: Feedback) -> list[str]:
    """Ids of all events by the same actor, of the same kind, on the same target."""
    return list(
        session.scalars(
            select(Feedback.id).where(
                Feedback.actor_id == feedback.actor_id,
                Feedback.kind == feedback.kind,
                Feedback.target_id == feedback.target_id,
            )
        )
    )


def erase_conversations(
    session: Session,
    ids: Sequence[str],
    actor_id: str | None,
    feedback_ids: Iterable[str] = (),
    jobs: Set[str] = frozenset(),
) -> Erasure:
    """Delete whole conversations with their messages, generations, presentations and all feedback on them.

    Args:
        feedback_ids: more feedback to erase under the same tombstone.
        jobs: as in `erase_feedback`.
    """
    shas: set[str | None] = set()
    feedback = list(feedback_ids)
    for batch in blobs.batched(ids):
        feedback += session.scalars(select(Feedback.id).where(Feedback.conversation_id.in_(batch)))
        shas.update(session.scalars(select(Message.blob_sha).where(Message.conversation_id.in_(batch))))
        shas.update(session.scalars(select(Conversation.system_sha).where(Conversation.id.in_(batch))))
        generations = select(Generation.id).join(Message).where(Message.conversation_id.in_(batch)).scalar_subquery()
        shas.update(session.scalars(select(Generation.prompt_sha).where(Generation.id.in_(generations))))
        shown = select(PresentationItem.presentation_id).where(PresentationItem.generation_id.in_(generations))
        feedback += session.scalars(select(Feedback.id).where(Feedback.presentation_id.in_(shown)))
    tombstone = erase_feedback(session, feedback, actor_id, ids, jobs)
    for batch in blobs.batched(ids):
        _delete_rows(session, batch)
    blobs.drop_unreferenced(session, (sha for sha in shas if sha is not None))
    return tombstone


def _delete_rows(session: Session, conversations: Sequence[str]) -> None:
    generations = (
        select(Generation.id)
        .join(Message, Message.id == Generation.message_id)
        .where(Message.conversation_id.in_(conversations))
        .scalar_subquery()
    )
    shown = list(
        session.scalars(
            select(PresentationItem.presentation_id).where(PresentationItem.generation_id.in_(generations)).distinct()
        )
    )
    for batch in blobs.batched(shown):
        session.execute(delete(PresentationItem).where(PresentationItem.presentation_id.in_(batch)))
        session.execute(delete(Presentation).where(Presentation.id.in_(batch)))
    session.execute(delete(GenerationChunk).where(GenerationChunk.generation_id.in_(generations)))
    session.execute(delete(Generation).where(Generation.id.in_(generations)))
    session.execute(delete(Message).where(Message.conversation_id.in_(conversations)))
    session.execute(delete(Conversation).where(Conversation.id.in_(conversations)))


def _empty_prompts(session: Session, conversations: Iterable[str]) -> set[str]:
    """Empty the prompts that come from these conversations, which no feedback leads to; returns their snapshots."""
    snapshots: set[str] = set()
    asked = SnapshotRow.payload["conversation_id"].as_string()
    for batch in blobs.batched(conversations):
        rows = (SnapshotRow.kind == "prompt", asked.in_(batch))
        snapshots.update(session.scalars(select(SnapshotRow.snapshot_sha).where(*rows).distinct()))
        session.execute(update(SnapshotRow).where(*rows).values(payload=None))
    return snapshots


def snapshots_with(session: Session, feedback_ids: Iterable[str]) -> set[str]:
    """Shas of the snapshots that hold any of this feedback, or held it before it was erased."""
    snapshots: set[str] = set()
    for batch in blobs.batched(feedback_ids):
        statement = select(SnapshotRow.snapshot_sha).where(SnapshotRow.feedback_id.in_(batch))
        snapshots.update(session.scalars(statement.distinct()))
    return snapshots


def versions_from(session: Session, snapshots: Set[str], jobs: Set[str] = frozenset()) -> list[str]:
    """Ids of the versions made from these snapshots or by these jobs, and of all that descend from them."""
    if not snapshots and not jobs:
        return []
    columns = (ModelVersion.id, ModelVersion.parent_id, ModelVersion.snapshot_sha, ModelVersion.job_id)
    versions = session.execute(select(*columns).order_by(ModelVersion.number)).all()
    tainted: set[str] = set()
    for version in versions:  # parents have lower numbers than their children
        if version.snapshot_sha in snapshots or version.job_id in jobs or version.parent_id in tainted:
            tainted.add(version.id)
    return [version.id for version in versions if version.id in tainted]
