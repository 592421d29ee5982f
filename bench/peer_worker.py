"""One peer in a process of its own: reads a request a line, answers a line. Run by `bench/peers.py` in `.venv-bench`.

    {"prompts": [[ids]], "new_tokens": 128}   ->   {"seconds": 1.9, "rss": 812345678}

`transformers` loads the Hugging Face folder in bfloat16 and generates all prompts as one batch (all are equally long,
so there is no padding: its best case); `openvino` reads the F16 GGUF and batches continuously. Both greedy, end tokens
ignored, so that every peer makes exactly the same number of tokens.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

Prompts = list[list[int]]
Generate = Callable[[Prompts, int], None]


def open_transformers(model: str, threads: int, cache_gb: int) -> Generate:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()

    def generate(prompts: Prompts, new_tokens: int) -> None:
        ids = torch.tensor(prompts)
        limits = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
        with torch.inference_mode():
            network.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **limits)

    return generate


def open_openvino(model: str, threads: int, cache_gb: int) -> Generate:
    import numpy
    import openvino
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = cache_gb
    scheduler.max_num_seqs = 256
    scheduler.enable_prefix_caching = False  # prompts are random: there is nothing to find
    pipe = openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads})

    def generate(prompts: Prompts, new_tokens: int) -> None:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = new_tokens, True, False
        ids = [openvino.Tensor(numpy.array([prompt], dtype=numpy.int64)) for prompt in prompts]
        results = pipe.generate(ids, [config] * len(ids))
        made = {len(result.m_generation_ids[0]) for result in results}
        assert made == {new_tokens}, f"{made} tokens were made, not {new_tokens}"

    return generate


def resident_bytes() -> int:
    """What this process holds in memory now."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def main() -> None:
    kind, model, threads, cache_gb = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    generate = {"transformers": open_transformers, "openvino": open_openvino}[kind](model, threads, cache_gb)
    generate([[5] * 8], 2)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        begun = time.perf_counter()
        generate(request["prompts"], request["new_tokens"])
        seconds = time.perf_counter() - begun
        print(json.dumps({"seconds": seconds, "rss": resident_bytes()}), flush=True)


if __name__ == "__main__":
    main()
