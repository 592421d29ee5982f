"""What a migration did: how many of each thing are new, were here already, or could not be taken, and why."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Refused:
    """One row that was not taken. `line` is where it begins in its file; 0: the file as a whole."""

    file: str
    line: int
    why: str


@dataclass(slots=True)
class Report:
    """The account of one migration; `added`, `known` and `skipped` count by kind."""

    added: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    """Rows that an earlier migration brought."""
    skipped: Counter[str] = field(default_factory=Counter)
    """What nobody needs here (tool calls, hidden turns, account settings), by kind."""
    refused: list[Refused] = field(default_factory=list)

    def refuse(self, file: str, line: int, why: str) -> None:
        """Note a row that cannot be taken."""
        self.refused.append(Refused(file, line, why))

    def to_json(self) -> dict[str, Any]:
        """Everything, for scripts."""
        return {
            "added": dict(+self.added),
            "known": dict(+self.known),
            "skipped": dict(self.skipped),
            "refused": [{"file": row.file, "line": row.line, "why": row.why} for row in self.refused],
        }


def id_here(prefix: str, actor_id: str, theirs: str) -> str:
    """The id that something of theirs gets in one person's data: always the same, so that nothing comes in twice."""
    digest = hashlib.sha256(f"{actor_id} {theirs}".encode("utf-8", "replace")).hexdigest()
    return f"{prefix}-{digest[:32]}"
