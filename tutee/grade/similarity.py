"""How alike two texts are, from 0 to 1, by the metrics that OpenAI names.

| metric | definition |
| --- | --- |
| `fuzzy_match` | rapidfuzz `WRatio` after its default processing (lower case, blanks for punctuation) |
| `bleu` | sacrebleu's sentence BLEU (13a tokens, effective order, exponential smoothing) |
| `gleu` | Google-BLEU of Wu et al. 2016 (nltk), n-grams of 1 to 4 |
| `meteor` | nltk's METEOR with exact and stem matches; without WordNet's synonyms, which would be a download (ours) |
| `cosine` | of the counts of lower-case words (ours: OpenAI takes embeddings of its own) |
| `rouge_1` … `rouge_5`, `rouge_l` | F measure of rouge-score; words of any alphabet, without stemming |

OpenAI names rapidfuzz without a function; `WRatio` is what its example of a Python grader calls. gleu, meteor,
cosine and rouge see lower-case words. Two empty texts are alike (1), an empty and another are not (0). nltk is imported
at its first use: it takes a second.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from rapidfuzz import fuzz, utils

MOST_CHARACTERS = 200_000
"""Of each text; the alignments behind `meteor` and `rouge_l` cost the product of both lengths, so those have less."""
MOST_WORDS_ALIGNED = 2_000
ALIGNED = ("meteor", "rouge_l")
WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return WORD.findall(text.lower())


def fuzzy_match(text: str, reference: str) -> float:
    return float(fuzz.WRatio(text, reference, processor=utils.default_process)) / 100


def bleu(text: str, reference: str) -> float:
    return float(_sacrebleu().sentence_score(text, [reference]).score) / 100


def gleu(text: str, reference: str) -> float:
    from nltk.translate.gleu_score import sentence_gleu

    return float(sentence_gleu([words(reference)], words(text)))


def meteor(text: str, reference: str) -> float:
    from nltk.translate.meteor_score import single_meteor_score

    return float(single_meteor_score(words(reference), words(text), wordnet=_NoSynonyms()))


def cosine(text: str, reference: str) -> float:
    ours, theirs = Counter(words(text)), Counter(words(reference))
    product = sum(count * theirs[word] for word, count in ours.items())
    norms = math.sqrt(sum(n * n for n in ours.values()) * sum(n * n for n in theirs.values()))
    return product / norms if norms else 0.0


def _rouge(metric: str) -> Callable[[str, str], float]:
    def rouge(text: str, reference: str) -> float:
        return float(_rouge_scorer(metric).score(reference, text)[metric].fmeasure)

    return rouge


METRICS: Mapping[str, Callable[[str, str], float]] = {
    "fuzzy_match": fuzzy_match,
    "bleu": bleu,
    "gleu": gleu,
    "meteor": meteor,
    "cosine": cosine,
    **{f"rouge_{n}": _rouge(f"rouge{n}") for n in range(1, 6)},
    "rouge_l": _rouge("rougeL"),
}


def similarity(metric: str, text: str, reference: str) -> float:
    """The metric of a text against a reference, within [0, 1].

    Raises:
        ValueError: a text too long for this metric.
    """
    if max(len(text), len(reference)) > MOST_CHARACTERS:
        raise ValueError(f"a text has more than {MOST_CHARACTERS} characters")
    if metric in ALIGNED and max(len(words(text)), len(words(reference))) > MOST_WORDS_ALIGNED:
        raise ValueError(f"a text has more than {MOST_WORDS_ALIGNED} words, too many for {metric}")
    if not text.strip() or not reference.strip():
        return float(text.strip() == reference.strip())
    return min(1.0, max(0.0, METRICS[metric](text, reference)))


@cache
def _sacrebleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(effective_order=True)


@cache
def _rouge_scorer(metric: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([metric], tokenizer=_Words())


class _Words:
    """What rouge-score splits with: its own way knows Latin letters only."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


class _NoSynonyms:
    """What nltk asks for synonyms: there are none."""

    def synsets(self, word: str) -> list[Any]:
        return []
