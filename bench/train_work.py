"""The work that trainers are compared on: rows of token ids, the same for everybody. Needs nothing but Python.

Ids are those of single English words, so that a peer which wants text gets text that its tokenizer turns into the same
ids. Lengths of supervised rows are drawn like those of Dolly (log-normal, median 109 tokens, measured on 1,000 rows);
pairs have the lengths of a small team's votes: 40 to 60 tokens of prompt, answers of 60 to 110.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict


class Work(TypedDict):
    """One optimizer step, as JSON. Which fields are filled depends on the row."""

    rows: list[list[int]]
    """Supervised: whole sequences, learned from the second token on."""
    pairs: list[list[list[int]]]
    """Preferences: prompt, chosen answer, rejected answer."""
    prompts: list[list[int]]
    """Reinforcement: each answered `group` times with `answer` tokens."""
    group: int
    answer: int


def make_work(row: str, words: Sequence[int], quick: bool) -> Work:
    """The step that `row` measures; `quick` is an eighth of it."""
    dice = random.Random(0)
    work: Work = {"rows": [], "pairs": [], "prompts": [], "group": 0, "answer": 0}

    def ids(count: int) -> list[int]:
        return [dice.choice(words) for _ in range(count)]

    if row in ("sft_full", "sft_lora", "memory"):
        budget = (4096 if row == "memory" else 1024) // (8 if quick else 1)
        while sum(map(len, work["rows"])) < budget:
            length = min(512, max(16, round(math.exp(dice.gauss(4.69, 1.04)))))
            work["rows"].append(ids(min(length, budget - sum(map(len, work["rows"])) + 16)))
    elif row in ("dpo_lora", "reward"):
        for _ in range(1 if quick else 4):
            work["pairs"].append([ids(dice.randint(40, 60)), ids(dice.randint(60, 110)), ids(dice.randint(60, 110))])
    else:
        prompts, work["group"], work["answer"] = (2, 4, 16) if quick else (8, 8, 64)
        work["prompts"] = [ids(64) for _ in range(prompts)]
    return work


def tokens_of(work: Work) -> int:
    """Real tokens of the step: no padding, a pair's prompt counted twice, an answer with its prompt."""
    answers = sum((len(prompt) + work["answer"]) * work["group"] for prompt in work["prompts"])
    pairs = sum(2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in work["pairs"])
    return sum(map(len, work["rows"])) + pairs + answers


def peak_gib() -> float:
    """Most memory that this process ever had; getrusage would begin at what its parent had."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]) / 2**20
