"""Examples, groups and packed batches: what every loss reads.

An example is one token sequence with streams beside it, one number a token. A group is what one piece of data says: a
single example is to be imitated, ranked examples are a preference, a labelled one is a thumb, and several examples
without ranks are answers to one prompt, each to be learned by its own advantages. A batch is groups laid end to end,
without padding. Knows nothing of chat, of models, or of what a loss does with the streams.

A loss is a pure function `(first, batch, totals) -> (scalar, Metrics)`. For a policy `first` is `logprob_N`, the
log-probs of `batch.targets_N`; for a value model (a reward model, a critic) it is `value_T`, its head's output on every
row, of which `value_T[batch.sources_N]` are the values before each counted token and `value_T[batch.last_E]` the scores
of whole examples. Its sums are divided by `totals`, which are of the whole optimizer step.

Axes: T rows (tokens) of the packed batch, N tokens that the loss counts, E examples, P pairs of ranked examples,
S examples to imitate, R rollouts (examples with advantages).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations, takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutee.errors import InvalidInput
from tutee.train.metrics import Metrics

Stream = tuple[float, ...]
SoftTarget = tuple[tuple[int, float], ...]
"""A teacher's likeliest tokens at one place: (id, log-prob in nats)."""


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence. Every stream has one number per token; the number at t is about token t given the tokens before it.

    What is not known of an example is None, and becomes NaN in the batch, so that a loss that needs it cannot go
    unnoticed.

    Args:
        tokens: ids, prompt and answer.
        mask: weight of each token in the loss; 0 for prompts, users and tools. The first token has no past and must
            be 0.
        reference_logprobs: under the reference policy, in nats.
        behaviour_logprobs: under the policy that sampled them, as its sampler reported them.
        advantages: how much better than expected each token turned out.
        values: what the critic expected before each token, when the example was sampled.
        returns: what the critic should have expected: the targets of its loss.
        soft_targets: instead of the token itself, a teacher's distribution over tokens; empty where mask is 0. Each of
            its tokens becomes a counted token of its own, of weight mask · p, with log p as its reference.
    """

    tokens: tuple[int, ...]
    mask: Stream
    reference_logprobs: Stream | None = None
    behaviour_logprobs: Stream | None = None
    advantages: Stream | None = None
    values: Stream | None = None
    returns: Stream | None = None
    soft_targets: tuple[SoftTarget, ...] | None = None

    def __post_init__(self) -> None:
        streams = (self.mask, *(getattr(self, name) for name in STREAMS.values()), self.soft_targets)
        if any(stream is not None and len(stream) != len(self.tokens) for stream in streams):
            raise ValueError("every stream must be as long as the tokens")
        if self.mask and self.mask[0] != 0:
            raise ValueError("the first token has nothing before it, so it cannot be learned")

    @property
    def counted(self) -> int:
        """How many tokens the loss counts."""
        return sum(weight != 0 for weight in self.mask)

    @property
    def prompt_length(self) -> int:
        """Tokens before the first one that the loss counts."""
        return sum(1 for _ in takewhile(lambda weight: weight == 0, self.mask))


STREAMS = {
    "reference_N": "reference_logprobs",
    "behaviour_N": "behaviour_logprobs",
    "advantage_N": "advantages",
    "value_N": "values",
    "return_N": "returns",
}
"""Fields of a batch, and the streams of an example that they hold."""


@dataclass(frozen=True, slots=True)
class Group:
    """One piece of data, kept together in one microbatch. `weight` scales its loss.

    Args:
        examples: one to imitate or to rate, several that are ranked, or several answers to one prompt.
        ranks: place of each example, lowest best, equal for ties; None when nobody compared them.
        margin: how much better the better ones are, in units of the loss that uses it (reward models: nats).
        label: a person liked (True) or disliked (False) the first example; any other is there for comparison only.
    """

    examples: tuple[Example, ...]
    weight: float = 1.0
    ranks: tuple[int, ...] | None = None
    margin: float = 0.0
    label: bool | None = None

    def __post_init__(self) -> None:
        if self.ranks is not None and (len(self.ranks) != len(self.examples) or len(self.ranks) < 2):
            raise ValueError("ranks are for two or more examples, one rank each")
        if self.label is not None and self.ranks is not None:
            raise ValueError("a group is ranked or rated, not both")

    @classmethod
    def pair(cls, chosen: Example, rejected: Example, weight: float = 1.0, margin: float = 0.0) -> Group:
        """`chosen` is better than `rejected`."""
        return cls((chosen, rejected), weight, (0, 1), margin)

    @property
    def num_tokens(self) -> int:
        return sum(len(example.tokens) for example in self.examples)

    @property
    def shared(self) -> int:
        """How many first tokens all examples have in common and none of them learns: what need be computed once."""
        if len(self.examples) < 2:
            return 0
        most = min(min(e.prompt_length, len(e.tokens) - 1) for e in self.examples)
        first = self.examples[0].tokens
        return sum(1 for _ in takewhile(lambda t: all(e.tokens[t] == first[t] for e in self.examples[1:]), range(most)))

    def packed_tokens(self, share_prompts: bool) -> int:
        """Rows that the group takes in a batch."""
        return self.num_tokens - (self.shared * (len(self.examples) - 1) if share_prompts else 0)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all groups of one optimizer step: the denominators, so that splitting a step over microbatches or ranks
    never changes its gradient. Each is weighted by its group's weight."""

    groups: float
    tokens: float
    """Mask weights of all examples."""
    examples: float = 0.0
    rollouts: float = 0.0
    """Examples with advantages."""
    rollout_tokens: float = 0.0
    """Mask weights of examples with advantages."""
    imitated_tokens: float = 0.0
    """Mask weights of examples to imitate."""

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows packed end to end. Segments attend to themselves and to the segment they continue; nothing else.

    Without shared prompts there is one segment an example. With them, a group is its common first tokens (a segment of
    no example) and, continuing it, one segment for the rest of each example.
    """

    tokens_T: Tensor
    positions_T: Tensor
    lengths: tuple[int, ...]
    """Of the segments; their sum is T."""
    parents: tuple[int, ...]
    """The segment that each segment continues, -1 for none. A parent comes before its children and has none itself."""
    sources_N: Tensor
    """The row whose hidden state predicts each counted token; a soft target's tokens have one source."""
    targets_N: Tensor
    mask_N: Tensor
    example_N: Tensor
    """Which example each counted token belongs to."""
    reference_N: Tensor
    behaviour_N: Tensor
    advantage_N: Tensor
    value_N: Tensor
    return_N: Tensor
    """These five are float32 and NaN where the example does not know them."""
    weight_E: Tensor
    """Weight of the example's group."""
    last_E: Tensor
    """Row of each example's last token."""
    group_E: Tensor
    label_E: Tensor
    """1 liked, 0 disliked, NaN for examples that nobody rated."""
    pairs_P2: Tensor
    """Example numbers (better, worse) of every two ranked examples of a group, K(K-1)/2 for K of them."""
    target_P: Tensor
    """Probability that the first is preferred: 1, or 1/2 for ties."""
    margin_P: Tensor
    pair_weight_P: Tensor
    """The group's weight over its number of pairs."""
    singles_S: Tensor
    """Examples to imitate: neither ranked, nor rated, nor with advantages."""
    rollouts_R: Tensor
    """Examples with advantages."""

    def sum_by_example(self, value_N: Tensor) -> Tensor:
        """Sums of a per-token stream, one per example [E]."""
        return value_N.new_zeros(len(self.weight_E)).index_add(0, self.example_N, value_N)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on another device."""
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


def told(mask: Tensor) -> bool:
    """Whether any of these is true, where asking costs nothing: an accelerator would be waited for, and is believed."""
    return mask.device.type == "cpu" and bool(mask.any())


Loss = Callable[[Tensor, Batch, Totals], tuple[Tensor, Metrics]]
"""(log-probs of a policy [N] or values of a value model [T], batch, the step's denominators) -> (scalar to
differentiate, what to report)."""


def pack_groups(groups: Sequence[Group], share_prompts: bool = False) -> Batch:
    """Lay groups end to end. A token's target is the next token of its own example, so the last of each has none.

    Args:
        groups: at least one.
        share_prompts: lay the common beginning of a group once; needs a layout that knows `Batch.parents`.
    """
    segments: list[tuple[int, Sequence[int], int]] = []  # parent, tokens, first position
    counted: list[dict[str, NDArray[Any]]] = []
    last_E: list[int] = []
    row = number = 0
    for group in groups:
        shared = group.shared if share_prompts else 0
        parent, prompt_row = -1, row
        if shared:
            parent = len(segments)
            segments.append((-1, group.examples[0].tokens[:shared], 0))
            row += shared
        for example in group.examples:
            segments.append((parent, example.tokens[shared:], shared))
            counted.append(_counted(example, number, prompt_row, row, shared))
            row += len(example.tokens) - shared
            last_E.append(row - 1)
            number += 1
    lengths = tuple(len(tokens) for _, tokens, _ in segments)
    named = {name: np.concatenate([part[name] for part in counted]) for name in counted[0]}
    return Batch(
        tokens_T=_integers([token for _, tokens, _ in segments for token in tokens]),
        positions_T=_integers([p for _, tokens, first in segments for p in range(first, first + len(tokens))]),
        lengths=lengths,
        parents=tuple(parent for parent, _, _ in segments),
        last_E=_integers(last_E),
        **{name: torch.from_numpy(array) for name, array in named.items()},
        **_relations(groups),
    )


def _counted(example: Example, number: int, prompt_row: int, row: int, shared: int) -> dict[str, NDArray[Any]]:
    """The counted tokens of one example; its first `shared` tokens lie at `prompt_row`, the rest from `row` on."""
    mask = np.asarray(example.mask, dtype=np.float32)
    places = np.flatnonzero(mask)
    targets = np.asarray(example.tokens, dtype=np.int64)[places]
    weight, streams = mask[places], {}
    for name, attribute in STREAMS.items():
        stream = getattr(example, attribute)
        full = np.full(len(mask), np.nan, np.float32) if stream is None else np.asarray(stream, dtype=np.float32)
        streams[name] = full[places]
    if example.soft_targets is not None:
        soft = [example.soft_targets[t] for t in places]
        counts = np.array([len(target) for target in soft])
        targets = np.array([token for target in soft for token, _ in target], dtype=np.int64)
        streams = {name: np.repeat(stream, counts) for name, stream in streams.items()}
        streams["reference_N"] = np.array([logprob for target in soft for _, logprob in target], dtype=np.float32)
        weight = np.repeat(weight, counts) * np.exp(streams["reference_N"])
        places = np.repeat(places, counts)
    sources = np.where(places - 1 < shared, prompt_row + places - 1, row + places - 1 - shared)
    owner = np.full(len(places), number, np.int64)
    return {"sources_N": sources, "targets_N": targets, "mask_N": weight, "example_N": owner, **streams}


def _relations(groups: Sequence[Group]) -> dict[str, Tensor]:
    """What the groups say of their examples: weights, labels, pairs, who is to be imitated."""
    weights: list[float] = []
    labels: list[float] = []
    owners: list[int] = []
    singles: list[int] = []
    rollouts: list[int] = []
    pairs, targets, margins, pair_weights = [], [], [], []
    first = 0
    for g, group in enumerate(groups):
        numbers = range(first, first + len(group.examples))
        first += len(group.examples)
        weights += [group.weight] * len(numbers)
        owners += [g] * len(numbers)
        label = float("nan") if group.label is None else float(group.label)
        labels += [label, *[float("nan")] * (len(numbers) - 1)]
        if group.ranks is not None:
            order = sorted(range(len(numbers)), key=group.ranks.__getitem__)
            for better, worse in combinations(order, 2):
                tied = group.ranks[better] == group.ranks[worse]
                pairs.append((numbers[better], numbers[worse]))
                targets.append(0.5 if tied else 1.0)
                margins.append(0.0 if tied else group.margin)
                pair_weights.append(group.weight * 2 / (len(numbers) * (len(numbers) - 1)))
        elif group.label is None:
            for number, example in zip(numbers, group.examples, strict=True):
                (singles if example.advantages is None else rollouts).append(number)
    return {
        "weight_E": torch.tensor(weights, dtype=torch.float32),
        "group_E": _integers(owners),
        "label_E": torch.tensor(labels, dtype=torch.float32),
        "pairs_P2": _integers(pairs).reshape(-1, 2),
        "target_P": torch.tensor(targets, dtype=torch.float32),
        "margin_P": torch.tensor(margins, dtype=torch.float32),
        "pair_weight_P": torch.tensor(pair_weights, dtype=torch.float32),
        "singles_S": _integers(singles),
        "rollouts_R": _integers(rollouts),
    }


def _integers(values: Sequence[Any]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def totals(groups: Iterable[Group]) -> Totals:
    """The denominators of a step made of these groups."""
    out = Totals(0.0, 0.0)
    for group in groups:
        tokens = [sum(example.mask) for example in group.examples]
        learned = [example.advantages is not None for example in group.examples]
        rollout_tokens = sum(count for count, rollout in zip(tokens, learned, strict=True) if rollout)
        imitated = 0.0 if group.ranks is not None or group.label is not None else sum(tokens) - rollout_tokens
        sums = (1, sum(tokens), len(tokens), sum(learned), rollout_tokens, imitated)
        out += Totals(*(group.weight * value for value in sums))
    return out


def split_groups(groups: Sequence[Group], token_budget: int, share_prompts: bool = False) -> list[list[Group]]:
    """Cut a step's groups, in order, into microbatches of at most `token_budget` tokens.

    Ranked examples stay together whatever their size; an unranked group that does not fit is cut between its examples.
    """
    parts: list[list[Group]] = []
    used = 0
    for piece in (piece for group in groups for piece in _pieces(group, token_budget, share_prompts)):
        tokens = piece.packed_tokens(share_prompts)
        if not parts or used + tokens > token_budget:
            parts.append([])
            used = 0
        parts[-1].append(piece)
        used += tokens
    return parts


def _pieces(group: Group, token_budget: int, share_prompts: bool) -> list[Group]:
    if group.ranks is not None or group.packed_tokens(share_prompts) <= token_budget:
        return [group]
    pieces: list[Group] = []
    for example in group.examples:
        larger = replace(group, examples=(*pieces[-1].examples, example)) if pieces else None
        if larger is not None and larger.packed_tokens(share_prompts) <= token_budget:
            pieces[-1] = larger
        else:
            pieces.append(replace(group, examples=(example,)))
    return pieces


def check_groups(groups: Sequence[Group], param: str = "training_file") -> None:
    """Refuse data that cannot teach anything, before the first step: no groups, or one that `check_group` refuses."""
    if not groups:
        raise InvalidInput("There is nothing to train on: the data has no rows.", param=param, code="empty_dataset")
    for i, group in enumerate(groups):
        check_group(group, f"row {i + 1}", param)


def check_group(group: Group, where: str, param: str) -> None:
    """Refuse a group that cannot teach anything, calling it `where`.

    Raises:
        InvalidInput: an example without a counted token; a preference between two answers that are the same tokens.
    """
    if any(example.counted == 0 for example in group.examples):
        message = f"{where}: there is no token to learn from, every assistant token is masked out."
        raise InvalidInput(message, param=param, code="all_masked")
    if group.ranks is None:
        return
    for (a, place_a), (b, place_b) in combinations(zip(group.examples, group.ranks, strict=True), 2):
        if place_a != place_b and a.tokens == b.tokens:
            message = f"{where}: chosen and rejected are the same."
            raise InvalidInput(message, param=param, code="identical_pair")
