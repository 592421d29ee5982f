"""How answers read: words, very short ones, loops, whether something is said. For guard, gate and exam.

Knows text only.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

SHORT_WORDS = 8
"""An answer with fewer words is short: many of them are what length collapse looks like."""


def word_count(text: str) -> int:
    """Words as people count them: runs without white space."""
    return len(text.split())


def short_count(texts: Sequence[str]) -> int:
    """How many of the texts have fewer than `SHORT_WORDS` words."""
    return sum(word_count(text) < SHORT_WORDS for text in texts)


def short_share(texts: Sequence[str]) -> float:
    """Share of the texts that have fewer than `SHORT_WORDS` words; 0 of none."""
    return short_count(texts) / len(texts) if texts else 0.0


def distinct_2(text: str) -> float:
    """Share of a text's word pairs that are distinct; 1.0 for fewer than two words. Loops push it down."""
    words = re.findall(r"\w+", text.lower())
    pairs = list(itertools.pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def says(text: str, phrase: str) -> bool:
    """Whether the phrase occurs as whole words (or as a whole number), whatever the case."""
    return re.search(rf"(?<![\w.]){re.escape(phrase)}(?!\w|\.\d)", text, re.IGNORECASE) is not None
