"""A small Bayesian model of what people prefer: ridge Bradley–Terry on surface features, with an honest error bar.

P(a ≻ b) = σ(w · (f(a) - f(b))), w ~ N(0, 1/λ), f standardised and clamped (Bradley & Terry 1952). λ comes from 5-fold
cross-validation; the ensemble is bootstrap fits. What a person wrote over an answer joins as a vote, the least noisy
there is. Thumbs join as weaker labels, P(up) = σ(w · f + c), if cross-validation on the votes gains from them. A head
that cannot predict votes it has not seen must not be optimised against: `trusted` says so, and that is what keeps
random labels from training anything. So it is measured on votes alone (on thumbs where there are none).

Knows numbers; features come from `features.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutee import intervals

Array = NDArray[np.float64]

CLAMP = 3.0
"""Standard deviations; beyond them the head knows nothing, so it must not extrapolate."""
LAMBDAS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
THUMB_WEIGHT = 0.5
FOLDS = 5
REPEATS = 4
"""Cross-validation is repeated with new folds: at 100 votes one partition's accuracy moves by several points."""
ENSEMBLE = 16


@dataclass(frozen=True, slots=True)
class Labels:
    """Votes, thumbs and corrections as raw feature rows. `chosen` and `rejected` [pairs, features], `thumbs` [thumbs,
    features], `written` and `replaced` [corrections, features]."""

    chosen: Array
    rejected: Array
    weight: Array
    """Of each pair."""
    thumbs: Array
    thumb_up: NDArray[np.bool_]
    written: Array
    replaced: Array

    @classmethod
    def of_votes(cls, chosen: Array, rejected: Array) -> Labels:
        """Votes of equal weight and nothing else."""
        none = np.zeros((0, chosen.shape[1]))
        return cls(chosen, rejected, np.ones(len(chosen)), none, np.zeros(0, dtype=np.bool_), none, none)


@dataclass(frozen=True, slots=True, eq=False)
class PreferenceHead:
    """A fitted head. Scores are logits: a difference of 1 means odds of e to 1."""

    mean: Array
    std: Array
    weights: Array
    """[features], of the fit on all labels."""
    ensemble: Array
    """[ENSEMBLE, features], of bootstrap fits."""
    ridge: float
    accuracy: float
    """Cross-validated, on votes (or on thumbs when there are no votes)."""
    low: float
    high: float
    """95 % interval of `accuracy`."""
    chance: float
    """What guessing the more frequent label would get: .5 for votes."""
    votes: int
    uses_thumbs: bool

    @property
    def trusted(self) -> bool:
        """Whether the interval lies wholly above chance; otherwise nothing may be optimised against this head."""
        return self.low > self.chance

    def score(self, features: Array) -> Array:
        """Mean score [n] of raw feature rows [n, features]."""
        return np.asarray(self._standardise(features) @ self.weights)

    def ensemble_scores(self, features: Array) -> Array:
        """Scores [n, ENSEMBLE]; their spread is how unsure the head is."""
        return np.asarray(self._standardise(features) @ self.ensemble.T)

    def best_and_worst(self, features: Array, may_win: NDArray[np.bool_]) -> tuple[int, int] | None:
        """Indices of the best and worst of one prompt's answers [n, features], the best among those that `may_win` [n].

        None where none may, or the head sees no difference: the mean gap is within one standard deviation of the
        ensemble's.
        """
        if not may_win.any():
            return None
        scores = self.score(features)
        best, worst = int(np.argmax(np.where(may_win, scores, -np.inf))), int(np.argmin(scores))
        gaps = self.ensemble_scores(features)
        spread = float(np.std(gaps[best] - gaps[worst]))
        return (best, worst) if scores[best] - scores[worst] > spread else None

    def to_dict(self) -> dict[str, Any]:
        """The head as plain JSON values."""
        return {name: v.tolist() if isinstance(v := getattr(self, name), np.ndarray) else v for name in _FIELDS}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> PreferenceHead:
        """The head that `to_dict` wrote."""
        values: dict[str, Any] = {name: np.array(v) if isinstance(v := raw[name], list) else v for name in _FIELDS}
        return cls(**values)

    def strongest(self, names: Sequence[str], count: int = 5) -> list[tuple[str, float]]:
        """The features that weigh most, with their weights: what the head believes people like and dislike."""
        order = np.argsort(-np.abs(self.weights))[:count]
        return [(names[i], float(self.weights[i])) for i in order]

    def sentence(self) -> str:
        """How sure the head is, for people."""
        what = "votes" if self.votes else "thumbs"
        accuracy = f"It predicts {what} it has not seen in {self.accuracy:.0%} of the cases"
        interval = f"(95 % interval {self.low:.0%} to {self.high:.0%}, guessing gets {self.chance:.0%})"
        return f"{accuracy} {interval}."

    def _standardise(self, features: Array) -> Array:
        return _standardise(features, self.mean, self.std)


_FIELDS = tuple(field.name for field in fields(PreferenceHead))


