"""How much memory a run will want, before it starts: a sum of parts that a person can check, and advice when it is
too much.

Counted are the weights, what learns beside them (float32 masters where the weights are bfloat16, moments), gradients,
what a forward pass keeps for the backward pass, and the sampler's cache. Where all weights learn, sampling and learning
take turns with their memory, and the larger turn counts.
All follow from the shapes but what a pass keeps: its coefficients were fitted to measured peaks of our two passes
(`tests/train/peak_memory.py`), float32 and bfloat16, on the CPU, whose allocator's own waste is in them. Knows no
method.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tutee.errors import InvalidInput
from tutee.model.config import DecoderConfig
from tutee.model.logprobs import CHUNK
from tutee.model.lora import TARGETS
from tutee.train.batch import Group
from tutee.train.trainer import Trainer, TrainerConfig

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes by what they are for."""

    parts: Mapping[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    def sentence(self) -> str:
        """The sum and its parts, largest first."""
        shown = sorted(self.parts.items(), key=lambda part: -part[1])
        listed = ", ".join(f"{name} {size(value)}" for name, value in shown if value)
        return f"about {size(self.total)} ({listed})"


def size(count: float) -> str:
    """Bytes as people say them."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"


def estimate(
    model: DecoderConfig,
    trainer: TrainerConfig,
    dtype: torch.dtype,
    tokens: int,
    longest: int,
    cache_tokens: int = 0,
    copies: int = 1,
) -> Estimate:
    """What training such a model takes at its peak.

    Args:
        tokens: of the largest microbatch: the token budget, or one row of the data that exceeds it.
        longest: tokens of the longest row: exact attention keeps its scores.
        cache_tokens: places of the sampler's cache; 0 for fixed data.
        copies: networks in memory (a reference or a critic of all weights, a teacher of this size).
    """
    matrices, table, vectors = parameters(model)
    width = dtype.itemsize
    count = matrices + table + vectors
    learns = count if trainer.full else adapter_parameters(model, trainer.rank)
    rounded = matrices if trainer.full and width < 4 else 0
    kept = tokens * kept_a_token(model, dtype, longest) + 3 * 4 * CHUNK * model.vocab_size
    kv = 2 * model.num_hidden_layers * model.num_key_value_heads * model.head_dim * cache_tokens * width
    moment = 2 if trainer.moments_of(dtype, torch.device("cpu")) == "bfloat16" else 4
    gradients = 4 * learns
    if trainer.full and cache_tokens:  # sampler and trainer give theirs up for each other's turn
        packed = (matrices + 2 * table) * width
        turns = {"sampler": kv + packed} if kv + packed > gradients + kept else {}
    else:
        turns = {"sampler": kv} if cache_tokens else {}
    learning = {} if trainer.full and turns else {"gradients": gradients, "forward and backward pass": kept}
    return Estimate(
        {
            "weights": copies * (matrices * width + (table + vectors) * 4),
            "float32 masters": 4 * rounded,
            "moments": (1 if trainer.optimizer == "muon" else 2) * moment * learns,
            # Gradients count beside a pass: from the second microbatch of a step on, those of the first are there.
            **learning,
            **turns,
        }
    )


def kept_a_token(model: DecoderConfig, dtype: torch.dtype, longest: int) -> float:
    """Bytes a token that a pass keeps for the backward pass, and holds at once on top of that.

    In bfloat16 our own pass keeps the residual stream in float32, queries, keys and values, what attention gave, gate
    and up, and computes the rest again. In float32 autograd keeps every intermediate tensor, attention's scores too.
    """
    D, F, H = model.hidden_size, model.intermediate_size, model.num_attention_heads
    heads, pairs = H * model.head_dim, model.num_key_value_heads * model.head_dim
    if dtype == torch.bfloat16:
        return model.num_hidden_layers * (4 * D + 4 * heads + 4 * pairs + 4 * F) + 18.6 * D + 28.7 * F
    return model.num_hidden_layers * (52 * (D + heads + 2 * pairs) + 15 * F + 17.4 * H * longest) + 48 * F


def parameters(model: DecoderConfig) -> tuple[int, int, int]:
    """Numbers in (matrices of the blocks, embedding and head, norms)."""
    heads, pairs = model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    block = model.hidden_size * (2 * heads + 2 * pairs + 3 * model.intermediate_size)
    tables = model.vocab_size * model.hidden_size * (1 if model.tie_word_embeddings else 2)
    return model.num_hidden_layers * block, tables, model.hidden_size * (2 * model.num_hidden_layers + 1)


def adapter_parameters(model: DecoderConfig, rank: int) -> int:
    """Numbers in a LoRA on every matrix."""
    heads, pairs = model.num_attention_heads * model.head_dim, model.num_key_value_heads * model.head_dim
    hidden, inner = model.hidden_size, model.intermediate_size
    ends = {"q_proj": hidden + heads, "o_proj": hidden + heads, "k_proj": hidden + pairs, "v_proj": hidden + pairs}
    return model.num_hidden_layers * rank * sum(ends.get(target, hidden + inner) for target in TARGETS)


def available() -> float:
    """Bytes that this process may still take: of the GPU where there is one, else of the machine or its cgroup."""
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    free = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            free = float(line.split()[1]) * 1024
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    return min(free, limit - used) if limit is not None and used is not None else free


def refuse_too_large(wanted: Estimate, full: bool, loaded: float = 0.0, most: float | None = None) -> None:
    """Refuse a run that cannot fit.

    Args:
        loaded: bytes of the estimate that are in memory already (the model's weights).
        most: bytes there are; None: `available()`.

    Raises:
        InvalidInput: code `out_of_memory`, with the numbers and what to lower.
    """
    there = (available() if most is None else most) + loaded
    if wanted.total <= there:
        return
    advice = ["token_budget (no result changes)"]
    advice += ["full (train a LoRA instead)"] if full else ["rank"]
    advice += ["prompts, group or max_tokens"] if "sampler" in wanted.parts else []
    raise InvalidInput(
        f"This run wants {wanted.sentence()}, and {size(there)} are there. Lower {' or '.join(advice)}, or take a "
        "smaller model.",
        param="settings.token_budget",
        code="out_of_memory",
    )


def refuse_groups(trainer: Trainer, groups: Sequence[Group], token_budget: int) -> None:
    """Refuse a run over these groups if its largest microbatch cannot fit; raises like `refuse_too_large`."""
    most = min(sum(g.num_tokens for g in groups), max(token_budget, *(g.num_tokens for g in groups)))
    longest = max(len(example.tokens) for group in groups for example in group.examples)
    refuse(trainer, most, longest)


def refuse(trainer: Trainer, tokens: int, longest: int, cache_tokens: int = 0, copies: int = 1) -> None:
    """Refuse a run with such microbatches (see `estimate`); the trainer's own weights are in memory already."""
    model, config = trainer.model, trainer.config
    if config.shard and trainer.ranks.size > 1:
        return  # cut over machines that this process cannot see into
    wanted = estimate(model.config, config, model.dtype, tokens, longest, cache_tokens, copies)
    refuse_too_large(wanted, config.full, loaded=wanted.parts["weights"] / copies)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []


def _number(path: Path) -> float | None:
    lines = _lines(path)
    return float(lines[0]) if lines and lines[0].isdigit() else None
