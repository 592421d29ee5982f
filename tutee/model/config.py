"""The shape of a decoder, read from and written as a Hugging Face `config.json`.

Knows the Llama family: Llama (also SmolLM2), Mistral, Qwen2/2.5 and Qwen3. Refuses what the decoder does not compute,
by name, instead of computing something else. Knows nothing of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tutee.errors import InvalidInput

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
ROPE_TYPES = ("default", "linear", "llama3")


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """Sizes and switches of one decoder; field names are those of `config.json`."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = None
    """None, or `rope_type` linear | llama3 with its numbers."""
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    """Bias on q, k and v; for Llama and Qwen3 on o as well."""
    qk_norm: bool = False
    """RMS norm of each head's query and key before the rotation (Qwen3)."""
    sliding_window: int | None = None
    """A token sees this many newest tokens, itself included; None: all."""
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    @property
    def output_bias(self) -> bool:
        """Whether the attention's output projection has a bias."""
        return self.attention_bias and self.model_type != "qwen2"

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> DecoderConfig:
        """The shape that a `config.json` describes.

        Raises:
            InvalidInput: a field is missing or wrong, or the model is of a kind that this decoder does not compute.
        """
        model_type = raw.get("model_type")
        if model_type not in ARCHITECTURES:
            raise InvalidInput(
                f"config.json says model_type {model_type!r}; this decoder runs {', '.join(ARCHITECTURES)}.",
                param="model_type",
                code="unsupported_model",
            )
        _refuse_unsupported(raw)
        heads = _positive(raw, "num_attention_heads")
        hidden = _positive(raw, "hidden_size")
        rope_theta, rope_scaling = _rope(raw)
        config = cls(
            model_type=model_type,
            vocab_size=_positive(raw, "vocab_size"),
            hidden_size=hidden,
            intermediate_size=_positive(raw, "intermediate_size"),
            num_hidden_layers=_positive(raw, "num_hidden_layers"),
            num_attention_heads=heads,
            num_key_value_heads=_positive(raw, "num_key_value_heads", heads),
            head_dim=_positive(raw, "head_dim", hidden // heads),
            rms_norm_eps=_number(raw, "rms_norm_eps", 1e-6),
            rope_theta=rope_theta,
            rope_scaling=rope_scaling,
            max_position_embeddings=_positive(raw, "max_position_embeddings", 2048),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            attention_bias=model_type == "qwen2" or bool(raw.get("attention_bias", False)),
            qk_norm=model_type == "qwen3",
            sliding_window=_sliding_window(raw),
            bos_token_id=raw.get("bos_token_id"),
            eos_token_ids=eos_ids(raw),
        )
        if heads % config.num_key_value_heads or config.head_dim % 2:
            raise InvalidInput(
                "config.json: num_attention_heads must be a multiple of num_key_value_heads, and head_dim even.",
                param="num_attention_heads",
                code="invalid_config",
            )
        return config

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` that transformers, vLLM and llama.cpp read, without `dtype`."""
        out = asdict(self)
        for ours in ("eos_token_ids", "qk_norm", "sliding_window", "attention_bias"):
            out.pop(ours)
        eos = self.eos_token_ids
        out |= {
            "architectures": [ARCHITECTURES[self.model_type]],
            "hidden_act": "silu",
            "eos_token_id": eos[0] if len(eos) == 1 else list(eos) or None,
            "rope_scaling": None if self.rope_scaling is None else dict(self.rope_scaling),
        }
        if self.model_type in ("llama", "qwen3"):
            out["attention_bias"] = self.attention_bias
        if self.model_type == "mistral":
            out["sliding_window"] = self.sliding_window
        elif self.model_type in ("qwen2", "qwen3"):
            windowed = self.sliding_window is not None
            out |= {"use_sliding_window": windowed, "sliding_window": self.sliding_window, "max_window_layers": 0}
        return out


def _positive(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise _wrong(key, value, "a positive whole number")
    return value


def _number(raw: Mapping[str, Any], key: str, default: float) -> float:
    value = raw.get(key)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise _wrong(key, value, "a positive number")
    return float(value)


def eos_ids(raw: Mapping[str, Any]) -> tuple[int, ...]:
    """The end tokens that a `config.json` or `generation_config.json` names. Raises `InvalidInput`."""
    value = raw.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(id, int) for id in ids):
        raise _wrong("eos_token_id", value, "a token id or a list of them")
    return tuple(dict.fromkeys(ids))


def _wrong(key: str, value: object, wanted: str) -> InvalidInput:
    return InvalidInput(f"config.json: {key} is {value!r}; it must be {wanted}.", param=key, code="invalid_config")


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    if raw.get("hidden_act", "silu") != "silu":
        raise _unsupported("hidden_act", raw["hidden_act"], "only silu is computed")
    if raw.get("mlp_bias"):
        raise _unsupported("mlp_bias", True, "biases in the feed-forward layers are not computed")
    if raw.get("quantization_config"):
        raise _unsupported(
            "quantization_config", "set", "quantized folders are not read; use the original or a GGUF file"
        )


def _rope(raw: Mapping[str, Any]) -> tuple[float, Mapping[str, Any] | None]:
    # transformers 5 writes one dict `rope_parameters`; everybody before it wrote rope_theta and rope_scaling.
    merged: dict[str, Any] = {}
    for key in ("rope_scaling", "rope_parameters"):
        value = raw.get(key) or {}
        if not isinstance(value, Mapping):
            raise _wrong(key, value, "an object")
        merged |= value
    theta = _number(merged, "rope_theta", _number(raw, "rope_theta", 10000.0))
    merged.pop("rope_theta", None)
    kind = merged.pop("rope_type", None) or merged.pop("type", None) or "default"
    merged.pop("type", None)
    if kind not in ROPE_TYPES:
        raise _unsupported("rope_scaling", kind, f"only {', '.join(ROPE_TYPES)} are computed")
    if kind == "default":
        return theta, None
    needed = {
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    }
    for key in needed[kind]:
        if not isinstance(merged.get(key), int | float):
            raise InvalidInput(
                f"config.json: rope_scaling of type {kind} needs the number {key}.",
                param=f"rope_scaling.{key}",
                code="invalid_config",
            )
    return theta, {"rope_type": kind} | {key: merged[key] for key in needed[kind]}


def _sliding_window(raw: Mapping[str, Any]) -> int | None:
    if raw["model_type"] == "llama" or (raw["model_type"] != "mistral" and not raw.get("use_sliding_window")):
        return None
    window = None if raw.get("sliding_window") is None else _positive(raw, "sliding_window")
    if raw["model_type"] == "mistral" or window is None:
        return window
    kinds = set(raw.get("layer_types") or ())
    full_layers = raw.get("max_window_layers", raw["num_hidden_layers"])
    if kinds == {"full_attention"} or (not kinds and full_layers >= raw["num_hidden_layers"]):
        return None
    if kinds == {"sliding_attention"} or (not kinds and full_layers == 0):
        return window
    raise _unsupported("layer_types", "mixed", "layers that differ in their attention window are not computed")


def _unsupported(param: str, value: object, why: str) -> InvalidInput:
    return InvalidInput(f"config.json: {param} is {value!r}; {why}.", param=param, code="unsupported_model")
