"""Snapshots: a frozen, scrubbed, content-hashed dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tutee.data.from_feedback import Collected
from tutee.data.prompts import Prompt
from tutee.data.rows import Row, Split
from tutee.store import Store


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`sha` is the sha256 of the canonical JSONL of header, rows and prompts: the same rows give the same bytes."""

    sha: str
    kind: str
    rows: tuple[Row, ...]
    prompts: tuple[Prompt, ...]
    counts: Mapping[str, int]
    split_rule: str

    def of(self, split: Split) -> tuple[Row, ...]:
        """The rows of one split."""
        return tuple(row for row in self.rows if row.split == split)


def freeze(store: Store, collected: Collected, kind: str = "feedback", parent: str | None = None) -> Snapshot:
    """Scrub every text, hash, and store rows, lineage and scrub records; freezing the same rows again changes nothing."""
    raise NotImplementedError


def load(store: Store, sha: str) -> Snapshot:
    """A stored snapshot, its hash checked.

    Raises:
        NotFound: no such snapshot. Unavailable: its rows no longer hash to its name.
    """
    raise NotImplementedError