def fit_head(labels: Labels, seed: int = 0) -> PreferenceHead:
    """Fit the head, choose λ and whether thumbs help, and measure it on labels that the fit has not seen.

    Raises:
        ValueError: neither five votes nor ten thumbs (the caller knows what to tell people).
    """
    if len(labels.chosen) < FOLDS and len(labels.thumbs) < 2 * FOLDS:
        raise ValueError("too few labels to fit and cross-validate a head")
    pooled = np.concatenate([labels.chosen, labels.rejected, labels.thumbs])
    mean = np.nan_to_num(np.nanmean(np.where(np.isnan(pooled).all(axis=0), 0.0, pooled), axis=0))
    std = np.nan_to_num(np.nanstd(np.where(np.isnan(pooled).all(axis=0), 0.0, pooled), axis=0))
    std = np.where(std > 1e-9, std, 1.0)
    votes = _pairs(labels.chosen, labels.rejected, labels.weight, mean, std)
    corrections = _pairs(labels.written, labels.replaced, np.ones(len(labels.written)), mean, std)
    thumbs = _thumbs(labels, mean, std)
    generator = np.random.default_rng(seed)
    measured = votes if len(votes.x) >= FOLDS else thumbs
    folds = [generator.permutation(len(measured.x)) % FOLDS for _ in range(REPEATS)]
    extras = [corrections]
    if measured is votes and len(thumbs.x) >= FOLDS:
        extras.append(corrections + thumbs)
    options = [(ridge, extra) for extra in extras for ridge in LAMBDAS]
    results = [_cross_validate(measured, extra, ridge, folds) for ridge, extra in options]
    chosen = int(np.argmin([loss for loss, _ in results]))
    ridge, extra = options[chosen]
    accuracy = results[chosen][1]
    _, low, high = intervals.share(accuracy * len(measured.x), len(measured.x))
    everything = measured + extra
    ensemble = np.stack([_fit(everything.resampled(generator), ridge) for _ in range(ENSEMBLE)])
    weights = _fit(everything, ridge)
    chance = 0.5 if measured is votes else max(float(np.mean(measured.y)), 1 - float(np.mean(measured.y)))
    features = len(mean)
    return PreferenceHead(
        mean, std, weights[:features], ensemble[:, :features], ridge, accuracy, low, high, chance,
        len(labels.chosen) if measured is votes else 0, extra is not corrections or measured is thumbs,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Logistic:
    """Rows of a logistic regression: x [n, features + 1] (last column: the thumbs' intercept), y in {0, 1}, weights."""

    x: Array
    y: Array
    weight: Array

    def __add__(self, other: _Logistic) -> _Logistic:
        both = [(self.x, other.x), (self.y, other.y), (self.weight, other.weight)]
        return _Logistic(*(np.concatenate(pair) for pair in both))

    def where(self, keep: NDArray[np.bool_]) -> _Logistic:
        return _Logistic(self.x[keep], self.y[keep], self.weight[keep])

    def resampled(self, generator: np.random.Generator) -> _Logistic:
        index = generator.integers(0, len(self.x), len(self.x))
        return _Logistic(self.x[index], self.y[index], self.weight[index])


def _pairs(better: Array, worse: Array, weight: Array, mean: Array, std: Array) -> _Logistic:
    difference = _standardise(better, mean, std) - _standardise(worse, mean, std)
    x = np.concatenate([difference, np.zeros((len(difference), 1))], axis=1)
    return _Logistic(x, np.ones(len(x)), weight)


def _thumbs(labels: Labels, mean: Array, std: Array) -> _Logistic:
    x = np.concatenate([_standardise(labels.thumbs, mean, std), np.ones((len(labels.thumbs), 1))], axis=1)
    return _Logistic(x, labels.thumb_up.astype(np.float64), np.full(len(x), THUMB_WEIGHT))


def _standardise(features: Array, mean: Array, std: Array) -> Array:
    return np.asarray(np.clip(np.nan_to_num((features - mean) / std), -CLAMP, CLAMP))


def _fit(rows: _Logistic, ridge: float) -> Array:
    """Weights at the posterior mode, by Newton's method; the intercept is all but free."""
    penalty = np.full(rows.x.shape[1], ridge)
    penalty[-1] = 1e-2
    weights = np.zeros(rows.x.shape[1])
    for _ in range(25):
        p = _sigmoid(rows.x @ weights)
        gradient = rows.x.T @ (rows.weight * (p - rows.y)) + penalty * weights
        curvature = rows.x.T @ (rows.x * (rows.weight * p * (1 - p))[:, None]) + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def _cross_validate(
    measured: _Logistic, extra: _Logistic, ridge: float, folds: Sequence[NDArray[np.int64]]
) -> tuple[float, float]:
    """(log-loss, accuracy) on rows that the fit has not seen, over repeated folds; a score of exactly 0 counts half."""
    losses, hits = [], []
    for assignment in folds:
        for fold in range(FOLDS):
            weights = _fit(measured.where(assignment != fold) + extra, ridge)
            outside = measured.where(assignment == fold)
            signed = np.where(outside.y > 0.5, 1.0, -1.0) * (outside.x @ weights)
            losses.append(np.logaddexp(0, -signed) * outside.weight)
            hits.append(np.where(np.abs(signed) < 1e-12, 0.5, signed > 0))
    return float(np.mean(np.concatenate(losses))), float(np.mean(np.concatenate(hits)))


def _sigmoid(value: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.clip(value, -50, 50))))
