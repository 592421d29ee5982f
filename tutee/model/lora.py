"""Low-rank adapters (Hu et al. 2021, "LoRA"): y = W x + (alpha / rank) B A x, kept outside the base's parameters.

Files are PEFT's (`adapter_model.safetensors`, `adapter_config.json`). An adapter belongs to one base, by weights hash.
Knows nothing of training or of batches.

Axes: D input width, O output width, r rank.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tutee.errors import InvalidInput
from tutee.model.config import DecoderConfig
from tutee.model.weights import ADAPTER, flush, load_safetensors, save_safetensors, weights_sha256

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
TARGETS = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
ADAPTER_CONFIG = "adapter_config.json"
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """How an adapter is built."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise InvalidInput(f"rank is {self.rank}; it must be at least 1.", param="rank", code="invalid_value")
        if not self.targets or not set(self.targets) <= set(TARGETS):
            raise InvalidInput(f"targets must be some of {', '.join(TARGETS)}.", param="targets", code="invalid_value")


class Lora(nn.Module):
    """A and B for every targeted matrix, float32 trainable parameters (`parameters()` is all of them).

    Fresh ones change nothing: A is Kaiming-uniform (from `seed`), B is zero.
    """

    def __init__(self, decoder_config: DecoderConfig, config: LoraConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        self.config = config or LoraConfig()
        self.decoder_config = decoder_config
        generator = torch.Generator().manual_seed(seed)
        self.A = nn.ParameterDict()
        self.B = nn.ParameterDict()
        for name, (width_out, width_in) in _matrix_shapes(decoder_config, self.config.targets).items():
            bound = 1 / math.sqrt(width_in)
            a = torch.empty(self.config.rank, width_in).uniform_(-bound, bound, generator=generator)
            self.A[_key(name)] = nn.Parameter(a)
            self.B[_key(name)] = nn.Parameter(torch.zeros(width_out, self.config.rank))
        self._fused: dict[tuple[str, ...], tuple[tuple[int, ...], torch.dtype, tuple[Tensor, Tensor]]] = {}

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.config.alpha / self.config.rank

    def matrices(
        self, names: tuple[str, ...], widths: tuple[int, ...], dtype: torch.dtype
    ) -> tuple[Tensor, Tensor] | None:
        """(A [sum of ranks, D], scaled B [O, sum of ranks]) of matrices with one input, B block-diagonal.

        Differentiable when the parameters are being trained; otherwise remembered until they change in place.

        Args:
            names: such as `model.layers.0.self_attn.q_proj`.
            widths: their output widths, which leave room for those that are no target.

        Returns:
            None when none of them is a target.
        """
        keys = [_key(name) for name in names]
        if not any(key in self.A for key in keys):
            return None
        parameters = [p for key in keys if key in self.A for p in (self.A[key], self.B[key])]
        if torch.is_grad_enabled() and any(p.requires_grad for p in parameters):
            return self._combine(keys, widths, dtype)
        stamp = tuple(n for p in parameters for n in (p._version, p.data_ptr()))
        remembered = self._fused.get(names)
        if remembered is None or remembered[:2] != (stamp, dtype):
            with torch.inference_mode(False), torch.no_grad():  # a later pass may train what comes before them
                remembered = self._fused[names] = (stamp, dtype, self._combine(keys, widths, dtype))
        return remembered[2]

    def parts(self, names: tuple[str, ...]) -> list[tuple[nn.Parameter, nn.Parameter] | None]:
        """(A [r, D], B [O, r] without its scale) of each matrix, None for those that are no target."""
        keys = [_key(name) for name in names]
        return [(self.A[key], self.B[key]) if key in self.A else None for key in keys]

    def _combine(self, keys: list[str], widths: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        present = [key for key in keys if key in self.A]
        a = torch.cat([self.A[key] for key in present]) if len(present) > 1 else self.A[present[0]]
        blocks = [
            self.B[key] if key in self.B else self.A[present[0]].new_zeros(width, 0)
            for key, width in zip(keys, widths, strict=True)
        ]
        b = torch.block_diag(*blocks) if len(blocks) > 1 else blocks[0]  # type: ignore[no-untyped-call]
        return a.to(dtype), (b * self.scale).to(dtype)

    def scaled(self, factor: float) -> Lora:
        """A copy whose effect is `factor` times this one's (B is multiplied)."""
        out = Lora(self.decoder_config, self.config)
        out.load_state_dict(self.state_dict())
        with torch.no_grad():
            for b in out.B.values():
                b.mul_(factor)
        return out

    def save(self, folder: Path, base_sha256: str, base_name: str = "") -> None:
        """Write a PEFT adapter folder, atomically: complete or absent."""
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            save_safetensors(self.peft_state(), temporary / ADAPTER)
            settings = {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "base_model_name_or_path": base_name,
                "r": self.config.rank,
                "lora_alpha": self.config.alpha,
                "lora_dropout": 0.0,
                "bias": "none",
                "target_modules": list(self.config.targets),
                "inference_mode": True,
                "tutee_base_sha256": base_sha256,
            }
            path = temporary / ADAPTER_CONFIG
            path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
            flush(path)
            weights_sha256(temporary)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def peft_state(self) -> dict[str, Tensor]:
        """Tensors under PEFT's names."""
        out = {}
        for name in _matrix_shapes(self.decoder_config, self.config.targets):
            out[f"{PEFT_PREFIX}{name}.lora_A.weight"] = self.A[_key(name)].detach()
            out[f"{PEFT_PREFIX}{name}.lora_B.weight"] = self.B[_key(name)].detach()
        return out

    @classmethod
    def load(cls, folder: Path, decoder_config: DecoderConfig, base_sha256: str | None = None) -> Lora:
        """Read a PEFT adapter folder; its parameters come frozen.

        Raises:
            InvalidInput: no adapter there, shapes of another model, or (code `wrong_base`) another base's weights.
        """
        settings = _read_settings(folder)
        trained_on = settings.get("tutee_base_sha256")
        if base_sha256 is not None and trained_on is not None and trained_on != base_sha256:
            raise InvalidInput(
                f"the adapter in {folder} was trained on another base ({trained_on[:12]}, not {base_sha256[:12]}).",
                param="model",
                code="wrong_base",
            )
        lora = cls(decoder_config, LoraConfig(settings["r"], settings["lora_alpha"], tuple(settings["target_modules"])))
        stored = load_safetensors(folder)
        expected = lora.peft_state()
        wrong = next(
            (name for name in expected if name not in stored or stored[name].shape != expected[name].shape), None
        )
        wrong = wrong or next((name for name in stored if name not in expected), None)
        if wrong is not None:
            raise InvalidInput(
                f"the adapter in {folder} does not fit this model: {wrong} is missing, unexpected or of another shape.",
                param="model",
                code="wrong_base",
            )
        with torch.no_grad():
            for name, tensor in expected.items():
                tensor.copy_(stored[name])
        return lora.requires_grad_(False)


def merge(state: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """The base's state dict with the adapter's change added in float32, then rounded to each tensor's dtype."""
    out = dict(state)
    with torch.no_grad():
        for name in _matrix_shapes(lora.decoder_config, lora.config.targets):
            weight = state[f"{name}.weight"]
            change = lora.scale * (lora.B[_key(name)] @ lora.A[_key(name)])
            out[f"{name}.weight"] = (weight.float() + change).to(weight.dtype)
    return out


def _read_settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        targets = settings["target_modules"]
        usable = isinstance(targets, list) and isinstance(settings["r"], int) and "lora_alpha" in settings
    except (OSError, ValueError, KeyError, TypeError):
        usable = False
    if not usable:
        raise InvalidInput(f"{folder} holds no readable {ADAPTER_CONFIG}.", param="model", code="not_an_adapter")
    if settings.get("peft_type", "LORA") != "LORA" or settings.get("use_dora") or settings.get("modules_to_save"):
        raise InvalidInput(
            f"the adapter in {folder} is more than a plain LoRA (DoRA, saved modules…); that is not computed.",
            param="model",
            code="unsupported_adapter",
        )
    if settings.get("use_rslora") or settings.get("rank_pattern") or settings.get("alpha_pattern"):
        raise InvalidInput(
            f"the adapter in {folder} scales its matrices differently from alpha / r; that is not computed.",
            param="model",
            code="unsupported_adapter",
        )
    return cast(dict[str, Any], settings)


def _matrix_shapes(config: DecoderConfig, targets: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """(output width, input width) of each targeted matrix, by its module name."""
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes = {
        "q_proj": (queries, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, queries),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
    }
    return {
        f"model.layers.{layer}.{'self_attn' if target in ATTENTION else 'mlp'}.{target}": shapes[target]
        for layer in range(config.num_hidden_layers)
        for target in TARGETS
        if target in targets
    }


def _key(name: str) -> str:
    return name.replace(".", "/")  # a ParameterDict's keys may not hold dots
