"""How fast the trainer is: real tokens a second and peak memory of one optimizer step, by method.

    python bench/train.py --model ~/.tutee/models/smollm2-135m-instruct --methods sft-lora dpo-lora sft-full

Lengths are drawn like short chats (40 to 300 tokens), the same for every method and run. One warm-up step, then the
median of `--steps`. Measures our trainer only. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.train.batch import Example, Group, Loss, pack_groups, split_groups, totals
from tutee.train.dpo import DpoConfig, with_references
from tutee.train.sft import token_mean_loss
from tutee.train.trainer import Trainer, TrainerConfig

METHODS = ("sft-lora", "dpo-lora", "sft-full")


def random_groups(model: Pretrained, pairs: bool, tokens: int, seed: int = 0) -> list[Group]:
    """Groups of random tokens, at least `tokens` in all; the first third of each example is prompt."""
    dice = np.random.default_rng(seed)
    groups: list[Group] = []
    while sum(group.num_tokens for group in groups) < tokens:
        examples = []
        for _ in range(2 if pairs else 1):
            length = int(np.clip(dice.lognormal(4.8, 0.5), 40, 300))
            ids = tuple(int(i) for i in dice.integers(0, model.config.vocab_size, length))
            examples.append(Example(ids, tuple(float(t > length // 3) for t in range(length))))
        groups.append(Group(tuple(examples), ranks=(0, 1) if pairs else None))
    return groups


def measure(folder: Path, method: str, tokens: int, steps: int, budget: int) -> dict[str, float]:
    """Tokens a second of whole optimizer steps (forward, backward, clip, update)."""
    model = load_pretrained(folder)
    trainer = Trainer(model, TrainerConfig(full=method.endswith("full")))
    groups = random_groups(model, method.startswith("dpo"), tokens)
    loss: Loss = token_mean_loss
    if method.startswith("dpo"):
        loss, groups = DpoConfig().loss(), with_references(groups, trainer.score)
    batches = [pack_groups(part) for part in split_groups(groups, budget)]
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        for batch in batches:
            trainer.forward_backward(batch, loss, totals(groups))
        trainer.optim_step(1e-6)
        seconds.append(time.perf_counter() - start)
    count = sum(group.num_tokens for group in groups)
    median = statistics.median(seconds[1:])
    return {"tokens_per_s": round(count / median, 1), "step_s": round(median, 2), "tokens": count}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--tokens", type=int, default=1024, help="tokens in one optimizer step")
    parser.add_argument("--budget", type=int, default=2048, help="tokens in one microbatch")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    result: dict[str, object] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    for method in arguments.methods:
        row = measure(arguments.model, method, arguments.tokens, arguments.steps, arguments.budget)
        row["peak_gib_so_far"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
        print(f"{method}: {row}", flush=True)
        result[method] = row
    print(json.dumps(result))


if __name__ == "__main__":
    main()
