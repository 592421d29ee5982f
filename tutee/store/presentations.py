"""Presentations: which answers somebody saw, in which order, and how they were chosen. Written once, never changed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Select, bindparam, select
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store import blobs
from tutee.store.actors import require_actor
from tutee.store.database import Database
from tutee.store.records import Showing, StoredPresentation
from tutee.store.schema import Conversation, Generation, Message, Presentation, PresentationItem, now, table

LAYOUTS = ("single", "side_by_side", "rank")
_INSERT, _INSERT_ITEM = table(Presentation).insert(), table(PresentationItem).insert()


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

        Raises:
            NotFound: no such actor; a generation that is not there or not theirs (param generation_ids[i]).
            InvalidInput: an unknown layout, a number of answers that does not fit it, or one answer twice.
        """
        ids = list(generation_ids)
        showing = Showing(layout, bool(blind), selection_policy, order_seed, selection_prob)
        check_showing(showing, len(ids) if len(set(ids)) == len(ids) else 0)
        with self._database.write() as session:
            require_actor(session, actor_id)
            _require_generations(session, ids, actor_id)
            id = insert(session, actor_id, ids, showing)
            return _load(session, _SHOWN_ONE, id)[id]

    def get(self, id: str, actor_id: str | None) -> StoredPresentation:
        """The presentation.

        Raises:
            NotFound: no such presentation, or shown to somebody else.
        """
        with self._database.read() as session:
            return require_presentation(session, id, actor_id)

    def for_message(self, message_id: str) -> StoredPresentation | None:
        """The newest presentation that shows this message; no owner check."""
        with self._database.read() as session:
            found = _load(session, _WITH_MESSAGE, message_id)
        return max(found.values(), key=lambda shown: (shown.created_at, shown.id), default=None)

    def get_many(self, ids: Iterable[str]) -> dict[str, StoredPresentation]:
        """Those of `ids` that exist; no owner check."""
        found: dict[str, StoredPresentation] = {}
        with self._database.read() as session:
            for batch in blobs.batched(dict.fromkeys(ids)):
                found.update(_load(session, _SHOWN_MANY, batch))
        return found


def check_showing(showing: Showing, answers: int) -> None:
    """Refuse a layout that does not fit the number of different answers."""
    fits = dict(zip(LAYOUTS, (answers == 1, answers == 2, answers >= 2), strict=True))
    if not fits.get(showing.layout, False):
        raise InvalidInput(
            "A presentation is single (1 answer), side_by_side (2) or rank (2 or more), of different answers; this is "
            f"{showing.layout!r} of {answers}.",
            param="generation_ids",
        )
    if not 0 < showing.selection_prob <= 1:
        raise InvalidInput("'selection_prob' must be above 0 and at most 1.", param="selection_prob")


def insert(session: Session, actor_id: str, generation_ids: Sequence[str], showing: Showing) -> str:
    """Add the rows of a presentation; its id."""
    row = {name: getattr(showing, name) for name in showing.__dataclass_fields__}
    row |= {"id": new_id("pres"), "actor_id": actor_id, "created_at": now()}
    session.execute(_INSERT, row)
    items = [{"presentation_id": row["id"], "position": i, "generation_id": id} for i, id in enumerate(generation_ids)]
    session.execute(_INSERT_ITEM, items)
    return str(row["id"])


def require_presentation(session: Session, id: str, actor_id: str | None) -> StoredPresentation:
    """The presentation, or NotFound when it is not there or was shown to somebody else."""
    shown = _load(session, _SHOWN_ONE, id).get(id)
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


_SHOWN = (
    select(Presentation, PresentationItem.generation_id, Generation.message_id)
    .join(PresentationItem, PresentationItem.presentation_id == Presentation.id)
    .join(Generation, Generation.id == PresentationItem.generation_id)
    .order_by(Presentation.id, PresentationItem.position)
)
_SHOWN_ONE = _SHOWN.where(Presentation.id == bindparam("key"))
_SHOWN_MANY = _SHOWN.where(Presentation.id.in_(bindparam("key", expanding=True)))
_WITH_MESSAGE = _SHOWN.where(
    Presentation.id.in_(
        select(PresentationItem.presentation_id)
        .join(Generation, Generation.id == PresentationItem.generation_id)
        .where(Generation.message_id == bindparam("key"))
        .correlate(None)
    )
)


def _load(
    session: Session, statement: Select[*tuple[Any, ...]], key: str | Sequence[str]
) -> dict[str, StoredPresentation]:
    rows: dict[str, Presentation] = {}
    items: dict[str, list[tuple[str, str]]] = {}
    for row, generation_id, message_id in session.execute(statement, {"key": key}):
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
