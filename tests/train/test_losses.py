"""Losses against numbers worked by hand, and batches against what they were made of."""

import math

import pytest
import torch

from tutee.errors import InvalidInput
from tutee.train.batch import Example, Group, Totals, check_groups, pack_groups, split_groups, totals
from tutee.train.dpo import DpoConfig, dpo_loss, with_references
from tutee.train.recipe import recipe_loss
from tutee.train.sft import sequence_mean_loss, token_mean_loss


def example(*mask: float, reference: tuple[float, ...] | None = None) -> Example:
    return Example(tuple(range(10, 10 + len(mask))), mask, reference)


PAIR = Group(
    (example(0, 0, 1, 1, reference=(0, 0, -1.0, -2.0)), example(0, 1, reference=(0, -1.5))),
    weight=2.0,
    ranks=(0, 1),
)
SINGLE = Group((example(0, 1, 1, 1),))


def test_a_batch_lays_segments_end_to_end_and_targets_stay_inside_them() -> None:
    batch = pack_groups([PAIR, SINGLE])
    assert batch.tokens_T.tolist() == [10, 11, 12, 13, 10, 11, 10, 11, 12, 13]
    assert batch.positions_T.tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2, 3]
    assert batch.sources_N.tolist() == [1, 2, 4, 6, 7, 8]
    assert batch.targets_N.tolist() == [12, 13, 11, 11, 12, 13]
    assert batch.example_N.tolist() == [0, 0, 1, 2, 2, 2]
    assert batch.pairs_P2.tolist() == [[0, 1]]
    assert batch.singles_S.tolist() == [2]
    assert batch.reference_N.isnan().tolist() == [False] * 3 + [True] * 3
    assert totals([PAIR, SINGLE]) == Totals(groups=3.0, tokens=2 * 3 + 3, examples=5.0, imitated_tokens=3.0)


def test_token_mean_and_sequence_mean() -> None:
    groups = [SINGLE, Group((example(0, 1),), weight=3.0)]
    batch, logprobs = pack_groups(groups), torch.tensor([-1.0, -2.0, -3.0, -4.0])
    loss, metrics = token_mean_loss(logprobs, batch, totals(groups))
    assert loss.item() == pytest.approx((1 + 2 + 3 + 3 * 4) / (3 + 3))
    assert metrics.values()["train_loss"] == pytest.approx(loss.item())
    loss, _ = sequence_mean_loss(logprobs, batch, totals(groups))
    assert loss.item() == pytest.approx((2 + 3 * 4) / 4)


def test_fractional_masks_weigh_tokens() -> None:
    groups = [Group((example(0, 0.5, 1),))]
    loss, _ = token_mean_loss(torch.tensor([-2.0, -4.0]), pack_groups(groups), totals(groups))
    assert loss.item() == pytest.approx((0.5 * 2 + 4) / 1.5)


def test_dpo_closed_form() -> None:
    logprobs = torch.tensor([-0.5, -1.0, -2.5])  # chosen ratio 1.5, rejected ratio -1.0
    loss, metrics = dpo_loss(logprobs, pack_groups([PAIR]), totals([PAIR]), DpoConfig(beta=0.4))
    margin = 0.4 * (1.5 + 1.0)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-margin)))
    values = metrics.values()
    assert values["reward_margin"] == pytest.approx(margin)
    assert values["reward_accuracy"] == 1
    smooth, _ = dpo_loss(logprobs, pack_groups([PAIR]), totals([PAIR]), DpoConfig(beta=0.4, label_smoothing=0.1))
    expected = 0.9 * math.log1p(math.exp(-margin)) + 0.1 * math.log1p(math.exp(margin))
    assert smooth.item() == pytest.approx(expected)
    tied, _ = dpo_loss(logprobs, pack_groups([PAIR]), totals([PAIR]), DpoConfig(beta=0.4, sft_weight=0.2))
    assert tied.item() == pytest.approx(loss.item() + 0.2 * 0.75)


def test_dpo_gradient_is_beta_sigma_minus_margin() -> None:
    """Rafailov et al. 2023, the gradient after equation 7."""
    logprobs = torch.tensor([-0.5, -1.0, -2.5], requires_grad=True)
    loss, _ = dpo_loss(logprobs, pack_groups([PAIR]), totals([PAIR]), DpoConfig(beta=0.4))
    loss.backward()
    pull = 0.4 / (1 + math.exp(0.4 * 2.5))
    assert logprobs.grad.tolist() == pytest.approx([-pull, -pull, pull])


def test_the_recipe_mixes_pairs_and_singles_over_one_denominator() -> None:
    batch = pack_groups([PAIR, SINGLE])
    logprobs = torch.tensor([-0.5, -1.0, -2.5, -1.0, -2.0, -3.0], requires_grad=True)
    loss, _ = recipe_loss(logprobs, batch, totals([PAIR, SINGLE]), beta=0.4)
    loss.backward()
    assert loss.item() == pytest.approx((2 * math.log1p(math.exp(-1.0)) + 2) / 3)
    assert torch.isfinite(logprobs.grad).all()  # the single has no reference, and that must not poison the pair


def test_a_pair_without_reference_is_refused() -> None:
    group = Group.pair(example(0, 1), example(0, 1, 1))
    with pytest.raises(ValueError, match="reference"):
        dpo_loss(torch.zeros(3), pack_groups([group]), totals([group]))
    scored = with_references([group, SINGLE], lambda sequences: [torch.full((len(s) - 1,), -1.0) for s in sequences])
    assert scored[0].examples[1].reference_logprobs == (0.0, -1.0, -1.0)
    assert scored[1] == SINGLE


def test_microbatches_keep_order_and_never_split_a_group() -> None:
    parts = split_groups([PAIR, SINGLE, SINGLE, PAIR], token_budget=8)
    assert parts == [[PAIR], [SINGLE, SINGLE], [PAIR]]
    assert split_groups([PAIR], token_budget=1) == [[PAIR]]


@pytest.mark.parametrize(
    ("groups", "code"),
    [
        ([], "empty_dataset"),
        ([SINGLE, Group((example(0, 0, 0),))], "all_masked"),
        ([Group.pair(example(0, 1, 1), example(0, 1, 1))], "identical_pair"),
    ],
)
def test_data_that_cannot_teach_is_refused_by_name(groups: list[Group], code: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_groups(groups)
    assert caught.value.code == code


def test_streams_must_fit_the_tokens() -> None:
    with pytest.raises(ValueError, match="as long as"):
        Example((1, 2), (0.0,))
    with pytest.raises(ValueError, match="first token"):
        Example((1, 2), (1.0, 1.0))
