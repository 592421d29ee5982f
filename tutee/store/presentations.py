"""Presentations: which answers somebody saw, in which order, and how they were chosen. Written once, never changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store import blobs
from tutee.store.actors import require_actor
from tutee.store.database import Database
from tutee.store.records import StoredPresentation
from tutee.store.schema import Conversation, Generation, Message, Presentation, PresentationItem, now

LAYOUTS = ("single", "side_by_side", "rank")


class Presentations:
    """What was shown to whom."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        actor_id: str,
        generation_ids: Sequence[str],
        layout: str = "single",
        blind: bool = False,
        selection_policy: str = "random",
        order_seed: int = 0,
        selection_prob: float = 1.0,
    ) -> StoredPresentation:
        """Record what is about to be shown.

        Args:
            generation_ids: first to last as shown; one for `single`, two for `side_by_side`, more for `rank`.
            blind: whether the versions stay hidden until there is a vote.
            selection_prob: probability of showing just these, in (0, 1].

        Raises:
            NotFound: no such actor; a generation that is not there or not theirs (param generation_ids[i]).
            InvalidInput: an unknown layout, a number of answers that does not fit it, or one answer twice.
        """
        ids = list(generation_ids)
        fits = {"single": len(ids) == 1, "side_by_side": len(ids) == 2, "rank": len(ids) >= 2}
        if not fits.get(layout, False) or len(set(ids)) != len(ids):
            raise InvalidInput(
                f"A presentation is single (1 answer), side_by_side (2) or rank (2 or more); this is {layout!r} of "
                f"{len(set(ids))} different answers.",
                param="generation_ids",
            )
        if not 0 < selection_prob <= 1:
            raise InvalidInput("'selection_prob' must be above 0 and at most 1.", param="selection_prob")
        with self._database.write() as session:
            require_actor(session, actor_id)
            _require_generations(session, ids, actor_id)
            row = Presentation(
                id=new_id("pres"),
                actor_id=actor_id,
                layout=layout,
                blind=bool(blind),
                selection_policy=selection_policy,
                selection_prob=selection_prob,
                order_seed=order_seed,
                created_at=now(),
            )
            session.add(row)
            session.flush()
            session.add_all(
                PresentationItem(presentation_id=row.id, position=i, generation_id=id) for i, id in enumerate(ids)
            )
            session.flush()
            return _load(session, Presentation.id == row.id)[row.id]

    def get(self, id: str, actor_id: str | None) -> StoredPresentation:
        """The presentation.

        Raises:
            NotFound: no such presentation, or shown to somebody else.
        """
        with self._database.read() as session:
            return require_presentation(session, id, actor_id)

    def for_message(self, message_id: str) -> StoredPresentation | None:
        """The newest presentation that shows this message; no owner check."""
        shows = (
            select(PresentationItem.presentation_id)
            .join(Generation, Generation.id == PresentationItem.generation_id)
            .where(Generation.message_id == message_id)
        )
        with self._database.read() as session:
            found = _load(session, Presentation.id.in_(shows))
        return max(found.values(), key=lambda shown: (shown.created_at, shown.id), default=None)

    def get_many(self, ids: Iterable[str]) -> dict[str, StoredPresentation]:
        """Those of `ids` that exist; no owner check."""
        found: dict[str, StoredPresentation] = {}
        with self._database.read() as session:
            for batch in blobs.batched(dict.fromkeys(ids)):
                found.update(_load(session, Presentation.id.in_(batch)))
        return found


def require_presentation(session: Session, id: str, actor_id: str | None) -> StoredPresentation:
    """The presentation, or NotFound when it is not there or was shown to somebody else."""
    shown = _load(session, Presentation.id == id).get(id)
    if shown is None or actor_id not in (None, shown.actor_id):
        raise NotFound(f"There is no presentation {id!r}.", param="presentation_id", code="presentation_not_found")
    return shown


def _require_generations(session: Session, ids: list[str], actor_id: str) -> None:
    owned = set(
        session.scalars(
            select(Generation.id)
            .join(Message, Message.id == Generation.message_id)
            .join(Conversation, Conversation.id == Message.conversation_id)
            .where(Generation.id.in_(ids), Conversation.actor_id == actor_id)
        )
    )
    for i, id in enumerate(ids):
        if id not in owned:
            raise NotFound(f"There is no generation {id!r}.", param=f"generation_ids[{i}]", code="generation_not_found")


def _load(session: Session, which: ColumnElement[bool]) -> dict[str, StoredPresentation]:
    statement = (
        select(Presentation, PresentationItem.generation_id, Generation.message_id)
        .join(PresentationItem, PresentationItem.presentation_id == Presentation.id)
        .join(Generation, Generation.id == PresentationItem.generation_id)
        .where(which)
        .order_by(Presentation.id, PresentationItem.position)
    )
    rows: dict[str, Presentation] = {}
    items: dict[str, list[tuple[str, str]]] = {}
    for row, generation_id, message_id in session.execute(statement):
        rows[row.id] = row
        items.setdefault(row.id, []).append((generation_id, message_id))
    return {
        id: StoredPresentation(
            id=id,
            actor_id=row.actor_id,
            layout=row.layout,
            blind=row.blind,
            selection_policy=row.selection_policy,
            selection_prob=row.selection_prob,
            order_seed=row.order_seed,
            created_at=row.created_at,
            generation_ids=tuple(generation for generation, _ in items[id]),
            message_ids=tuple(message for _, message in items[id]),
        )
        for id, row in rows.items()
    }
