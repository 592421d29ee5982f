"""What the store hands out when one table row is not enough: frozen dataclasses with the joined facts in them.

Knows no database. Plain rows (`Feedback`, `Job`, `ModelVersion` …) are handed out as they are, detached.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """One page of a list; ask for the next with `after=page.last_id`."""

    data: list[Row]
    has_more: bool

    def __iter__(self) -> Iterator[Row]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)

    @property
    def first_id(self) -> str | None:
        return str(self.data[0].id) if self.data else None  # type: ignore[attr-defined]

    @property
    def last_id(self) -> str | None:
        return str(self.data[-1].id) if self.data else None  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class StoredConversation:
    """A conversation with its system prompt. `train` None means: as its owner's consent says."""

    id: str
    actor_id: str
    title: str | None
    system: str | None
    train: bool | None
    head_message_id: str | None
    created_at: float
    updated_at: float
    temporary: bool = False


@dataclass(frozen=True, slots=True)
class VersionRef:
    """Which version wrote an answer."""

    id: str
    number: int
    name: str


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One turn and all that a page shows of it. `feedback` fields are those of the person who asked."""

    id: str
    conversation_id: str
    parent_id: str | None
    role: str
    content: str
    """The text so far while `state` is `streaming`."""
    state: str
    """complete, streaming, stopped, interrupted or error."""
    sibling_index: int
    sibling_count: int
    created_at: float
    author: str | None
    """Handle of the person who wrote it; None: the model did."""
    generation_id: str | None
    version: VersionRef | None
    """None while the presentation is blind and unjudged, and for people's own messages."""
    finish_reason: str | None
    presentation_id: str | None
    blind: bool
    """Whether the version is withheld now."""
    original_id: str | None
    """The message that this one edits."""
    thumb: Mapping[str, Any] | None = None
    """{value, reasons, comment, feedback_id}; None when there is none or it was withdrawn."""
    edit: Mapping[str, Any] | None = None
    """{content, feedback_id}."""


@dataclass(frozen=True, slots=True, eq=False)
class StoredGeneration:
    """One sampled answer with what made it. Arrays: T tokens of the answer, P tokens of the prompt."""

    id: str
    message_id: str
    version_id: str
    weights_sha256: str
    tokenizer_sha256: str
    template_sha256: str
    prompt_ids: NDArray[np.int32]
    """[P]"""
    token_ids: NDArray[np.int32]
    """[T]; what was sampled so far while it streams."""
    logprobs: NDArray[np.float32]
    """[T]; natural log, at temperature 1 and untruncated."""
    sampling: Mapping[str, Any]
    arm: str | None
    experiment_id: str | None
    propensity: float
    finish_reason: str | None
    """None while it streams."""
    ttft_s: float | None
    tokens_per_s: float | None
    created_at: float
    finished_at: float | None

    @property
    def seq_logprob(self) -> float:
        """Sum of the log-probabilities, in float64."""
        return float(self.logprobs.sum(dtype=np.float64))


@dataclass(frozen=True, slots=True)
class Start:
    """What is known of an answer before its first token: who gives it, to what, sampled how, and why this version."""

    version_id: str
    prompt_ids: Sequence[int] | NDArray[np.int32]
    sampling: Mapping[str, Any]
    weights_sha256: str
    tokenizer_sha256: str
    template_sha256: str
    propensity: float = 1.0
    """P(this arm | context) when it was chosen, in (0, 1]."""
    arm: str | None = None
    experiment_id: str | None = None


@dataclass(frozen=True, slots=True)
class End:
    """How an answer ended: stop, length, tool_calls, abort or error."""

    finish_reason: str
    ttft_s: float | None = None
    """Seconds to the first token."""
    tokens_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """What a generation got since the last piece; with `end`, the last one."""

    generation_id: str
    text: str = ""
    token_ids: Sequence[int] = ()
    logprobs: Sequence[float] = ()
    end: End | None = None


@dataclass(frozen=True, slots=True)
class Showing:
    """How answers are shown together: order, blindness, and the chance with which they were chosen."""

    layout: str = "single"
    blind: bool = False
    selection_policy: str = "random"
    order_seed: int = 0
    selection_prob: float = 1.0
    """Probability of showing just these, in (0, 1]."""


@dataclass(frozen=True, slots=True)
class StoredPresentation:
    """What was shown, first to last; `generation_ids[0]` is the "a" of a comparison."""

    id: str
    actor_id: str
    layout: str
    blind: bool
    selection_policy: str
    selection_prob: float
    order_seed: int
    created_at: float
    generation_ids: tuple[str, ...]
    message_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SnapshotItem:
    """One row that goes into a snapshot. `split` is train or held_out.

    Erasing feedback empties the rows that name it, and all rows of the same hash. A row of kind `prompt` has no
    feedback to be found by: its payload's `conversation_id` says with which conversation it goes.
    """

    row_sha: str
    split: str
    kind: str
    payload: Mapping[str, Any]
    feedback_id: str | None = None
    actor_id: str | None = None
