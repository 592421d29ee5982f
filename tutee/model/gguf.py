"""Reads a GGUF file (llama.cpp's format) and writes it as a Hugging Face folder in float32.

Undoes what llama.cpp's converter did: block quantization, and the reordering of q and k rows for its rotary embedding.
Knows tensors and metadata; the tokenizer inside the file is `gguf_tokenizer.py`'s.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutee.errors import InvalidInput
from tutee.model.config import DecoderConfig
from tutee.model.gguf_tokenizer import write_tokenizer
from tutee.model.weights import SINGLE, save_safetensors, weights_sha256

ARCHITECTURES = ("llama", "qwen2", "qwen3")
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def import_gguf(path: Path, folder: Path, progress: Callable[[str, float], None] | None = None) -> Path:
    """Convert `path` to `folder` (created whole or not at all) and return it.

    Args:
        progress: called with what is being done and the fraction done.

    Raises:
        InvalidInput: not a GGUF file, cut short, or an architecture or tokenizer that we do not read.
    """
    from gguf import GGUFReader  # its import costs 0.1 s, and only this needs it

    if progress is not None:
        progress("convert", 0.0)
    try:
        reader = GGUFReader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
    except (OSError, ValueError, IndexError, KeyError, OverflowError) as error:
        raise _bad(f"{path.name} is no GGUF file, or is cut short ({error}). Download it again.") from None
    names = [_hf_name(tensor.name) for tensor in reader.tensors if tensor.name != "rope_freqs.weight"]
    config = _config(metadata, "lm_head.weight" not in names, "model.layers.0.self_attn.q_proj.bias" in names)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import-", dir=folder.parent) as temporary:
        unfinished = Path(temporary) / folder.name
        unfinished.mkdir()
        write_tokenizer(metadata, config, unfinished)
        save_safetensors(_tensors(reader, config, path.name, progress), unfinished / SINGLE)
        text = json.dumps(config.to_hf() | {"dtype": "float32"}, indent=2)
        (unfinished / "config.json").write_text(text, encoding="utf-8")
        weights_sha256(unfinished)
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.rename(folder)
    return folder


def _tensors(
    reader: Any, config: DecoderConfig, file: str, progress: Callable[[str, float], None] | None
) -> dict[str, Tensor]:
    from gguf.quants import dequantize

    out: dict[str, Tensor] = {}
    for i, raw in enumerate(reader.tensors):
        if raw.name == "rope_freqs.weight":
            continue  # llama3's scaling, which config.json says in numbers
        try:
            array = dequantize(raw.data, raw.tensor_type).astype(np.float32, copy=False)
        except (ValueError, NotImplementedError) as error:
            raise _bad(f"{file}: tensor {raw.name} cannot be read ({error}).") from None
        name = _hf_name(raw.name)
        tensor = torch.from_numpy(np.array(array).reshape(tuple(int(n) for n in raw.shape)[::-1]))
        if config.model_type == "llama" and (".q_proj." in name or ".k_proj." in name):
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
            tensor = _unpermute(tensor, heads)
        out[name] = tensor
        if progress is not None:
            progress("convert", (i + 1) / len(reader.tensors))
    return out


def _unpermute(tensor: Tensor, heads: int) -> Tensor:
    """llama.cpp rotates neighbouring pairs, transformers the two halves of a head: put the rows back."""
    if tensor.shape[0] % (2 * heads):
        raise _bad(f"{tensor.shape[0]} rows of a matrix are not {heads} heads.")
    return tensor.reshape(heads, -1, 2, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)


def _hf_name(name: str) -> str:
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if match is None or match[2] not in NAMES:
        raise _bad(f"the GGUF file holds a tensor {name!r} that this decoder has no place for.", "unsupported_model")
    layer = "" if match[1] is None else f"model.layers.{match[1]}."
    return f"{layer}{NAMES[match[2]]}.{match[3]}"


def _config(metadata: dict[str, Any], tied: bool, bias: bool) -> DecoderConfig:
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise _bad(
            f"the GGUF file is of architecture {architecture!r}; read are {', '.join(ARCHITECTURES)}.",
            "unsupported_model",
        )

    def get(key: str, default: Any = None) -> Any:
        return metadata.get(f"{architecture}.{key}", default)

    if get("rope.scaling.type") not in (None, "none") or any("rope_freqs" in key for key in metadata):
        raise _bad(
            "the GGUF file scales its rotary embedding; import the original folder instead.", "unsupported_model"
        )
    if get("expert_count"):
        raise _bad("mixtures of experts are not computed.", "unsupported_model")
    heads = get("attention.head_count")
    eos = metadata.get("tokenizer.ggml.eos_token_id")
    return DecoderConfig.from_hf(
        {
            "model_type": architecture,
            "vocab_size": len(metadata.get("tokenizer.ggml.tokens", ())) or get("vocab_size"),
            "hidden_size": get("embedding_length"),
            "intermediate_size": get("feed_forward_length"),
            "num_hidden_layers": get("block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": get("attention.head_count_kv", heads),
            "head_dim": get("attention.key_length") or get("embedding_length", 0) // (heads or 1),
            "rms_norm_eps": float(f"{get('attention.layer_norm_rms_epsilon', 1e-5):.6g}"),
            "rope_theta": get("rope.freq_base", 10000.0),
            "max_position_embeddings": get("context_length"),
            "tie_word_embeddings": tied,
            "attention_bias": bias,
            "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
            "eos_token_id": eos,
        }
    )


def _bad(message: str, code: str = "damaged_weights") -> InvalidInput:
    return InvalidInput(message, param="model", code=code)
