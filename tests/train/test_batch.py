"""Batches against what they were made of: streams, relations, shared prompts, cuts, and data refused at the door."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutee.errors import InvalidInput
from tutee.model.layout import Layout
from tutee.model.logprobs import token_logprobs
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Example, Group, Totals, check_groups, pack_groups, split_groups, totals

from .pairs import PAIR, SINGLE, example


def answers(prompt: int, lengths: tuple[int, ...], seed: int = 0, **group: object) -> Group:
    """Several random answers to one random prompt, with advantages."""
    dice = np.random.default_rng(seed)
    asked = tuple(int(t) for t in dice.integers(0, 256, prompt))
    examples = []
    for i, length in enumerate(lengths):
        tokens = (*asked, 200 + i, *(int(t) for t in dice.integers(0, 256, length - 1)))
        mask = (*[0.0] * prompt, *[1.0] * length)
        examples.append(Example(tokens, mask, advantages=tuple(float(i) for _ in tokens)))
    return Group(tuple(examples), **group)  # type: ignore[arg-type]


@pytest.mark.row(20)
def test_a_batch_lays_segments_end_to_end_and_targets_stay_inside_them() -> None:
    batch = pack_groups([PAIR, SINGLE])
    assert batch.tokens_T.tolist() == [10, 11, 12, 13, 10, 11, 10, 11, 12, 13]
    assert batch.positions_T.tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2, 3]
    assert batch.sources_N.tolist() == [1, 2, 4, 6, 7, 8]
    assert batch.targets_N.tolist() == [12, 13, 11, 11, 12, 13]
    assert batch.example_N.tolist() == [0, 0, 1, 2, 2, 2]
    assert batch.pairs_P2.tolist() == [[0, 1]]
    assert batch.singles_S.tolist() == [2]
    assert batch.last_E.tolist() == [3, 5, 9]
    assert batch.reference_N.isnan().tolist() == [False] * 3 + [True] * 3
    assert totals([PAIR, SINGLE]) == Totals(groups=3.0, tokens=2 * 3 + 3, examples=5.0, imitated_tokens=3.0)


def test_every_stream_reaches_its_token_and_what_is_unknown_is_nan() -> None:
    known = Example(
        (1, 2, 3),
        (0.0, 0.0, 0.5),
        reference_logprobs=(0, 0, -1),
        behaviour_logprobs=(0, 0, -2),
        advantages=(0, 0, 3),
        values=(0, 0, 4),
        returns=(0, 0, 5),
    )
    batch = pack_groups([Group((known,)), SINGLE])
    for name, value in {"reference": -1, "behaviour": -2, "advantage": 3, "value": 4, "return": 5}.items():
        stream = getattr(batch, f"{name}_N")
        assert stream[0] == value
        assert stream[1:].isnan().all()
    assert batch.rollouts_R.tolist() == [0]
    assert batch.singles_S.tolist() == [1]
    assert totals([Group((known,), weight=2), SINGLE]) == Totals(3, 4, 3, 2, 1, 3)


def test_a_ranking_is_all_its_pairs_and_ties_are_even() -> None:
    ranked = Group(tuple(example(0, 1) for _ in range(4)), weight=3, ranks=(2, 1, 1, 5), margin=0.5)
    batch = pack_groups([SINGLE, ranked])
    pairs = {tuple(pair) for pair in batch.pairs_P2.tolist()}
    assert pairs == {(2, 3), (2, 1), (3, 1), (2, 4), (3, 4), (1, 4)}
    tie = [pair.tolist() == [2, 3] for pair in batch.pairs_P2]
    assert batch.target_P.tolist() == [0.5 if tied else 1.0 for tied in tie]
    assert batch.margin_P.tolist() == [0.0 if tied else 0.5 for tied in tie]
    assert batch.pair_weight_P.sum().item() == pytest.approx(3)


def test_a_thumb_labels_the_first_example_only() -> None:
    rated = Group((example(0, 1), example(0, 1, 1)), label=False)
    batch = pack_groups([rated, SINGLE])
    assert batch.label_E[0] == 0
    assert batch.label_E[1:].isnan().all()
    assert batch.singles_S.tolist() == [2]


def test_soft_targets_are_counted_tokens_with_the_teachers_weights() -> None:
    teacher = ((), (), ((7, math.log(0.75)), (8, math.log(0.25))))
    batch = pack_groups([Group((Example((1, 2, 3), (0, 0, 0.5), soft_targets=teacher),))])
    assert batch.sources_N.tolist() == [1, 1]
    assert batch.targets_N.tolist() == [7, 8]
    assert batch.mask_N.tolist() == pytest.approx([0.375, 0.125])
    assert batch.reference_N.exp().tolist() == pytest.approx([0.75, 0.25])


def test_what_a_group_shares_ends_where_one_of_them_learns() -> None:
    assert answers(5, (3, 4)).shared == 5
    same = Example((1, 2, 3, 4), (0, 0, 1, 1))
    assert Group.pair(same, replace(same, tokens=(1, 2, 3, 9))).shared == 2
    assert Group.pair(same, replace(same, mask=(0, 0, 0, 1))).shared == 2
    assert Group((same,)).shared == 0
    assert Group.pair(Example((1, 2), (0, 1)), Example((1,), (0,))).shared == 0  # nothing would be left of the second


@pytest.mark.row(20)
def test_a_shared_prompt_is_laid_once_and_means_the_same(model: Pretrained) -> None:
    """Log-probs and gradients of packed groups, prompts shared or not, neighbours or not."""
    groups = [answers(6, (4, 2, 7), seed=1), answers(3, (5, 5), seed=2), answers(1, (2,), seed=3)]
    model.decoder.requires_grad_(True)

    def pass_over(parts: list[Group], share: bool) -> tuple[torch.Tensor, torch.Tensor]:
        batch = pack_groups(parts, share_prompts=share)
        layout = Layout.packed(batch.lengths, parents=batch.parents)
        hidden_TD = model.decoder(batch.tokens_T, batch.positions_T, layout)
        logprob_N, _ = token_logprobs(model.decoder, hidden_TD[batch.sources_N], batch.targets_N)
        model.decoder.zero_grad()
        (logprob_N * torch.arange(1.0, len(logprob_N) + 1)).sum().backward()  # type: ignore[no-untyped-call]
        gradient = torch.cat([p.grad.flatten() for p in model.decoder.parameters() if p.grad is not None])
        return logprob_N.detach(), gradient

    plain, gradient = pass_over(groups, share=False)
    shared, shared_gradient = pass_over(groups, share=True)
    assert torch.allclose(plain, shared, atol=1e-5)
    assert torch.allclose(gradient, shared_gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max().item())
    assert len(pack_groups(groups, True).tokens_T) == len(pack_groups(groups).tokens_T) - 2 * 6 - 3
    poisoned = [replace(groups[0], examples=groups[0].examples[:1]), answers(9, (3, 3), seed=9)]
    assert torch.allclose(pass_over(poisoned, share=True)[0][:4], plain[:4], atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.lists(st.integers(1, 4), min_size=1, max_size=4)), max_size=5))
def test_shared_or_not_a_batch_holds_the_same_questions(shapes: list[tuple[int, list[int]]]) -> None:
    groups = [answers(prompt, tuple(lengths), seed=i) for i, (prompt, lengths) in enumerate(shapes)] or [SINGLE]
    plain, shared = pack_groups(groups), pack_groups(groups, share_prompts=True)

    def seen(batch: object, n: int) -> list[int]:
        """Tokens that a counted token's source attends to, following its segment and its parent."""
        row = int(batch.sources_N[n])  # type: ignore[attr-defined]
        starts = np.cumsum([0, *batch.lengths])  # type: ignore[attr-defined]
        segment = int(np.searchsorted(starts, row, side="right")) - 1
        parent = batch.parents[segment]  # type: ignore[attr-defined]
        rows = [] if parent < 0 else list(range(starts[parent], starts[parent + 1]))
        rows += range(starts[segment], row + 1)
        assert [int(batch.positions_T[r]) for r in rows] == list(range(len(rows)))  # type: ignore[attr-defined]
        return [int(batch.tokens_T[r]) for r in rows]  # type: ignore[attr-defined]

    assert torch.equal(plain.targets_N, shared.targets_N)
    assert torch.equal(plain.example_N, shared.example_N)
    assert [seen(plain, n) for n in range(len(plain.targets_N))] == [
        seen(shared, n) for n in range(len(shared.targets_N))
    ]
    assert torch.equal(plain.tokens_T[plain.last_E], shared.tokens_T[shared.last_E])


