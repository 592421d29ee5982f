"""Who is compared: our engine, `transformers`, OpenVINO GenAI, llama.cpp. All with equal threads, greedy, end tokens
ignored; peers run as processes of their own out of `.venv-bench` (`make bench-env`). One that is not there says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import IO, Protocol

import torch

from tutee.engine.engine import Engine
from tutee.engine.request import Completion, SamplingParams
from tutee.model.pretrained import Pretrained

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv-bench"
LLAMA_BIN = ENVIRONMENT / "src/llama.cpp/build/bin"
GGUF = {kind: ENVIRONMENT / f"models/smollm2-{kind}.gguf" for kind in ("bf16", "f16", "q8_0", "q4_0")}
CACHE_GB = 8
Prompts = list[list[int]]


class Missing(Exception):
    """This peer cannot be run here; the text says why."""


class Peer(Protocol):
    """Somebody who generates."""

    name: str

    def seconds(self, prompts: Prompts, new_tokens: int) -> float:
        """Wall time from the prompts to the last of `new_tokens` for each, prefill included."""


def random_prompts(count: int, length: int, seed: int, vocabulary: int = 49152) -> Prompts:
    """Prompts that share nothing, neither with each other nor with those of another seed."""
    generator = torch.Generator().manual_seed(seed)
    prompts: Prompts = torch.randint(0, vocabulary, (count, length), generator=generator).tolist()
    return prompts


class Ours:
    """The engine in this process."""

    name = "tutee"

    def __init__(self, model: Pretrained, streams: int, length: int, precision: str = "") -> None:
        self.engine = Engine(
            model,
            max_batch=streams,
            cache_tokens=streams * (length + 32),
            precision=precision,
            speculation="never",  # random prompts are answered in circles, which guessing would make too easy
        )
        self.last: list[Completion] = []

    def seconds(self, prompts: Prompts, new_tokens: int, n: int = 1) -> float:
        params = SamplingParams(temperature=0.0 if n == 1 else 1.0, max_tokens=new_tokens, ignore_eos=True, seed=1)
        begun = time.perf_counter()
        groups = self.engine.generate(prompts, params, n=n)
        seconds = time.perf_counter() - begun
        self.last = [completion for group in groups for completion in group]
        assert all(len(completion.token_ids) == new_tokens for completion in self.last)
        return seconds

    def close(self) -> None:
        self.engine.close()


class Worker:
    """`bench/peer_worker.py` in the peers' environment."""

    def __init__(self, name: str, model: Path, threads: int, cache_gb: int = CACHE_GB) -> None:
        python = ENVIRONMENT / "bin/python"
        if not python.exists():
            raise Missing("`make bench-env` was not run")
        if not model.exists():
            raise Missing(f"{model.name} is missing")
        self.name = name
        self.rss = 0
        command = [str(python), str(ROOT / "bench/peer_worker.py"), name, str(model), str(threads), str(cache_gb)]
        log = open(os.devnull, "w")  # noqa: SIM115 (it lives as long as the worker)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
        self._read()

    def _read(self) -> dict[str, float]:
        """The next line that is JSON; libraries print what they like before it."""
        stdout: IO[str] | None = self._process.stdout
        assert stdout is not None
        for line in stdout:
            if line.startswith("{"):
                answer: dict[str, float] = json.loads(line)
                return answer
        raise Missing(f"{self.name} ended with status {self._process.wait()}")

    def seconds(self, prompts: Prompts, new_tokens: int) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"prompts": prompts, "new_tokens": new_tokens}) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        self.rss = int(answer["rss"])
        return answer["seconds"]

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class LlamaCpp:
    """`llama-batched-bench`: llama.cpp without HTTP, its own choice of batch sizes. Loading is not counted.

    Its prompts are its own (all the same random token), which changes nothing in what it computes.
    """

    def __init__(self, kind: str, threads: int) -> None:
        self.name = f"llama.cpp {kind}"
        self.kind, self.threads = kind, threads
        self.program = LLAMA_BIN / "llama-batched-bench"
        if not self.program.exists() or not GGUF[kind].exists():
            raise Missing("`make bench-env` was not run")

    def seconds(self, prompts: Prompts, new_tokens: int) -> float:
        streams, length = len(prompts), len(prompts[0])
        sizes = {"-npp": length, "-ntg": new_tokens, "-npl": streams, "-c": streams * (length + new_tokens + 16)}
        options = [str(part) for pair in sizes.items() for part in pair]
        command = [str(self.program), "-m", str(GGUF[self.kind]), "-t", str(self.threads), *options]
        done = subprocess.run([*command, "--output-format", "jsonl"], capture_output=True, text=True)
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                return float(json.loads(line)["t"])
        raise Missing(f"llama-batched-bench ended with status {done.returncode}: {done.stderr[-200:]}")

    def close(self) -> None:
        pass
