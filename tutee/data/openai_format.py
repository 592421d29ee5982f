"""OpenAI's fine-tuning files: JSON Lines, read and written one line at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from tutee.conversation import Message
from tutee.data.rows import Row


@dataclass(frozen=True, slots=True)
class Supervised:
    """One line of a supervised file; `tools` as the line has them."""

    line: int
    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Preference:
    """One line of a DPO file: the context, the better answer and the worse one (one assistant message each)."""

    line: int
    prompt: tuple[Message, ...]
    preferred: Message
    non_preferred: Message
    tools: tuple[dict[str, Any], ...] = ()


def read_supervised(stream: BinaryIO, param: str = "training_file") -> Iterator[Supervised]:
    """Check and yield each line of a supervised file. InvalidInput says `line 7: …` with this `param`."""
    raise NotImplementedError


def read_preferences(stream: BinaryIO, param: str = "training_file") -> Iterator[Preference]:
    """Check and yield each line of a preference file, in either dialect (`preferred_output`, `preferred_completion`)."""
    raise NotImplementedError


def count(stream: BinaryIO, method: Literal["supervised", "dpo"], param: str = "training_file") -> int:
    """Check a whole file; its number of examples (at least 1)."""
    raise NotImplementedError


def write(rows: Iterable[Row], stream: BinaryIO, method: Literal["supervised", "dpo"]) -> int:
    """Write the rows that the format can hold (sft or pair); the number written."""
    raise NotImplementedError
