"""The rows of `bench/serve.py`: each measures one thing beside its peers, turn about, and returns a dictionary.

The best run of each counts. To add a row: a function of a `Bench`, and its name in `ROWS`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.peers import GGUF, ROOT, LlamaCpp, Missing, Ours, Peer, Prompts, Worker, random_prompts
from bench.serve_process import memory, start
from tutee.engine.request import SamplingParams
from tutee.model.lora import Lora, LoraConfig
from tutee.model.pretrained import Pretrained

Row = dict[str, Any]
Make = Callable[[], Peer]


@dataclass
class Bench:
    """What every row needs; peers are opened once and kept."""

    folder: Path
    model: Pretrained
    threads: int
    repeats: int
    quick: bool
    wanted: frozenset[str]
    said: dict[str, str] = field(default_factory=dict)
    """Peers that are missing, and why."""
    _open: dict[str, Peer] = field(default_factory=dict)
    _seed: int = 0

    def size(self, full: int, quick: int) -> int:
        """A size of the work, shrunk by `--quick`."""
        return quick if self.quick else full

    def prompts(self, count: int, length: int) -> Prompts:
        """Prompts that were never seen before."""
        self._seed += 1
        return random_prompts(count, length, self._seed, self.model.config.vocab_size)

    def peers(self, *names: str) -> list[Peer]:
        """Those of the named peers that can be run here."""
        makers: dict[str, Make] = {
            "transformers": lambda: Worker("transformers", self.folder, self.threads),
            "openvino": lambda: Worker("openvino", GGUF["f16"], self.threads),
            "llama.cpp": lambda: LlamaCpp("bf16", self.threads),
            "llama.cpp q8_0": lambda: LlamaCpp("q8_0", self.threads),
            "llama.cpp q4_0": lambda: LlamaCpp("q4_0", self.threads),
        }
        for name in names:
            if name in self._open or name in self.said or name.split()[0] not in self.wanted:
                continue
            try:
                self._open[name] = makers[name]()
            except Missing as error:
                self.said[name] = str(error)
                print(f"  {name}: not measured, {error}", flush=True)
        return [self._open[name] for name in names if name in self._open]

    def close(self) -> None:
        for peer in self._open.values():
            peer.close()  # type: ignore[attr-defined]


def compare(bench: Bench, ours: Ours, peers: list[Peer], streams: int, length: int, new_tokens: int) -> Row:
    """Tokens a second of everybody on the same work, turn about, and our ratio to each."""
    ours.seconds(bench.prompts(streams, length), 2)
    best: dict[str, float] = {}
    tokens = streams * (new_tokens if new_tokens > 1 else length)
    for _ in range(bench.repeats):
        for peer in (ours, *peers):
            seconds = peer.seconds(bench.prompts(streams, length), new_tokens)
            best[peer.name] = min(seconds, best.get(peer.name, seconds))
            print(f"  {peer.name}: {tokens / seconds:.1f} tokens a second", flush=True)
    speeds = {name: round(tokens / seconds, 1) for name, seconds in best.items()}
    ratios = {name: round(speeds["tutee"] / speed, 2) for name, speed in speeds.items() if name != "tutee"}
    return {"streams": streams, "prompt": length, "new": new_tokens, "tok_s": speeds, "ratio": ratios}


def one(bench: Bench) -> Row:
    """One stream."""
    ours = Ours(bench.model, 1, 192)
    row = compare(bench, ours, bench.peers("llama.cpp", "openvino", "transformers"), 1, 64, bench.size(128, 16))
    ours.close()
    return row | {"goal": {"llama.cpp bf16": 1.0}}


def one_int8(bench: Bench) -> Row:
    """One stream, weights of 8 bits (llama.cpp's take 8.5)."""
    return _one_in_integers(bench, "int8", "llama.cpp q8_0")


def one_int4(bench: Bench) -> Row:
    """One stream, weights of 4.5 bits in the blocks and 8 in the head, everybody's."""
    return _one_in_integers(bench, "int4", "llama.cpp q4_0")


def _one_in_integers(bench: Bench, precision: str, peer: str) -> Row:
    ours = Ours(bench.model, 1, 192, precision)
    row = compare(bench, ours, bench.peers(peer), 1, 64, bench.size(128, 16))
    ours.close()
    return row | {"goal": {peer: 1.0}}


def many(bench: Bench) -> Row:
    """64 streams, prefill counted."""
    streams, new_tokens = bench.size(64, 8), bench.size(128, 8)
    ours = Ours(bench.model, streams, 192)
    row = compare(bench, ours, bench.peers("openvino", "llama.cpp", "transformers"), streams, 64, new_tokens)
    ours.close()
    return row | {"goal": {"openvino": 1.15, "llama.cpp bf16": 2.0, "transformers": 3.6}}


def prefill(bench: Bench) -> Row:
    """A long prompt, one new token; beside the time that PyTorch needs for the matrix products alone."""
    length = bench.size(2048, 256)
    ours = Ours(bench.model, 1, length)
    row = compare(bench, ours, bench.peers("openvino", "llama.cpp", "transformers"), 1, length, 1)
    ours.close()
    weights_s = products_seconds(bench.model, length)
    attention_s = attention_products_seconds(bench.model, length)
    # The ceiling of the goal is the products with weights alone; attention's own two products are as unavoidable.
    for name, seconds in (("ceiling", weights_s), ("ceiling_with_attention", weights_s + attention_s)):
        row[f"{name}_tok_s"] = round(length / seconds, 1)
        row[f"of_{name}"] = round(row["tok_s"]["tutee"] * seconds / length, 2)
    return row | {"goal": {"of_ceiling": 0.7}}


def products_seconds(model: Pretrained, tokens: int) -> float:
    """Seconds of the bfloat16 products of all layers for so many rows, best of five, by PyTorch."""
    weights = [p.detach() for name, p in model.decoder.named_parameters() if p.dim() == 2 and "layers" in name]
    inputs = {w.shape[1]: torch.randn(tokens, w.shape[1], dtype=torch.bfloat16) for w in weights}
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        with torch.inference_mode():
            for weight in weights:
                torch.nn.functional.linear(inputs[weight.shape[1]], weight)
        best = min(best, time.perf_counter() - begun)
    return best


def attention_products_seconds(model: Pretrained, tokens: int, rows: int = 256) -> float:
    """Seconds of attention's two bfloat16 products of all layers, best of three, by PyTorch: `rows` queries at a time
    with the keys that they see, no softmax between."""
    config = model.config
    q_HTK = torch.randn(config.num_attention_heads, tokens, config.head_dim, dtype=torch.bfloat16)
    k_HKT = torch.randn(config.num_attention_heads, config.head_dim, tokens, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(3):
        begun = time.perf_counter()
        with torch.inference_mode():
            for _ in range(config.num_hidden_layers):
                for end in range(rows, tokens + 1, rows):
                    scores = q_HTK[:, end - rows : end] @ k_HKT[..., :end]
                    scores @ q_HTK[:, :end]
        best = min(best, time.perf_counter() - begun)
    return best


def group(bench: Bench) -> Row:
    """GRPO-shaped work: few long prompts, many short answers to each."""
    count, length, answers, new_tokens = bench.size(8, 2), bench.size(512, 64), 16, bench.size(64, 8)
    streams = min(64, count * answers)
    ours = Ours(bench.model, streams, length + new_tokens)
    tokens = count * answers * new_tokens
    ours.seconds(bench.prompts(1, 32), 2, n=4)
    speeds = {"tutee": round(tokens / ours.seconds(bench.prompts(count, length), new_tokens, n=answers), 1)}
    stats = ours.engine.stats
    ours.close()
    for peer in bench.peers("transformers"):
        repeated = [prompt for prompt in bench.prompts(count, length) for _ in range(answers)]
        batches = [repeated[i : i + 64] for i in range(0, len(repeated), 64)]
        speeds[peer.name] = round(tokens / sum(peer.seconds(batch, new_tokens) for batch in batches), 1)
    row: Row = {"prompts": count, "prompt": length, "answers": answers, "new": new_tokens, "tok_s": speeds}
    row["prompt_tokens_cached"] = round(stats.cached_tokens_total / stats.prompt_tokens_total, 3)
    row["ratio"] = {name: round(speeds["tutee"] / speed, 2) for name, speed in speeds.items() if name != "tutee"}
    return row | {"goal": {"transformers": 5.0}}


def turn(bench: Bench) -> Row:
    """Time to the first token of a conversation's next turn, against the whole conversation cold."""
    length = bench.size(2048, 256)
    ours = Ours(bench.model, 1, length + 256)
    ours.seconds(bench.prompts(1, 32), 2)
    cold, warm = [], []
    for _ in range(bench.repeats):
        (conversation,) = bench.prompts(1, length)
        ours.seconds([conversation], 32)
        cold.append(ours.last[0].ttft_s or 0.0)
        (question,) = bench.prompts(1, 24)
        ours.seconds([[*conversation, *ours.last[0].token_ids, *question]], 4)
        warm.append(ours.last[0].ttft_s or 0.0)
    ours.close()
    row = {"prompt": length, "cold_s": round(min(cold), 4), "next_turn_s": round(min(warm), 4)}
    return row | {"of_cold": round(min(warm) / min(cold), 3), "goal": {"of_cold": 0.1}}


def adapters(bench: Bench) -> Row:
    """Eight adapters in one batch, against one version."""
    streams, new_tokens = bench.size(64, 8), bench.size(64, 8)
    ours = Ours(bench.model, streams, 64 + new_tokens)
    names = [f"adapter-{i}" for i in range(8)]
    for seed, name in enumerate(names):
        ours.engine.add_version(name, _random_lora(bench.model, seed))
    best = {"one": 0.0, "eight": 0.0}
    for _ in range(bench.repeats + 1):
        for kind, versions in (("one", names[:1]), ("eight", names)):
            best[kind] = max(best[kind], _mixed(bench, ours, versions, streams, new_tokens))
    base = streams * new_tokens / ours.seconds(bench.prompts(streams, 64), new_tokens)
    ours.close()
    speeds = {"no_adapter": base, "one_adapter": best["one"], "eight_adapters": best["eight"]}
    row: Row = {"streams": streams, "tok_s": {name: round(speed, 1) for name, speed in speeds.items()}}
    row["eight_of_one"] = round(best["eight"] / best["one"], 2)
    return row | {"eight_of_none": round(best["eight"] / base, 2), "goal": {"eight_of_one": 0.85}}


def _random_lora(model: Pretrained, seed: int) -> Lora:
    lora = Lora(model.config, LoraConfig(rank=16, alpha=32))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.01)
    return lora


def _mixed(bench: Bench, ours: Ours, versions: list[str], streams: int, new_tokens: int) -> float:
    params = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
    prompts = bench.prompts(streams, 64)
    begun = time.perf_counter()
    requests = [
        ours.engine.submit(prompt, params, version=versions[i % len(versions)]) for i, prompt in enumerate(prompts)
    ]
    for request in requests:
        request.result()
    return streams * new_tokens / (time.perf_counter() - begun)


def training(bench: Bench) -> Row:
    """One stream while a training job runs on the same cores, and what that costs the job."""
    ours = Ours(bench.model, 1, 64 + 512)
    seconds = bench.size(15, 4)
    alone = _stream_speed(bench, ours, seconds)
    with_job = threading.Event()
    command = [sys.executable, str(ROOT / "bench/training_load.py"), str(bench.folder), str(bench.threads)]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    steps: list[tuple[float, float]] = []

    def read() -> None:
        assert job.stdout is not None
        for line in job.stdout:
            step = json.loads(line)
            steps.append((time.perf_counter(), step["tokens"] / step["seconds"]))
            with_job.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with_job.wait(60)
    time.sleep(seconds)  # the job alone
    begun = time.perf_counter()
    beside = _stream_speed(bench, ours, seconds)
    ended = time.perf_counter()
    job.kill()
    job.wait()
    reader.join()
    ours.close()
    before = [speed for at, speed in steps[1:] if at < begun]
    during = [speed for at, speed in steps if begun < at < ended]
    if not before or not during:
        return {"error": f"the job ended with status {job.returncode} after {len(steps)} steps"}
    idle, busy = max(before), sum(during) / len(during)
    return {
        "stream_tok_s": {"idle": round(alone, 1), "beside_training": round(beside, 1)},
        "job_tok_s": {"idle": round(idle, 1), "beside_stream": round(busy, 1)},
        "stream_keeps": round(beside / alone, 2),
        "job_keeps": round(busy / idle, 2),
        "goal": {"stream_keeps": 0.45, "job_keeps": 0.45},
    }


def _stream_speed(bench: Bench, ours: Ours, seconds: float) -> float:
    tokens, begun = 0, time.perf_counter()
    while (spent := time.perf_counter() - begun) < seconds:
        ours.seconds(bench.prompts(1, 64), 64)
        tokens += 64
    return tokens / spent


def processes(bench: Bench) -> Row:
    """Memory of the running servers when the cache is full."""
    return memory(bench.folder, bench.threads, bench.size(64, 4), bench.size(2048, 256), bench.wanted)


def first_token(bench: Bench) -> Row:
    """From the command to the first token, files in the page cache."""
    return start(bench.folder, bench.threads)


ROWS: dict[str, Callable[[Bench], Row]] = {
    "one": one,
    "one_int8": one_int8,
    "one_int4": one_int4,
    "many": many,
    "prefill": prefill,
    "group": group,
    "turn": turn,
    "adapters": adapters,
    "training": training,
    "memory": processes,
    "start": first_token,
}
