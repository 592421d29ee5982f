"""Which of OpenAI's 13 moderation categories a text falls into: a small linear model on words, and patterns.

Nine categories have weights (`moderation.npz`: hashed words, pairs of words and word beginnings, learned from public
labelled texts by `bench/moderation.py`, measured in docs/moderations.md). The four that nobody labels are narrowings:
their parent's score, where a pattern says that it is the narrower thing. English only. A long text is as bad as its
worst window. Knows texts; no model of ours, no HTTP.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LEARNED = (
    "harassment",
    "hate",
    "hate/threatening",
    "illicit",
    "self-harm",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
NARROWER: Mapping[str, tuple[str, str]] = {
    "harassment/threatening": (
        "violence",
        r"\b(i|we)\b[^.!?]{0,40}\b(kill|hurt|beat|shoot|stab|find|destroy|end|burn|break|rape|choke)\b[^.!?]{0,40}\b(you|u|him|her|them)\b",
    ),
    "illicit/violent": (
        "illicit",
        r"\b(weapon|gun|rifle|bomb|explosiv|grenade|kill|murder|assassinat|terror|poison|shoot|stab|attack|anthrax|sarin)",
    ),
    "self-harm/instructions": ("self-harm", r"\b(how|ways?|methods?|best|easiest|painless|dose|overdose|steps?)\b"),
    "self-harm/intent": ("self-harm", r"\b(i|i'm|im|i've|i'll|my|myself)\b"),
}
"""Category → (parent, what must be found in the text)."""
CATEGORIES = tuple(sorted((*LEARNED, *NARROWER)))

FLAGGED = 0.5
"""A category with at least this score applies; the model's intercepts are shifted so that this is its threshold."""
BUCKETS = 1 << 16
WINDOW, STEP = 50, 25
"""Words."""
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


def score(text: str) -> dict[str, float]:
    """Category → score in [0, 1]; `FLAGGED` and more applies."""
    scores = dict(zip(LEARNED, _worst(words_of(text)).tolist(), strict=True))
    for name, (parent, pattern) in NARROWER.items():
        scores[name] = scores[parent] if re.search(pattern, text.lower()) else scores[parent] / 4
    return {name: round(scores[name], 6) for name in CATEGORIES}


def words_of(text: str) -> list[str]:
    """The words that count, in small letters."""
    return _WORD.findall(text.lower())


def _worst(words: list[str]) -> NDArray[np.float64]:
    """The worst window's scores, in the order of `LEARNED`."""
    starts = range(0, max(1, len(words) - STEP), STEP)
    logits = [logits_of(words[start : start + WINDOW]) for start in starts]
    worst: NDArray[np.float64] = 1 / (1 + np.exp(-np.max(logits, axis=0)))
    return worst


def logits_of(words: list[str]) -> NDArray[np.float64]:
    """Log-odds of each learned category for one window."""
    buckets, weights, bias = _weights()
    found = np.array(sorted(set(hashed(words))), dtype=np.int64)
    places = np.searchsorted(buckets, found).clip(max=len(buckets) - 1)
    known = places[buckets[places] == found]
    logits: NDArray[np.float64] = weights[known].sum(0) / np.sqrt(max(1, len(found))) + bias
    return logits


def hashed(words: list[str]) -> Iterator[int]:
    """Buckets of a window's words, pairs of neighbours, and beginnings of longer words."""
    for word in words:
        yield _bucket(word)
        if len(word) > 4:
            yield _bucket(f"{word[:4]}*")
    for first, second in pairwise(words):
        yield _bucket(f"{first} {second}")


def _bucket(feature: str) -> int:
    return zlib.crc32(feature.encode("utf-8", "replace")) % BUCKETS


@cache
def _weights() -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """(buckets in order, weights of each by category, intercepts)."""
    with np.load(Path(__file__).with_name("moderation.npz")) as kept:
        return kept["buckets"].astype(np.int64), kept["weights"].astype(np.float64), kept["bias"].astype(np.float64)
