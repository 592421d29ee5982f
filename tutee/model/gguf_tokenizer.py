"""Rebuilds `tokenizer.json` and the chat template from a GGUF file's metadata.

Knows byte-level BPE (`gpt2`, with the splitting rules that llama.cpp names) and SentencePiece BPE (`llama`). Refuses
other splitting rules: a nearly right tokenizer gives wrong answers without an error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from tutee.errors import InvalidInput
from tutee.model.config import DecoderConfig

CONTROL, USER_DEFINED = 3, 4
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


def write_tokenizer(metadata: dict[str, Any], config: DecoderConfig, folder: Path) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`.

    Raises:
        InvalidInput: the file has no tokenizer, or one whose splitting rule we do not know.
    """
    tokens = metadata.get("tokenizer.ggml.tokens")
    kind = metadata.get("tokenizer.ggml.model")
    if not tokens or kind not in ("gpt2", "llama"):
        raise InvalidInput(
            f"the GGUF file's tokenizer is {kind!r}; read are 'gpt2' (byte-level BPE) and 'llama' (SentencePiece).",
            param="model",
            code="unsupported_tokenizer",
        )
    backend = _byte_level(metadata, tokens) if kind == "gpt2" else _sentencepiece(metadata, tokens)
    types = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    added = [
        AddedToken(token, special=type_ == CONTROL, normalized=False)
        for token, type_ in zip(tokens, types, strict=True)
        if type_ in (CONTROL, USER_DEFINED)
    ]
    backend.add_special_tokens([token for token in added if token.special])
    backend.add_tokens([token for token in added if not token.special])
    backend.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": config.max_position_embeddings,
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        id = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(id, int) and 0 <= id < len(tokens):
            settings[f"{name}_token"] = tokens[id]
    template = metadata.get("tokenizer.chat_template")
    if template:
        settings["chat_template"] = template
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")


def _byte_level(metadata: dict[str, Any], tokens: list[str]) -> Backend:
    merges = [tuple(merge.split(" ", 1)) for merge in metadata.get("tokenizer.ggml.merges", ())]
    backend = Backend(BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    rule = metadata.get("tokenizer.ggml.pre", "default")
    split: list[Any]
    if rule in ("default", "gpt-2"):
        split = []
    elif rule == "smollm":
        split = [pre_tokenizers.Digits(individual_digits=True)]
    elif rule in ("llama-bpe", "llama3", "qwen2"):
        pattern = QWEN2_SPLIT if rule == "qwen2" else LLAMA3_SPLIT
        split = [pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)]
    else:
        raise InvalidInput(
            f"the GGUF file's tokenizer splits text by the rule {rule!r}, which we do not know; "
            "import the original Hugging Face folder instead.",
            param="model",
            code="unsupported_tokenizer",
        )
    own_split = rule in ("llama-bpe", "llama3", "qwen2")
    if rule == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not own_split)]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(metadata: dict[str, Any], tokens: list[str]) -> Backend:
    scores = metadata["tokenizer.ggml.scores"]
    vocab = {token: i for i, token in enumerate(tokens)}
    # SentencePiece merges the pair whose result scores best; BPE wants those pairs written out in that order.
    merges = sorted(
        (
            (token[:cut], token[cut:])
            for token in vocab
            for cut in range(1, len(token))
            if token[:cut] in vocab and token[cut:] in vocab
        ),
        key=lambda pair: (-scores[vocab["".join(pair)]], vocab[pair[0]], vocab[pair[1]]),
    )
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    backend = Backend(BPE(vocab=vocab, merges=merges, unk_token=tokens[unknown], fuse_unk=True, byte_fallback=True))
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    steps: list[Any] = [normalizers.Prepend("▁")] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    strip: list[Any] = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return backend
