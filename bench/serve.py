"""How fast the engine generates, beside `transformers` on the same machine in the same run.

    python bench/serve.py --model ~/.tutee/models/smollm2-135m-instruct

For each number of streams: that many random prompts, a fixed number of new tokens, greedy; tokens per second are all
generated tokens over the wall time with prefill. The best of `--repeats` runs counts, for both sides. The last line is
one JSON object. Run it on a quiet machine: two programs on the same cores slow each other far more than by half.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tutee.engine.engine import Engine
from tutee.engine.request import Completion, SamplingParams
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.settings import load_settings

Prompts = list[list[int]]


def main() -> None:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    model = load_pretrained(options.model, options.dtype)
    most = max(options.streams)
    engine = Engine(model, max_batch=most, cache_tokens=most * (options.prompt_tokens + options.new_tokens + 32))
    peer = None if options.no_peer else open_peer(options.model, options.dtype)
    rows = []
    for streams in options.streams:
        prompts = random_prompts(streams, options.prompt_tokens, model.config.vocab_size)
        row = {"streams": streams, **measure_engine(engine, prompts, options)}
        if peer is not None:
            seconds = best(options.repeats, lambda p=prompts: peer(p, options.new_tokens))
            row["transformers_tok_s"] = round(streams * options.new_tokens / seconds, 1)
            row["ratio"] = round(row["tok_s"] / row["transformers_tok_s"], 2)
        rows.append(row)
        print(row, flush=True)
    engine.close()
    print(json.dumps(describe(model, options) | {"results": rows}))


def parse() -> argparse.Namespace:
    settings = load_settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=settings.home / "models" / settings.model)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    parser.add_argument("--no-peer", action="store_true", help="measure the engine alone")
    return parser.parse_args()


def random_prompts(count: int, length: int, vocabulary: int) -> Prompts:
    generator = torch.Generator().manual_seed(count)
    prompts: Prompts = torch.randint(0, vocabulary, (count, length), generator=generator).tolist()
    return prompts


def best(repeats: int, work: Callable[[], object]) -> float:
    """Seconds of the fastest run."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def measure_engine(engine: Engine, prompts: Prompts, options: argparse.Namespace) -> dict[str, Any]:
    params = SamplingParams(temperature=0.0, max_tokens=options.new_tokens, ignore_eos=True)
    engine.generate(prompts, SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True))
    runs: list[list[list[Completion]]] = []

    def run() -> None:
        engine.weights_changed()  # no prefix of the run before may be found
        runs.append(engine.generate(prompts, params))

    seconds = best(options.repeats, run)
    first_tokens = sorted(group[0].ttft_s or 0.0 for group in runs[-1])
    return {
        "tok_s": round(len(prompts) * options.new_tokens / seconds, 1),
        "ttft_p50_s": round(first_tokens[len(first_tokens) // 2], 3),
    }


def open_peer(folder: Path, dtype: str) -> Callable[[Prompts, int], object]:
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def generate(prompts: Prompts, new_tokens: int) -> object:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            return network.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
            )

    generate(random_prompts(1, 8, 100), 2)
    return generate


def describe(model: Pretrained, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "bench": "serve",
        "model": model.name,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "prompt_tokens": options.prompt_tokens,
        "new_tokens": options.new_tokens,
    }


if __name__ == "__main__":
    main()
