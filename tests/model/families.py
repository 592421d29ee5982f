"""Tiny random models of every family, made by transformers, and the folder of the default model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tutee.errors import Unavailable
from tutee.model.config import DecoderConfig
from tutee.model.decoder import Decoder
from tutee.model.library import DEFAULT_MODEL, is_model, pull
from tutee.settings import Settings

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 74,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
    "rope_theta": 10000.0,
}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
FAMILIES: dict[str, transformers.PretrainedConfig] = {
    "llama": transformers.LlamaConfig(**SIZES),
    "llama-tied-bias": transformers.LlamaConfig(**SIZES, tie_word_embeddings=True, attention_bias=True),
    "llama3-rope": transformers.LlamaConfig(**SIZES, rope_parameters=LLAMA3),
    "linear-rope": transformers.LlamaConfig(**SIZES, rope_parameters=LINEAR),
    "mistral": transformers.MistralConfig(**SIZES, sliding_window=None, head_dim=10),
    "mistral-window": transformers.MistralConfig(**SIZES, sliding_window=7),
    "qwen2": transformers.Qwen2Config(**SIZES),
    "qwen3": transformers.Qwen3Config(**SIZES, head_dim=10),
}


def random_reference(name: str, seed: int = 0) -> transformers.PreTrainedModel:
    """A transformers model whose biases and norms are random too, so that a forgotten one shows."""
    config = FAMILIES[name]
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            std = 0.3 if parameter.ndim == 1 else 0.15
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std + (parameter.ndim == 1))
    return model


def tiny_decoder(dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Decoder:
    """A random decoder of ours; odd widths, so that vector code has remainders."""
    return Decoder(tiny_config(**changes), dtype).initialise(seed, std=0.15)


def tiny_config(**changes: Any) -> DecoderConfig:
    sizes = {k: v for k, v in SIZES.items() if not k.endswith("token_id")} | {"head_dim": 8, "model_type": "llama"}
    return DecoderConfig(**(sizes | changes))


def default_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model: `make serve`'s, or one kept among pytest's folders; skips where it cannot be fetched.

    `MODELS_FOR_TESTS` names another folder of models.
    """
    served = Settings().home.expanduser() / "models"
    kept = served if is_model(served / DEFAULT_MODEL) else tmp_path_factory.getbasetemp().parent / "models"
    models = Path(os.environ.get("MODELS_FOR_TESTS", kept))
    try:
        return pull(DEFAULT_MODEL, models)
    except Unavailable as error:
        pytest.skip(f"the default model cannot be fetched: {error.message}")
