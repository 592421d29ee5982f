"""From rewards to advantages: how much better a sample, or a token of it, was than expected.

Two families. Group baselines compare the answers to one prompt with each other (one number a sample); generalised
advantage estimation compares what came after each token with a critic's forecast (one number a token). Pure functions
of numbers: knows no model, no batch, no loss.

Axes: S samples, T tokens of one answer, N all counted tokens of a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Baseline = Literal["mean", "leave_one_out", "none"]
Scale = Literal["group", "batch", "none"]

SAME = 1e-6
"""Rewards of a group closer together than this are equal: dividing by their spread would only amplify rounding."""


def group_advantages(
    reward_S: Sequence[float], group_S: Sequence[int], baseline: Baseline = "mean", scale: Scale = "group"
) -> Tensor:
    """One advantage a sample, float32 [S], from the rewards of the samples that share its prompt.

    A_i = (r_i - b_i) / s, with the baseline b and the scale s of
      - GRPO (Shao et al. 2024, arXiv 2402.03300, section 4.1.2): b = group mean, s = group standard deviation;
      - Dr. GRPO (Liu et al. 2025, arXiv 2503.20783): b = group mean, s = 1, because dividing by the deviation favours
        prompts that are almost always or almost never answered well;
      - RLOO (Ahmadian et al. 2024, arXiv 2402.14740, equation 8): b = mean of the *other* samples, s = 1;
      - `batch`: s = standard deviation of all r - b of the step (REINFORCE++, Hu 2025, arXiv 2501.03262).

    Standard deviations divide by n - 1. A group whose rewards are all the same gets exactly 0: it says nothing.

    Args:
        reward_S: total reward of each sample, finite.
        group_S: which prompt each sample answers; the order of samples does not matter.

    Raises:
        ValueError: not one group a sample, or a reward that is not finite.
    """
    reward = torch.tensor(list(reward_S), dtype=torch.float64)
    if len(group_S) != len(reward) or not bool(torch.isfinite(reward).all()):
        raise ValueError("every sample needs a group and a finite reward")
    _, index_S, count_G = torch.unique(torch.tensor(list(group_S)), return_inverse=True, return_counts=True)
    mean_G = _sums(reward, index_S, len(count_G)) / count_G
    centred_S = reward - mean_G[index_S]
    spread_G = torch.sqrt(_sums(centred_S**2, index_S, len(count_G)) / (count_G - 1).clamp_min(1))
    advantage_S = reward.clone() if baseline == "none" else centred_S
    if baseline == "leave_one_out":
        size_S = count_G[index_S]
        advantage_S = centred_S * size_S / (size_S - 1).clamp_min(1)
    if scale == "group":
        advantage_S = advantage_S / spread_G[index_S].clamp_min(SAME)
    elif scale == "batch":
        advantage_S = advantage_S / advantage_S.std().clamp_min(SAME) if len(reward) > 1 else advantage_S
    if baseline != "none":
        advantage_S = torch.where(spread_G[index_S] < SAME, 0.0, advantage_S)
    return advantage_S.float()


def zero_variance_share(reward_S: Sequence[float], group_S: Sequence[int]) -> float:
    """The share of groups whose rewards are all the same, which teach nothing with a group baseline."""
    groups: dict[int, list[float]] = {}
    for reward, group in zip(reward_S, group_S, strict=True):
        groups.setdefault(group, []).append(reward)
    flat = sum(max(rewards) - min(rewards) < SAME for rewards in groups.values())
    return flat / len(groups) if groups else 0.0


def gae(
    reward_N: Tensor,
    value_N: Tensor,
    gamma: float = 1.0,
    lam: float = 0.95,
    bootstrap: float = 0.0,
    answer_N: Tensor | None = None,
) -> Tensor:
    """Generalised advantage estimates [N] (Schulman et al. 2016, arXiv 1506.02438, equation 16).

        A_t = Σ_{k≥t} (γλ)^{k-t} δ_k,   δ_k = r_k + γ V_{k+1} - V_k

    The sums are doubled in reach until they span the row, in float64: no loop over tokens, and nothing for a device to
    be waited for.

    Args:
        reward_N: what each token earned.
        value_N: the forecast before each token was drawn; detached here.
        bootstrap: V after the last token: 0 where the answer ended by itself, the critic's forecast where it was cut.
        answer_N: which answer each token belongs to, those of one next to each other; None: all are of one answer.
    """
    value_N = value_N.detach().double()
    answer_N = torch.zeros_like(value_N, dtype=torch.int64) if answer_N is None else answer_N
    following_N = torch.where(_same_later(answer_N, 1), _later(value_N, 1), bootstrap)
    sum_N = reward_N + gamma * following_N - value_N
    reach = 1
    while reach < len(sum_N):
        sum_N = sum_N + torch.where(_same_later(answer_N, reach), (gamma * lam) ** reach * _later(sum_N, reach), 0.0)
        reach *= 2
    return sum_N.to(reward_N.dtype)


def _later(value_N: Tensor, places: int) -> Tensor:
    """The value so many places later, 0 beyond the end."""
    return torch.nn.functional.pad(value_N[places:], (0, min(places, len(value_N))))


def _same_later(answer_N: Tensor, places: int) -> Tensor:
    """Whether so many places later is the same answer."""
    return torch.nn.functional.pad(answer_N[places:], (0, min(places, len(answer_N))), value=-1) == answer_N


def whiten(value_N: Tensor, *, centre: bool = True) -> Tensor:
    """Values scaled to a variance of 1 over all of N (the whole step, not a microbatch), around 0 or their own mean."""
    if len(value_N) < 2:
        return value_N - value_N.mean() if centre and len(value_N) else value_N
    mean = value_N.mean()
    scaled_N = (value_N - mean) / value_N.std().clamp_min(SAME)
    return scaled_N if centre else scaled_N + mean


def _sums(value_S: Tensor, index_S: Tensor, groups: int) -> Tensor:
    return value_S.new_zeros(groups).index_add(0, index_S, value_S)
