"""Which prompts are held out: one decision per group of people, conversations and near-identical prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tutee.data.rows import Split


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt, for the purpose of splitting: who asked, in which conversation, and the user's turns as one text."""

    person: str
    conversation_id: str
    text: str


def assign(items: Sequence[Item], salt: str = "tutee") -> list[Split | None]:
    """A split for each item (in order of arrival); None = of a held-out person, on a prompt that others train on."""
    raise NotImplementedError
