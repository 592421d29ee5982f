"""How fast the trainer is, beside TRL and a plain transformers loop: same machine, model, tokens and threads, one run.

    make bench-env                                     # once: the peers
    python bench/train.py --model ~/.tutee/models/smollm2-135m-instruct
    python bench/train.py --rows dpo_lora --quick      # one row, tiny: does it run?

Every program runs in a process of its own, one after the other; one warm-up step, then the median of `--steps`. Tokens
are real ones: padding is not work. The ceiling is the rate of PyTorch's bfloat16 matrix product in this very run, over
the operations of a token. A peer that is not there, or that fails, is said, not guessed. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from bench.train_work import Work, make_work, tokens_of
from tutee.model.config import DecoderConfig
from tutee.model.tokenizer import Tokenizer
from tutee.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
PEER_PYTHON = ROOT / ".venv-bench/bin/python"
ROWS: dict[str, tuple[str, ...]] = {
    "sft_full": ("trl", "transformers"),
    "sft_lora": ("trl", "transformers"),
    "dpo_lora": ("trl",),
    "reward": ("trl",),
    "grpo": ("trl",),
    "ppo": (),
    "memory": ("transformers",),
}
"""Rows, and who is compared in each; TRL has no PPO any more."""
GOALS = {
    "sft_full": {"trl": 2.2, "transformers": 1.3},
    "sft_lora": {"trl": 2.2},
    "dpo_lora": {"trl": 2.5},
    "reward": {"trl": 1.8},
    "grpo": {"trl": 5.0},
}
"""How many times as fast as each peer."""


def words_of(tokenizer: Tokenizer) -> list[int]:
    """Ids of common English words with a space before, each of which is one token wherever it stands."""
    found = [i for i in range(2000, 12000) if re.fullmatch(r" [a-z]{3,9}", tokenizer.decode([i]))]
    assert tokenizer.encode(tokenizer.decode(found)) == found
    return found


def ceiling(config: DecoderConfig, seconds: float = 1.5) -> dict[str, float]:
    """bfloat16 matrix products of this model's largest shape, and what they would make of full training."""
    D, F = config.hidden_size, config.intermediate_size
    x, w = torch.randn(1024, D).bfloat16(), torch.randn(2 * F, D).bfloat16()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        torch.nn.functional.linear(x, w)
        best = min(best, time.perf_counter() - begun)
    rate = 2 * 1024 * D * 2 * F / best
    heads = (2 * config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    weights = config.num_hidden_layers * D * (heads + 3 * F) + config.vocab_size * D
    return {"tflops": rate / 1e12, "tokens_per_s": rate / (6 * weights)}


def run(python: Path | str, program: str, asked: dict[str, Any]) -> dict[str, Any]:
    """What the program's last line says, or `{"missing": why}`."""
    if not Path(python).exists():
        return {"missing": "`make bench-env` was not run"}
    environment = os.environ | {"OMP_NUM_THREADS": str(asked["threads"]), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [str(python), str(ROOT / "bench" / program)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        env=environment,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        return {"missing": f"ended with status {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"}
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def measure(row: str, work: Work, options: argparse.Namespace) -> dict[str, Any]:
    """Our numbers and the peers', with ratios."""
    steps = min(options.steps, 2) if row in ("grpo", "ppo") else options.steps  # of which one takes half a minute
    asked = {"row": row, "model": str(options.model), "threads": options.threads, "steps": steps, "work": work}
    result: dict[str, Any] = {"tokens": tokens_of(work), "tutee": run(sys.executable, "train_ours.py", asked)}
    for peer in ROWS[row]:
        if peer in options.peers:
            most = options.peer_steps if row != "grpo" else 0
            result[peer] = run(PEER_PYTHON, "train_peer.py", asked | {"peer": peer, "steps": most})
    for name, found in result.items():
        if isinstance(found, dict) and "seconds" in found:
            found["tokens_per_s"] = result["tokens"] / found["seconds"]
            print(f"{row:9} {name:13}" + "".join(f"  {key} {value:.3g}" for key, value in found.items()), flush=True)
        elif isinstance(found, dict):
            print(f"{row:9} {name:13}  {found['missing']}", flush=True)
    ours = result["tutee"]
    for peer in ROWS[row]:
        if "seconds" in ours and "seconds" in result.get(peer, {}):
            ratio = result[peer]["seconds"] / ours["seconds"]
            memory = ours["peak_gib"] / result[peer]["peak_gib"]
            result[f"vs_{peer}"] = {"speed": ratio, "memory": memory, "goal": GOALS.get(row, {}).get(peer)}
            print(f"{row:9} {ratio:.2f} times as fast as {peer}, {memory:.2f} times its memory", flush=True)
    return result


def parse() -> argparse.Namespace:
    settings = load_settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=settings.home / "models" / settings.model)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--peers", nargs="*", choices=("trl", "transformers"), default=["trl", "transformers"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--steps", type=int, default=5, help="of ours, after one to warm up")
    parser.add_argument("--peer-steps", type=int, default=2, help="of a peer's; 0 measures the first")
    parser.add_argument("--quick", action="store_true", help="an eighth of the work")
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    words = words_of(Tokenizer(options.model))
    top = ceiling(DecoderConfig.from_hf(json.loads((options.model / "config.json").read_text(encoding="utf-8"))))
    print(f"ceiling: {top['tflops']:.2f} TFLOP/s, {top['tokens_per_s']:.0f} tokens/s of full training", flush=True)
    rows = {row: measure(row, make_work(row, words, options.quick), options) for row in options.rows}
    full = rows.get("sft_full", {}).get("tutee", {})
    if "tokens_per_s" in full:
        top["share_of_sft_full"] = full["tokens_per_s"] / top["tokens_per_s"]
        print(f"full training runs at {top['share_of_sft_full']:.0%} of the ceiling")
    if all("seconds" in rows.get(row, {}).get("tutee", {}) for row in ("ppo", "grpo")):
        rows["ppo"]["vs_grpo"] = rows["ppo"]["tutee"]["seconds"] / rows["grpo"]["tutee"]["seconds"]
        print(f"a PPO step takes {rows['ppo']['vs_grpo']:.2f} times a GRPO step (goal: at most 1.8)")
    print(json.dumps({"threads": options.threads, "torch": torch.__version__, "ceiling": top, "rows": rows}))


if __name__ == "__main__":
    main()
