"""A tiny random model as a folder on disk, for tests that go through the whole house."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

# Before torch is imported, here and in the servers that tests start: two pools of threads on two cores make each crawl.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

# A machine that stops for a moment has not found a counterexample: no deadlines, and the same examples every time.
hypothesis.settings.load_profile("ci")

TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder `models/tiny`: a random two-layer Llama over bytes, seconds to train."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    write_tiny_model(folder)
    return folder


def write_tiny_model(
    folder: Path, hidden: int = 32, context: int = 512, template: str = TEMPLATE, marks: Sequence[str] = ()
) -> None:
    """Write config, random weights (seed 7), a byte tokenizer with `<|start|>` and `<|end|>` (and `marks` as further
    special tokens), and a chat template."""
    from safetensors.torch import save_file

    from tutee.model.config import DecoderConfig
    from tutee.model.decoder import Decoder

    config = DecoderConfig(
        model_type="llama",
        vocab_size=258 + len(marks),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=hidden // 4,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        eos_token_ids=(257,),
    )
    generator = torch.Generator().manual_seed(7)
    decoder = Decoder(config, torch.float32)
    weights = {
        name: torch.ones_like(weight) if "norm" in name else torch.randn(weight.shape, generator=generator) * 0.2
        for name, weight in decoder.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_hf()), encoding="utf-8")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken(text, special=True) for text in ("<|start|>", "<|end|>", *marks)])
    raw.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|end|>", "pad_token": "<|end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


@pytest.fixture(scope="session")
def planted_home(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the tiny base live and some feedback in it; copy it before you change it."""
    from tests.tiny_home import open_home, plant

    home = tmp_path_factory.mktemp("planted") / "home"
    store, base, model = open_home(home, tiny_folder)
    plant(store, base, model)
    store.close()
    return home
