"""How well reward models predict what people preferred, on real human pairs they have not seen.

    python bench/reward.py --model ~/.tutee/models/smollm2-135m-instruct --data ../shared/data/preference

Per data set, accuracy on pairs kept aside (a tie in score is half right) with its 95 % interval, of
  length   the longer answer wins, or the shorter where that fits the training pairs better
  n-grams  Bradley-Terry on hashed word 1- and 2-grams, ridge chosen on a fifth of the training pairs
  surface  the small-data head on two dozen surface features (`train/preference_head.py`)
  frozen   the same head on the network's own hidden state at the last token, untrained
  lora     a LoRA reward model (`train/reward.py`), one epoch
`--data` holds the sets of `DATASETS`; a set that is not there is passed over, and without any the script says so and
ends. The LoRA run leaves checkpoints in `--folder` and goes on from there when called again. Ends with one JSON object.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import re
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from tutee.conversation import Message
from tutee.data.training_files import Ranking
from tutee.intervals import share
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.model.value_head import ValueHead
from tutee.train.batch import Group
from tutee.train.encode import encode_answer
from tutee.train.features import feature_matrix
from tutee.train.lessons import describe_text
from tutee.train.loop import LoopConfig, train
from tutee.train.preference_head import Labels, fit_head
from tutee.train.progress import Progress
from tutee.train.reward import RewardConfig, reward_groups
from tutee.train.reward_model import RewardModel, last_states, probe
from tutee.train.trainer import Trainer, TrainerConfig

Scores = NDArray[np.float64]
BUCKETS = 2**16
RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True)
class Pairs:
    """What a reward model is trained on, and what it is measured on."""

    train: list[Ranking]
    test: list[Ranking]


def read(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as stream:
        yield from (json.loads(line) for line in stream)


def hh(folder: Path) -> Pairs:
    """Anthropic's harmless-base: transcripts that differ in the last answer."""
    parts = [[_transcripts(row) for row in read(folder / f"hh_harmless_{part}.jsonl.gz")] for part in ("train", "dev")]
    return Pairs(*([row for row in rows if row is not None] for rows in parts))


def autoj(folder: Path) -> Pairs:
    """Auto-J's pairs over 58 scenarios; ties are left out."""
    rows = [
        _ranking(row["prompt"], (row["response_1"], row["response_2"]), row["label"] == "1")
        for row in read(folder / "autoj_pairwise.jsonl.gz")
        if row["label"] != "tie"
    ]
    return _split(rows)


def tulu(folder: Path) -> Pairs:
    """Experts on instructions, five-point scale; ties are left out."""
    rows = [
        _ranking(row["prompt"], (row["completion_a"], row["completion_b"]), row["preference"].startswith("a"))
        for row in read(folder / "tulu1_human_pairs.jsonl.gz")
        if row["preference"] != "tie" and row["completion_a"].strip() and row["completion_b"].strip()
    ]
    return _split(rows)


DATASETS: dict[str, tuple[Callable[[Path], Pairs], str]] = {
    "hh_harmless": (hh, "hh_harmless_train.jsonl.gz"),
    "autoj": (autoj, "autoj_pairwise.jsonl.gz"),
    "tulu1": (tulu, "tulu1_human_pairs.jsonl.gz"),
}


def _ranking(prompt: str, answers: tuple[str, str], first_is_better: bool) -> Ranking:
    order = answers if first_is_better else answers[::-1]
    return Ranking(0, (Message("user", prompt),), tuple(Message("assistant", text.strip()) for text in order), (0, 1))


def _transcripts(row: dict[str, str]) -> Ranking | None:
    """`\\n\\nHuman: …\\n\\nAssistant: …`, twice; None where more than the last answer differs."""
    sides = []
    for transcript in (row["chosen"], row["rejected"]):
        pieces = re.split(r"\n\n(Human|Assistant): ?", transcript)[1:]
        turns = zip(pieces[::2], pieces[1::2], strict=True)
        sides.append([Message("user" if who == "Human" else "assistant", text.strip()) for who, text in turns])
    chosen, rejected = sides
    same = chosen[:-1] == rejected[:-1] and chosen[-1] != rejected[-1] and chosen[-1].role == "assistant"
    if not same or not chosen[-1].content or not rejected[-1].content:
        return None
    return Ranking(0, tuple(chosen[:-1]), (chosen[-1], rejected[-1]), (0, 1))


