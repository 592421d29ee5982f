"""Learn and measure the moderation model: `python bench/moderation.py --data FOLDER [--write]`.

FOLDER holds `safety/` and `sft/` with the public sets named below (gzipped JSON lines); without them nothing is done.
Learned from: OpenAI's moderation evaluation set, HarmfulQA, ordinary instructions, and one half of toxicity comments,
StrongREJECT and Forbidden Questions; cross-validated on these, and measured on the other halves and on sets that were
not touched. `--write` puts the weights where the server reads them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tutee.safety import moderation
from tutee.safety.moderation import BUCKETS, FLAGGED, LEARNED, WINDOW, hashed, words_of

LABELS = {
    "S": "sexual",
    "H": "hate",
    "V": "violence",
    "HR": "harassment",
    "SH": "self-harm",
    "S3": "sexual/minors",
    "H2": "hate/threatening",
    "V2": "violence/graphic",
}
SCORED = {"insult": "harassment", "identity_attack": "hate", "sexually_explicit": "sexual", "threat": "violence"}
KINDS: dict[str, tuple[str, ...]] = {
    "Non-violent crimes": ("illicit",),
    "Illegal goods and services": ("illicit",),
    "Violence": ("illicit", "violence"),
    "Hate, harassment and discrimination": ("hate",),
    "Sexual content": ("sexual",),
    "Illegal Activity": ("illicit",),
    "Malware": ("illicit",),
    "Fraud": ("illicit",),
    "Physical Harm": ("illicit", "violence"),
    "Economic Harm": ("illicit",),
    "Hate Speech": ("hate",),
    "Pornography": ("sexual",),
    "Legal Opinion": (),
    "Financial Advice": (),
    "Health Consultation": (),
    "Gov Decision": (),
}
"""What the kinds of StrongREJECT and Forbidden Questions say; an empty one says that the question is good."""
BENIGN = ("alpaca_2k", "dolly_2k", "lima_1k")
GOOD = np.zeros(len(LEARNED), dtype=np.float32)
LEAST_SEEN = 2
"""Texts that a feature must be in."""
FOLDS = 5
SEED = 0
DECAY = 3e-5
Rows = list[tuple[str, NDArray[np.float32]]]
"""(text, label of each learned category; NaN: unknown)."""


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def gather(data: Path) -> tuple[Rows, Rows]:
    """(rows to learn from, ordinary instructions, which are good)."""
    folder = data / "safety"
    rows: Rows = []
    for row in read(folder / "openai_moderation_1680.jsonl.gz"):
        rows.append((row["prompt"], label({name: row.get(letter) for letter, name in LABELS.items()})))
    rows += [(row["question"], label({"illicit": 1})) for row in read(folder / "harmfulqa_1960.jsonl.gz")]
    for row in half(read(folder / "toxicity_rtp_993.jsonl.gz"), "text"):
        known = {name: sure(float(row[score])) for score, name in SCORED.items()}
        rows.append((row["text"], label(known)))
    for row in half(read(folder / "strongreject_313.jsonl.gz"), "forbidden_prompt"):
        if row["category"] in KINDS:
            rows.append((row["forbidden_prompt"], label(dict.fromkeys(KINDS[row["category"]], 1))))
    for row in half(read(folder / "forbidden_questions_390.jsonl.gz"), "question"):
        if row["content_policy_name"] in KINDS:
            found = KINDS[row["content_policy_name"]]
            rows.append((row["question"], label(dict.fromkeys(found, 1)) if found else GOOD))
    texts = [first_text(row) for name in BENIGN for row in read(data / "sft" / f"{name}.jsonl.gz")]
    return rows, [(text, GOOD) for text in texts if text]


def label(known: Mapping[str, int | None]) -> NDArray[np.float32]:
    """Labels in the order of `LEARNED`; NaN where nothing is known."""
    values = [known.get(name) for name in LEARNED]
    return np.array([np.nan if value is None else value for value in values], dtype=np.float32)


def sure(score: float) -> int | None:
    """A label from a score, where the score is clear."""
    return 1 if score >= 0.7 else 0 if score <= 0.3 else None


def half(rows: Sequence[dict[str, Any]], text: str, learn: bool = True) -> list[dict[str, Any]]:
    """The half to learn from, or the other one; by the text, so that it is always the same."""
    return [row for row in rows if (zlib.crc32(row[text].encode()) % 2 == 0) == learn]


def first_text(row: dict[str, Any]) -> str:
    """What a person asked, whatever the set calls it."""
    for name in ("instruction", "prompt", "question"):
        if isinstance(row.get(name), str):
            return str(row[name])
    turns = row.get("messages") or row.get("conversations") or []
    first = turns[0] if turns else ""
    return str(first.get("content") or first.get("value") or "") if isinstance(first, dict) else str(first)


def features(text: str) -> NDArray[np.int64]:
    return np.array(sorted(set(hashed(words_of(text)[: 4 * WINDOW]))), dtype=np.int64)


class Words:
    """The features that were seen often enough, counted from 0."""

    def __init__(self, texts: Sequence[str]) -> None:
        counts = np.zeros(BUCKETS, dtype=np.int64)
        for text in texts:
            counts[features(text)] += 1
        self.buckets = np.flatnonzero(counts >= LEAST_SEEN)
        self._place = np.full(BUCKETS, -1, dtype=np.int64)
        self._place[self.buckets] = np.arange(len(self.buckets))

    def of(self, text: str) -> tuple[NDArray[np.int64], float]:
        """(features of a text, what their sum is divided by)."""
        found = features(text)
        places = self._place[found]
        return places[places >= 0], float(np.sqrt(max(1, len(found))))


def fit(rows: Rows, words: Words, epochs: int = 25) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(weights [features, C], intercepts [C]) of a logistic regression; unknown labels count for nothing."""
    order = np.random.default_rng(SEED)
    bags = [words.of(text) for text, _ in rows]
    labels = torch.from_numpy(np.stack([each for _, each in rows]))
    weights = torch.zeros(len(words.buckets), len(LEARNED), requires_grad=True)
    bias = torch.full((len(LEARNED),), -3.0, requires_grad=True)
    optimizer = torch.optim.Adam([{"params": [weights], "lr": 0.1}, {"params": [bias], "lr": 0.05}])
    for _ in range(epochs):
        for batch in np.array_split(order.permutation(len(rows)), max(1, len(rows) // 512)):
            chosen = [bags[i] for i in batch]
            starts = torch.tensor(np.cumsum([0, *(len(bag) for bag, _ in chosen[:-1])]))
            flat = torch.from_numpy(np.concatenate([bag for bag, _ in chosen]))
            summed = torch.nn.functional.embedding_bag(flat, weights, starts, mode="sum")
            logit = summed / torch.tensor([[size] for _, size in chosen], dtype=torch.float32) + bias
            target = labels[torch.from_numpy(batch)]
            known = ~target.isnan()
            losses = torch.nn.functional.binary_cross_entropy_with_logits(logit[known], target[known], reduction="sum")
            loss = losses / len(batch) + DECAY * weights.square().sum()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return weights.detach().numpy(), bias.detach().numpy()


def thresholds(scores: NDArray[np.float32], labels: NDArray[np.float32]) -> NDArray[np.float32]:
    """For each category the log-odds with the best F1 among those that flag at most 1 % of what is known to be good."""
    out = []
    for c in range(len(LEARNED)):
        known = ~np.isnan(labels[:, c])
        score, label = scores[known, c], labels[known, c] > 0
        floor = np.quantile(score[~label], 0.99)
        candidates = np.unique(score[label])
        candidates = candidates[candidates >= floor] if (candidates >= floor).any() else np.array([floor])
        f1 = [2 * (label & (score >= t)).sum() / (label.sum() + (score >= t).sum()) for t in candidates]
        out.append(candidates[int(np.argmax(f1))])
    return np.array(out, dtype=np.float32)


def area(score: NDArray[np.float32], label: NDArray[np.bool_]) -> float:
    """Area under the ROC curve."""
    order = np.argsort(np.argsort(score, kind="stable"), kind="stable") + 1.0
    good, bad = (~label).sum(), label.sum()
    return float((order[label].sum() - bad * (bad + 1) / 2) / (good * bad))


def cross_validate(rows: Rows, words: Words) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Log-odds of every row by a model that has not seen it, and the labels."""
    fold = np.random.default_rng(SEED).integers(0, FOLDS, len(rows))
    scores = np.zeros((len(rows), len(LEARNED)), dtype=np.float32)
    for k in range(FOLDS):
        weights, bias = fit([row for row, f in zip(rows, fold, strict=True) if f != k], words)
        for i in np.flatnonzero(fold == k):
            places, size = words.of(rows[i][0])
            scores[i] = weights[places].sum(0) / size + bias
    return scores, np.stack([each for _, each in rows])


def report(scores: NDArray[np.float32], labels: NDArray[np.float32], cuts: NDArray[np.float32]) -> None:
    print(f"{'category':24} {'bad':>5} {'good':>6} {'area':>6} {'precision':>9} {'recall':>7}")
    for c, name in enumerate(LEARNED):
        known = ~np.isnan(labels[:, c])
        score, label = scores[known, c], labels[known, c] > 0
        hit = score >= cuts[c]
        precision = (hit & label).sum() / max(1, hit.sum())
        recall = (hit & label).sum() / label.sum()
        counts = f"{label.sum():5} {(~label).sum():6}"
        print(f"{name:24} {counts} {area(score, label):6.3f} {precision:9.2f} {recall:7.2f}")


def flagged(texts: Sequence[str]) -> float:
    """Share of texts with any category."""
    return float(np.mean([max(moderation.score(text).values()) >= FLAGGED for text in texts]))


def measure_elsewhere(data: Path) -> None:
    """What the written weights flag in sets that nothing was learned from."""
    folder = data / "safety"
    contrast = read(folder / "xstest_prompts.jsonl.gz")
    toxic = half(read(folder / "toxicity_rtp_993.jsonl.gz"), "text", learn=False)
    rejected = half(read(folder / "strongreject_313.jsonl.gz"), "forbidden_prompt", learn=False)
    sets = {
        "toxic comments, other half (bad)": [row["text"] for row in toxic if float(row["toxicity"]) >= 0.8],
        "StrongREJECT, other half (bad)": [row["forbidden_prompt"] for row in rejected],
        "SimpleSafetyTests (bad)": [row["prompts_final"] for row in read(folder / "simple_safety_tests_100.jsonl.gz")],
        "HarmBench, validation (bad)": [row["Behavior"] for row in read(folder / "harmbench_val.jsonl.gz")],
        "XSTest unsafe (bad)": [row["prompt"] for row in contrast if row["label"] == "unsafe"],
        "XSTest safe (good, made to look bad)": [row["prompt"] for row in contrast if row["label"] == "safe"],
        "security questions (good)": [row["mutated_prompt"] for row in read(folder / "cyberseceval_frr_300.jsonl.gz")],
    }
    for name, texts in sets.items():
        print(f"{name:40} {len(texts):5} texts, flagged {flagged(texts):.1%}")


def write(words: Words, weights: NDArray[np.float32], bias: NDArray[np.float32], cuts: NDArray[np.float32]) -> None:
    """Put the model where the server reads it, its thresholds moved into the intercepts."""
    used = np.abs(weights).max(1) > 0.2
    np.savez_compressed(
        Path(moderation.__file__).with_name("moderation.npz"),
        buckets=words.buckets[used].astype(np.uint16),
        weights=weights[used].astype(np.float16),
        bias=bias - cuts,
    )
    print(f"{used.sum()} features written")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if not (arguments.data / "safety").is_dir():
        print(f"skipped: there is no {arguments.data / 'safety'}")
        return
    labelled, benign = gather(arguments.data)
    rows = labelled + benign
    words = Words([text for text, _ in rows])
    scores, labels = cross_validate(rows, words)
    cuts = thresholds(scores, labels)
    report(scores, labels, cuts)
    print(f"any category, of {len(benign)} instructions: {(scores[-len(benign) :] >= cuts).any(1).mean():.1%}")
    if arguments.write:
        write(words, *fit(rows, words), cuts)
    measure_elsewhere(arguments.data)


if __name__ == "__main__":
    main()