def test_microbatches_keep_order_and_never_split_what_is_compared() -> None:
    parts = split_groups([PAIR, SINGLE, SINGLE, PAIR], token_budget=8)
    assert parts == [[PAIR], [SINGLE, SINGLE], [PAIR]]
    assert split_groups([PAIR], token_budget=1) == [[PAIR]]


@pytest.mark.row(18)
def test_a_large_group_without_ranks_is_cut_between_its_answers() -> None:
    group = answers(4, (3, 3, 3, 3), weight=2.0)
    parts = split_groups([group], token_budget=14)
    assert [len(piece.examples) for [piece] in parts] == [2, 2]
    assert all(piece.weight == 2 for [piece] in parts)
    assert [e for [piece] in parts for e in piece.examples] == list(group.examples)
    assert [len(g.examples) for [g] in split_groups([group], 14, share_prompts=True)] == [3, 1]
    assert sum((totals(part) for part in parts), Totals(0, 0)).rollout_tokens == totals([group]).rollout_tokens


@pytest.mark.row(17)
def test_totals_of_parts_add_up() -> None:
    groups = [PAIR, SINGLE, answers(2, (3, 1), weight=0.5)]
    assert sum((totals([group]) for group in groups), Totals(0, 0)) == totals(groups)


@pytest.mark.parametrize(
    ("groups", "code"),
    [
        ([], "empty_dataset"),
        ([SINGLE, Group((example(0, 0, 0),))], "all_masked"),
        ([Group.pair(example(0, 1, 1), example(0, 1, 1))], "identical_pair"),
        ([Group((example(0, 1), example(0, 1, 1), example(0, 1)), ranks=(1, 2, 3))], "identical_pair"),
    ],
)
def test_data_that_cannot_teach_is_refused_by_name(groups: list[Group], code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_groups(groups)
    assert caught.value.code == code


def test_equal_answers_may_tie() -> None:
    check_groups([Group((example(0, 1), example(0, 1, 1), example(0, 1)), ranks=(1, 2, 1))])


def test_streams_must_fit_the_tokens() -> None:
    with pytest.raises(ValueError, match="as long as"):
        Example((1, 2), (0.0,))
    with pytest.raises(ValueError, match="as long as"):
        Example((1, 2), (0.0, 1.0), advantages=(1.0,))
    with pytest.raises(ValueError, match="first token"):
        Example((1, 2), (1.0, 1.0))
    with pytest.raises(ValueError, match="one rank each"):
        Group((example(0, 1),), ranks=(0,))
    with pytest.raises(ValueError, match="not both"):
        Group((example(0, 1), example(0, 1, 1)), ranks=(0, 1), label=True)
