"""Feedback to rows: everything that can be learned from now, and why the rest cannot.

Everything is always collected, not only what is new: a version is trained from the base on all that people let us keep.
Only the newest judgement of a person on a target counts. `judging.py` says what each piece of feedback makes,
`threads.py` whose it may be, `splits.py` what is held out; `snapshot.py` scrubs and freezes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from sqlalchemy import select

from tutee.data.judging import Judge, Outcome, Reason
from tutee.data.prompts import Prompt, prompts_of
from tutee.data.rows import Kind, Row, UnpairedRow, canonical, kind_of, replies_of
from tutee.data.threads import Question, consented_threads, questions
from tutee.store import Store
from tutee.store.schema import Feedback

__all__ = ["Collected", "Reason", "collect", "reasons_against", "why_not"]


@dataclass(frozen=True, slots=True)
class Collected:
    """Everything that can be learned from now.

    `unusable` holds (feedback id, reason) once for each other piece of feedback. `new` counts the live pieces, by kind,
    that the version asked about has not seen.
    """

    rows: tuple[Row, ...]
    prompts: tuple[Prompt, ...]
    unusable: tuple[tuple[str, Reason], ...]
    new: Mapping[str, int]

    @property
    def usable(self) -> dict[Kind, int]:
        """Rows by kind, both splits."""
        counts = Counter(kind_of(row) for row in self.rows)
        return {"sft": counts["sft"], "pair": counts["pair"], "unpaired": counts["unpaired"]}

    @property
    def reasons(self) -> dict[Reason, int]:
        """How often each reason was given, the most frequent first."""
        return dict(Counter(reason for _, reason in self.unusable).most_common())

    @property
    def held_out(self) -> dict[str, int]:
        """How many rows, people and conversations are kept apart for evaluation."""
        apart = [row for row in self.rows if row.split == "held_out"]
        return {
            "rows": len(apart),
            "people": len({row.origin.actor_id for row in apart}),
            "conversations": len({row.origin.conversation_id for row in apart}),
        }


def collect(store: Store, since_version: str | None = None) -> Collected:
    """All rows and prompts from live, consented feedback and conversations.

    Args:
        since_version: a version; `new` then counts what it has not learned from. None: everything is new.

    Raises:
        NotFound: no such version.
    """
    with store.database.read() as session:
        ever = session.scalars(select(Feedback.id)).all()
    events = store.feedback.live()
    threads = consented_threads(store)
    asked = questions(threads.values())
    outcomes = Judge(store, threads, events).outcomes()
    _split(outcomes, asked)
    _drop_duplicates(outcomes)
    rows = tuple(row for outcome in outcomes.values() if isinstance(outcome, list) for row in outcome)
    used = {id for row in rows for id in row.origin.feedback_ids}
    unusable = {id: Reason.SUPERSEDED for id in ever if id not in outcomes}
    unusable |= {id: why for id, why in outcomes.items() if isinstance(why, Reason) and id not in used}
    new = _new(store, since_version, events, used)
    return Collected(rows, tuple(prompts_of(asked.values())), tuple(sorted(unusable.items())), new)


def why_not(store: Store, feedback_id: str) -> Reason | None:
    """Why one piece of feedback is unusable, or None; looks at its conversation only (not for duplicates elsewhere).

    Raises:
        NotFound: no such feedback.
    """
    return reasons_against(store, [store.feedback.get(feedback_id)])[feedback_id]


def reasons_against(store: Store, events: Iterable[Feedback]) -> dict[str, Reason | None]:
    """`why_not` of each of these; what one person said in one conversation is judged together."""
    found: dict[str, Reason | None] = {}
    by_place = groupby(sorted(events, key=_place), key=_place)
    for (actor_id, conversation_id), here in by_place:
        live = store.feedback.live(actor_id, conversation_id=conversation_id or None)
        threads = consented_threads(store, [conversation_id] if conversation_id else [])
        outcomes = Judge(store, threads, live).outcomes()
        for event in here:
            outcome = outcomes.get(event.id, Reason.SUPERSEDED)
            found[event.id] = outcome if isinstance(outcome, Reason) else None
    return found


def _place(event: Feedback) -> tuple[str, str]:
    return event.actor_id, event.conversation_id or ""


def _split(outcomes: dict[str, Outcome], asked: Mapping[str, Question]) -> None:
    """Give each row the split of the question it answers; what is set aside becomes unusable."""
    for id, outcome in outcomes.items():
        if isinstance(outcome, list):
            split = asked[outcome[0].origin.question_id].split
            outcomes[id] = Reason.SET_ASIDE if split is None else [replace(row, split=split) for row in outcome]


def _drop_duplicates(outcomes: dict[str, Outcome]) -> None:
    """A person who says the same twice says it once; the first time stays."""
    seen: set[str] = set()
    for id, outcome in outcomes.items():
        if isinstance(outcome, list):
            fresh = []
            for row in outcome:
                key = _said(row)
                if key not in seen:
                    fresh.append(row)
                seen.add(key)
            outcomes[id] = fresh or Reason.DUPLICATE


def _said(row: Row) -> str:
    texts = {name: reply.text.strip() for name, reply in replies_of(row).items()}
    label = row.label if isinstance(row, UnpairedRow) else None
    prompt = [message.to_dict() for message in row.prompt]
    return canonical([kind_of(row), row.origin.actor_id, prompt, texts, label])


def _new(store: Store, version_id: str | None, events: Sequence[Feedback], usable: set[str]) -> dict[str, int]:
    """Live pieces by kind: those that came after the version's data, and those that only now may be used."""
    since, learned = 0.0, set[str]()
    if version_id is not None:
        version = store.versions.get(version_id)
        frozen = store.snapshots.get(version.snapshot_sha) if version.snapshot_sha else version
        since, learned = frozen.created_at, set(store.versions.feedback_ids(version.id))
    fresh = (e for e in events if e.id not in learned and (e.created_at > since or e.id in usable))
    return dict(Counter(e.kind for e in fresh if e.payload.get("value") != 0))
