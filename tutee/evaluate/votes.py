"""Blind votes between a candidate and the live version, and a test of them that stays valid under peeking.

A vote is one person's choice between two answers whose authors were hidden. Looking after every vote and stopping when
it looks good promotes a worthless version about one time in four with an ordinary test; the e-process here keeps that
under 1 in 20 however often one looks. Ties carry no evidence on who is better: they are counted and reported only.
Knows nothing of models, the store or the gate's thresholds.

Sources: Ville's inequality; Robbins (1970) beta mixtures for the confidence sequence; Ramdas et al. (2023),
"Game-theoretic statistics and safe anytime-valid inference".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Winner = Literal["candidate", "live", "tie", "both_bad"]

# The alternatives that the bet is spread over: win rates from just above a coin to .95. A mixture over any fixed grid
# is a valid e-process, so the grid's coarseness costs a little power and never validity.
_ALTERNATIVES = np.linspace(0.505, 0.95, 90)
_FARTHEST = 5000


@dataclass(frozen=True, slots=True)
class Vote:
    """One blind comparison. `candidate_words` and `live_words` are the lengths of the two answers shown."""

    voter: str
    winner: Winner
    candidate_words: int = 0
    live_words: int = 0


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of the votes and what follows from the decisive ones (`wins` + `losses`)."""

    wins: int
    losses: int
    ties: int
    both_bad: int
    people: int
    e_value: float
    """Evidence that the candidate wins more than half: at most 1 in 20 worthless candidates ever reaches 20."""
    e_value_against: float
    """The same evidence for the live version."""
    win_rate: float
    ci_lo: float
    ci_hi: float
    weakest_e_value: float | None
    """The e-value without the one person whose votes matter most; None with fewer than three people."""
    weakest_without: str | None

    @property
    def decisive(self) -> int:
        """Votes that chose one of the two."""
        return self.wins + self.losses


def tally(votes: Sequence[Vote], alpha: float = 0.05) -> Tally:
    """Count the votes and compute the e-values, the confidence sequence and the drop-one-person robustness."""
    wins, losses = _wins_losses(votes)
    people = sorted({vote.voter for vote in votes})
    weakest: tuple[float, str] | None = None
    if len(people) >= 3:
        weakest = min((e_value(*_wins_losses(v for v in votes if v.voter != one)), one) for one in people)
    lo, hi = confidence_sequence(wins, losses, alpha)
    return Tally(
        wins=wins,
        losses=losses,
        ties=sum(vote.winner == "tie" for vote in votes),
        both_bad=sum(vote.winner == "both_bad" for vote in votes),
        people=len(people),
        e_value=e_value(wins, losses),
        e_value_against=e_value(losses, wins),
        win_rate=wins / (wins + losses) if wins + losses else math.nan,
        ci_lo=lo,
        ci_hi=hi,
        weakest_e_value=weakest[0] if weakest else None,
        weakest_without=weakest[1] if weakest else None,
    )


def e_value(wins: float, losses: float) -> float:
    """Mixture likelihood ratio of "wins more than half" against a fair coin: mean over p of (2p)^wins (2(1-p))^losses.

    Under the null (p <= 1/2, votes independent) it is a supermartingale starting at 1, so the chance that it ever
    reaches x is at most 1/x. Half votes are allowed, for planning.
    """
    log_ratio = wins * np.log(2 * _ALTERNATIVES) + losses * np.log(2 * (1 - _ALTERNATIVES))
    largest = float(log_ratio.max())
    return math.exp(min(largest, 700.0)) * float(np.exp(log_ratio - largest).mean())


def confidence_sequence(wins: int, losses: int, alpha: float = 0.05) -> tuple[float, float]:
    """An interval for the true win rate that holds at every look at once with probability 1 - alpha.

    All p with B(wins+1, losses+1) / (p^wins (1-p)^losses) < 1/alpha (Robbins' uniform mixture).
    """
    if wins + losses == 0:
        return 0.0, 1.0
    log_beta = math.lgamma(wins + 1) + math.lgamma(losses + 1) - math.lgamma(wins + losses + 2)

    def inside(p: float) -> bool:
        log_likelihood = (wins * math.log(p) if wins else 0.0) + (losses * math.log1p(-p) if losses else 0.0)
        return log_beta - log_likelihood < math.log(1 / alpha)

    def edge(outer: float) -> float:
        inner = min(max(wins / (wins + losses), 1e-9), 1 - 1e-9)
        for _ in range(60):
            middle = (inner + outer) / 2
            inner, outer = (middle, outer) if inside(middle) else (inner, middle)
        return inner

    return edge(1e-12) if wins else 0.0, edge(1 - 1e-12) if losses else 1.0


def more_votes_needed(wins: int, losses: int, threshold: float, prior_rate: float = 0.7) -> int | None:
    """How many more decisive votes reach `threshold` if the win rate stays as it is; None when no number would.

    The rate so far is pulled towards `prior_rate` by four imagined votes, so that the first vote is not a forecast.
    """
    if e_value(wins, losses) >= threshold:
        return 0
    rate = (wins + 4 * prior_rate) / (wins + losses + 4)

    def reached(more: int) -> bool:
        return e_value(wins + more * rate, losses + more * (1 - rate)) >= threshold

    if rate <= 0.5 or not reached(_FARTHEST):
        return None
    low, high = 0, _FARTHEST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def length_controlled_win_rate(votes: Sequence[Vote], ridge: float = 1.0) -> float | None:
    """The win rate that the decisive votes predict for two answers of equal length.

    Logistic regression of "candidate won" on an intercept and the standardised log length ratio (ridge on the slope
    only), read off at ratio 1: Dubois et al. (2024), "Length-controlled AlpacaEval". None with fewer than 10 decisive
    votes or when every ratio is the same, for then length and version cannot be told apart.
    """
    decisive = [vote for vote in votes if vote.winner in ("candidate", "live")]
    ratio = np.array([math.log((v.candidate_words + 1) / (v.live_words + 1)) for v in decisive])
    if len(decisive) < 10 or float(ratio.std()) < 1e-6:
        return None
    design = np.stack([np.ones_like(ratio), ratio / ratio.std()], axis=1)
    won = np.array([vote.winner == "candidate" for vote in decisive], dtype=float)
    # A speck of ridge on the intercept keeps a clean sweep finite.
    penalty = np.diag([1e-2, ridge])
    weights = np.zeros(2)
    for _ in range(50):
        probability = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (won - probability) - penalty @ weights
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design + penalty
        weights = weights + np.linalg.solve(curvature, gradient)
        if float(np.abs(gradient).max()) < 1e-8:
            break
    return float(1 / (1 + math.exp(-weights[0])))


def _wins_losses(votes: Iterable[Vote]) -> tuple[int, int]:
    winners = [vote.winner for vote in votes]
    return winners.count("candidate"), winners.count("live")
