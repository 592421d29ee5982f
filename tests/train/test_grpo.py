"""GRPO's batch maker and its variants: which numbers reach the loss, and what the settings say they are."""

import pytest
import torch

from tutee.conversation import Message
from tutee.errors import InvalidInput
from tutee.train.environments import Question
from tutee.train.grpo import VARIANTS, GrpoConfig, effective_loss, make_groups, variant
from tutee.train.rewards import Answer
from tutee.train.rollout import Rollout, sequence_kl


def rollout(index: int, reward: float, tokens: tuple[int, ...], logprob: float = -1.0) -> Rollout:
    answer = Answer(Question((Message("user", "x"),)), (1, 2, 3), tokens, "", True)
    return Rollout(index, answer, (logprob,) * len(tokens), 0, reward, {})


ROLLOUTS = [rollout(7, 1.0, (10, 11)), rollout(7, 0.0, (12, 13, 14)), rollout(9, 0.5, (15,)), rollout(9, 0.5, (16,))]


@pytest.mark.row(6)
@pytest.mark.row(22)
def test_sampled_ids_are_learned_and_nothing_else() -> None:
    first, second = make_groups(ROLLOUTS, GrpoConfig())
    a, b = first.examples
    assert a.tokens == (1, 2, 3, 10, 11)
    assert a.mask == (0, 0, 0, 1, 1)
    assert b.mask == (0, 0, 0, 1, 1, 1)
    assert a.advantages == pytest.approx((0, 0, 0, 0.5**0.5, 0.5**0.5))
    assert b.advantages[3:] == pytest.approx([-(0.5**0.5)] * 3)
    assert a.behaviour_logprobs == (0, 0, 0, -1, -1)
    assert a.reference_logprobs is None
    assert second.examples[0].advantages == (0, 0, 0, 0)
    assert first.shared == 3  # the prompt is computed once where prompts are shared


def test_off_policy_answers_are_weighted_and_their_ratio_starts_at_one() -> None:
    old = [torch.full((len(r.answer.token_ids),), -0.5) for r in ROLLOUTS]
    config = GrpoConfig(scale="none", most_weight=1.2)
    first, _ = make_groups(ROLLOUTS, config, old)
    assert first.examples[0].behaviour_logprobs[3:] == (-0.5, -0.5)
    assert first.examples[0].advantages[3:] == pytest.approx([0.5 * 1.2] * 2)  # e^0.5 is cut at 1.2
    whole = make_groups(ROLLOUTS, GrpoConfig(scale="none", most_weight=9, weights="sequence"), old)
    assert whole[0].examples[1].advantages[3:] == pytest.approx([-0.5 * 2.718281828**1.5] * 3)


def test_the_kl_of_answers_is_the_sum_over_their_tokens() -> None:
    reference = [torch.full((len(r.answer.token_ids),), -1.5) for r in ROLLOUTS]
    assert sequence_kl(ROLLOUTS, reference) == pytest.approx(0.5 * (2 + 3 + 1 + 1) / 4)


def test_published_variants_and_what_they_compute() -> None:
    assert "(r - mean) / std" in effective_loss(variant("grpo"))
    assert "k3(π, π_ref)," in effective_loss(variant("grpo"))
    assert "answers · 64.0; A = r - mean" in effective_loss(variant("dr_grpo", max_tokens=64))
    assert "1.28" in effective_loss(variant("dapo"))
    assert "ρ_answer" in effective_loss(variant("gspo"))
    assert "r - mean of others" in effective_loss(variant("rloo"))
    assert "k3(π, π_ref) · ρ" in effective_loss(variant("dapo", {"kl": 0.1}))
    assert "min(π_old/μ, 2) a token" in effective_loss(variant("dapo", {"most_weight": 2.0}))
    assert len({effective_loss(variant(name, max_tokens=8)) for name in VARIANTS}) == len(VARIANTS)


@pytest.mark.parametrize(
    ("name", "changes", "param"),
    [
        ("ppo", {}, "variant"),
        ("grpo", {"clip": 0.2}, "settings.clip"),
        ("grpo", {"baseline": "median"}, "settings.baseline"),
        ("dr_grpo", {}, "settings.constant"),
        ("rloo", {"most_weight": 0.0}, "settings.most_weight"),
    ],
)
def test_settings_that_do_not_exist_or_fit_are_named(name: str, changes: dict[str, object], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        variant(name, changes)
    assert caught.value.param == param