def _split(rows: list[Ranking]) -> Pairs:
    """A quarter of the prompts, by hash, is kept aside, so none is on both sides; equal answers drop out."""

    def aside(row: Ranking) -> bool:
        return int(hashlib.sha1(row.prompt[-1].content.encode()).hexdigest(), 16) % 4 == 0

    rows = [row for row in rows if row.answers[0] != row.answers[1]]
    return Pairs([row for row in rows if not aside(row)], [row for row in rows if aside(row)])


def accuracy(better: Scores, worse: Scores) -> tuple[float, float, float]:
    """Share of pairs in which the better answer scores higher, with its interval."""
    difference = better - worse
    return share(float((difference > 0).sum() + (difference == 0).sum() / 2), len(difference))


def by_length(pairs: Pairs) -> tuple[float, float, float]:
    def words(rows: Sequence[Ranking], place: int) -> Scores:
        return np.array([len(row.answers[place].content.split()) for row in rows], dtype=np.float64)

    longer = accuracy(words(pairs.train, 0), words(pairs.train, 1))[0] >= 0.5
    sign = 1.0 if longer else -1.0
    return accuracy(sign * words(pairs.test, 0), sign * words(pairs.test, 1))


def by_ngrams(pairs: Pairs) -> tuple[float, float, float]:
    difference = _ngrams(pairs.train, 0) - _ngrams(pairs.train, 1)
    inside = np.arange(difference.shape[0]) % 5 != 0
    fits = [bradley_terry(difference[inside], ridge) for ridge in RIDGES]
    right = [float(np.mean(difference[~inside] @ weights > 0)) for weights in fits]
    weights = bradley_terry(difference, RIDGES[int(np.argmax(right))])
    return accuracy(_ngrams(pairs.test, 0) @ weights, _ngrams(pairs.test, 1) @ weights)


def _ngrams(rows: Sequence[Ranking], place: int) -> csr_matrix:
    """Whether a hashed 1- or 2-gram is in the answer, [rows, BUCKETS]."""
    columns, starts = [], [0]
    for row in rows:
        words = re.findall(r"\w+|[^\w\s]", row.answers[place].content.lower())
        grams = {*words, *(f"{a} {b}" for a, b in pairwise(words))}
        columns += sorted({zlib.crc32(gram.encode()) % BUCKETS for gram in grams})
        starts.append(len(columns))
    return csr_matrix((np.ones(len(columns)), columns, starts), shape=(len(rows), BUCKETS))


def bradley_terry(difference: csr_matrix, ridge: float) -> Scores:
    def energy(weights: Scores) -> tuple[float, Scores]:
        margin = difference @ weights
        wrong = 1 / (1 + np.exp(np.clip(margin, -50, 50)))
        loss = float(np.logaddexp(0, -margin).sum() + ridge * weights @ weights / 2)
        return loss, ridge * weights - difference.T @ wrong

    return np.asarray(minimize(energy, np.zeros(difference.shape[1]), jac=True, method="L-BFGS-B").x)


def by_head(train_rows: tuple[Scores, Scores], test_rows: tuple[Scores, Scores]) -> tuple[float, float, float]:
    """The small-data head on given features of (better, worse) answers."""
    features = train_rows[0].shape[1]
    none = np.zeros((0, features))
    ones = np.ones(len(train_rows[0]))
    head = fit_head(Labels(*train_rows, ones, none, np.zeros(0, dtype=np.bool_)))
    return accuracy(head.score(test_rows[0]), head.score(test_rows[1]))


def surface(rows: Sequence[Ranking]) -> tuple[Scores, Scores]:
    better, worse = (feature_matrix([describe_text(r.prompt, r.answers[i].content) for r in rows]) for i in (0, 1))
    return better, worse


