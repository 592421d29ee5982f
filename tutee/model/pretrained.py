"""A model folder opened: config, weights, tokenizer and chat format together; and written back.

Does not know where folders come from (`library.py`) nor which version is live (`store/`).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutee.errors import InvalidInput
from tutee.model.chat_format import ChatFormat
from tutee.model.config import DecoderConfig, eos_ids
from tutee.model.decoder import Decoder
from tutee.model.lora import Lora, merge
from tutee.model.tokenizer import Tokenizer
from tutee.model.weights import SINGLE, flush, load_safetensors, save_safetensors, weights_sha256

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


@dataclass(slots=True)
class Pretrained:
    """Everything needed to run one model."""

    name: str
    folder: Path
    config: DecoderConfig
    decoder: Decoder
    tokenizer: Tokenizer
    chat_format: ChatFormat
    weights_sha256: str
    dtype: torch.dtype


def load_pretrained(
    folder: Path, dtype: str = "bfloat16", name: str | None = None, device: torch.device | str = "cpu"
) -> Pretrained:
    """Open a Hugging Face folder.

    Args:
        dtype: `bfloat16` (fast) or `float32` (exact).
        name: defaults to the folder's name.

    Raises:
        InvalidInput: not a model folder, a kind we do not run, damaged weights, no chat template.
    """
    if dtype not in DTYPES:
        raise InvalidInput(
            f"dtype is {dtype!r}; it must be {' or '.join(DTYPES)}.", param="dtype", code="invalid_value"
        )
    config = read_config(folder)
    tokenizer = Tokenizer(folder)
    chat_format = ChatFormat(tokenizer.chat_template, tokenizer, config.eos_token_ids)
    decoder = Decoder(config, DTYPES[dtype])
    fill(decoder, load_safetensors(folder), folder)
    return Pretrained(
        name=name or folder.name,
        folder=folder,
        config=config,
        decoder=decoder.to(device),
        tokenizer=tokenizer,
        chat_format=chat_format,
        weights_sha256=weights_sha256(folder),
        dtype=DTYPES[dtype],
    )


def read_config(folder: Path) -> DecoderConfig:
    """The shape of the model in `folder`, with the eos ids of its `generation_config.json` added.

    Raises:
        InvalidInput: no readable `config.json` there, or one of a model that we do not run.
    """
    raw = _read_json(folder / "config.json")
    if raw is None:
        raise InvalidInput(
            f"{folder} is not a model folder: it has no readable config.json.", param="model", code="not_a_model"
        )
    generation = _read_json(folder / "generation_config.json") or {}
    return DecoderConfig.from_hf(raw | {"eos_token_id": [*eos_ids(raw), *eos_ids(generation)]})


def fill(decoder: Decoder, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Copy `tensors` into the decoder, which must be exactly its parameters (a tied head may be there too).

    Raises:
        InvalidInput: one is missing, unexpected or of another shape (code `damaged_weights`).
    """
    rest = dict(tensors)
    if decoder.config.tie_word_embeddings:
        rest.pop("lm_head.weight", None)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            tensor = rest.pop(name, None)
            if tensor is None or tensor.shape != parameter.shape:
                found = "missing" if tensor is None else f"{list(tensor.shape)}, not {list(parameter.shape)}"
                raise _unfit(folder, f"{name} is {found}")
            parameter.copy_(tensor)
    rest = {name: tensor for name, tensor in rest.items() if not name.endswith("rotary_emb.inv_freq")}
    if rest:
        raise _unfit(folder, f"{min(rest)} is not part of this kind of model")


def save_version(
    base: Pretrained, folder: Path, state: Mapping[str, Tensor] | None = None, lora: Lora | None = None
) -> str:
    """Save a version: an adapter folder (`lora`) or a full Hugging Face folder (`state`); returns the weights' hash."""
    if (state is None) == (lora is None):
        raise ValueError("give either a state or a lora")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if lora is not None:
        lora.save(folder, base.weights_sha256, base.name)
    elif state is not None:
        _save_full(base, folder, state)
    return weights_sha256(folder)


def export_merged(base: Pretrained, lora: Lora | None, folder: Path) -> str:
    """Write the base with the adapter merged in as a float32 Hugging Face folder; returns its weights_sha256.

    The base's numbers come from its files, not from the decoder, which may have rounded them.
    """
    state = load_safetensors(base.folder)
    if base.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _save_full(base, folder, state if lora is None else merge(state, lora))
    return weights_sha256(folder)


def _save_full(base: Pretrained, folder: Path, state: Mapping[str, Tensor]) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        save_safetensors({name: tensor.float() for name, tensor in state.items()}, temporary / SINGLE)
        for name in TEXT_FILES:
            if (base.folder / name).is_file():
                shutil.copyfile(base.folder / name, temporary / name)
        config = temporary / "config.json"
        config.write_text(json.dumps(base.config.to_hf() | {"dtype": "float32"}, indent=2), encoding="utf-8")
        flush(config)
        weights_sha256(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return raw if isinstance(raw, dict) else None


def _unfit(folder: Path, what: str) -> InvalidInput:
    return InvalidInput(
        f"The weights in {folder} do not fit its config.json: {what}.", param="model", code="damaged_weights"
    )
