"""Feedback to rows: what can be learned from, and for everything else the one plain reason why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from tutee.data.prompts import Prompt
from tutee.data.rows import Kind, Row
from tutee.store import Store


class Reason(StrEnum):
    """Why a piece of feedback is not learned from, in words for the person who gave it."""

    NO_CONSENT = "no consent to learn from this chat"


@dataclass(frozen=True, slots=True)
class Collected:
    """Everything that can be learned from now.

    `unusable` holds (feedback id, reason) once for each other piece of live feedback. `new` counts the pieces of
    feedback, by kind, that the version asked about has not seen.
    """

    rows: tuple[Row, ...]
    prompts: tuple[Prompt, ...]
    unusable: tuple[tuple[str, Reason], ...]
    new: Mapping[str, int]

    @property
    def usable(self) -> dict[Kind, int]:
        """Rows by kind, both splits."""
        raise NotImplementedError

    @property
    def reasons(self) -> dict[Reason, int]:
        """How often each reason was given."""
        raise NotImplementedError

    @property
    def held_out(self) -> dict[str, int]:
        """How many rows, people and conversations are kept apart for evaluation."""
        raise NotImplementedError


def collect(store: Store, since_version: str | None = None) -> Collected:
    """All rows from live, consented feedback; `since_version` (an id) only changes what counts as new."""
    raise NotImplementedError


def why_not(store: Store, feedback_id: str) -> Reason | None:
    """Why one piece of feedback is unusable, or None; looks at its conversation only (not for duplicates elsewhere)."""
    raise NotImplementedError