def frozen(model: Pretrained, pairs: Pairs) -> tuple[float, float, float]:
    """The small-data head on the 64 principal components of hidden states at the last token."""
    both = [last_states(model, None, groups_of(model, rows)).double().numpy() for rows in (pairs.train, pairs.test)]
    components = np.linalg.svd(both[0] - both[0].mean(0), full_matrices=False)[2][:64].T
    (a, b), (c, d) = [((states @ components)[::2], (states @ components)[1::2]) for states in both]
    return by_head((a, b), (c, d))


def groups_of(model: Pretrained, rows: Sequence[Ranking]) -> Sequence[Group]:
    return reward_groups(model, rows).groups


def by_lora(model: Pretrained, pairs: Pairs, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One epoch; then accuracy, and on the surer half of the test pairs alone."""
    started = time.perf_counter()
    head = ValueHead(model.config.hidden_size)
    groups = groups_of(model, pairs.train[: arguments.most])
    if arguments.probe and not folder.exists():  # a run that goes on takes its head from the checkpoint
        probe(model, head, groups)
    trainer = Trainer(model, TrainerConfig(rank=arguments.rank, alpha=2 * arguments.rank), head=head)
    loop = LoopConfig(batch_size=16, learning_rate=arguments.rate, checkpoint_every=5)

    def say(progress: Progress) -> None:
        print(f"  {progress.step}/{progress.total} " + _short(progress.metrics), flush=True)

    result = train(trainer, groups, RewardConfig().loss(), loop, folder, report=say)
    seconds = time.perf_counter() - started
    reward = RewardModel(model, trainer.lora, head)
    judged = [reward.judge([[*row.prompt, row.answers[i]] for row in pairs.test]) for i in (0, 1)]
    better, worse = (np.array([judgement.score for judgement in side]) for side in judged)
    found = accuracy(better, worse)
    sure = np.abs(better - worse)
    half = sure >= np.median(sure)
    tail = float(np.mean([h["reward_accuracy"] for h in result.history[len(result.history) // 2 :]]))
    return {
        "accuracy": found,
        "wider half": accuracy(better[half], worse[half]),
        "pairs": len(groups),
        "tokens": result.trained_tokens,
        "seconds of this call": round(seconds),
        "accuracy while training, second half": round(tail, 3),
    }


def _tokens(model: Pretrained, row: Ranking) -> int:
    return max(len(e.tokens) if (e := encode_answer(model, row.prompt, a)) else 10**9 for a in row.answers)


def _short(metrics: Any) -> str:
    return " ".join(f"{name} {metrics[name]:.3f}" for name in ("reward_loss", "reward_accuracy", "grad_norm"))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/preference"))
    parser.add_argument(
        "--folder", type=Path, default=Path("artifacts/reward"), help="where LoRA runs leave checkpoints"
    )
    parser.add_argument("--sets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument(
        "--longest", type=int, default=256, help="train on answers of at most so many tokens with prompt"
    )
    parser.add_argument("--most", type=int, default=10**9, help="train the LoRA on so many pairs")
    parser.add_argument("--probe", action="store_true", help="start the LoRA's head as the frozen one ends")
    parser.add_argument("--skip", nargs="*", default=[], choices=["frozen", "lora"])
    arguments = parser.parse_args()
    present = [name for name in arguments.sets if (arguments.data / DATASETS[name][1]).is_file()]
    if not present:
        print(f"Skipped: there are no preference data in {arguments.data} (README.md of the data says what they are).")
        return
    model = load_pretrained(arguments.model)
    torch.manual_seed(0)
    report: dict[str, Any] = {}
    for name in present:
        pairs = DATASETS[name][0](arguments.data)
        table: dict[str, Any] = {"length": by_length(pairs), "n-grams": by_ngrams(pairs)}
        table["surface"] = by_head(surface(pairs.train), surface(pairs.test))
        short = Pairs([row for row in pairs.train if _tokens(model, row) <= arguments.longest], pairs.test)
        if "frozen" not in arguments.skip:
            table["frozen"] = frozen(model, short)
        if "lora" not in arguments.skip:
            table["lora"] = by_lora(model, short, arguments.folder / name, arguments)
        report[name] = {"train": len(pairs.train), "test": len(pairs.test), **table}
        print(name, json.dumps(report[name]), flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
