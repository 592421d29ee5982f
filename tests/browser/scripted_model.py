"""A model folder whose weights spell a text: one-hot embeddings, silent layers, a head that knows each successor.

It goes through the real loader, engine and trainer like any Llama, but says something a browser test can expect:
markdown with a list, a table and code, in one of two variants (equal chances), over and over until `max_tokens`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

HIDDEN = 512
LAYERS, INTERMEDIATE = 16, 3072
"""Work enough that a long answer takes seconds on a fast machine: journeys stop, reload and kill in its middle."""
SURE = 24.0
"""Logit of the next token of the script; every other one has about 0."""
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
LONG = """Here is a longer answer, with **bold** words.

1. First thing
2. Second thing

| Part | Use |
| --- | --- |
| fork | steers |

```python
def lean(angle):
    return 0.4 * angle
```

That was all of it.

"""
SHORT = "A shorter reply, plain and to the point.\n\n"


THOUGHTFUL = """<think>
They ask for a sum, so I count on my fingers.

Two and two make four.
</think>

The sum is **four**.

"""


def write_scripted_model(
    folder: Path, context: int = 32_768, texts: Sequence[str] = (LONG, SHORT), ends: bool = False
) -> None:
    """Write a Hugging Face Llama folder that answers one of `texts`, again and again; with `ends`, once."""
    folder.mkdir(parents=True)
    letters = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {letter: index for index, letter in enumerate(sorted(letters))}
    scripts = []
    for text in texts:
        pieces = list(_pieces(text, vocabulary))
        for piece in pieces:
            vocabulary[piece] = len(vocabulary)
        scripts.append([vocabulary[piece] for piece in pieces])
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens([AddedToken("<|start|>", special=True), AddedToken("<|end|>", special=True)])
    raw.save(str(folder / "tokenizer.json"))
    if ends:
        scripts = [[*script, raw.get_vocab_size() - 1] for script in scripts]
    _write_weights(folder, scripts, newline=vocabulary["Ċ"], size=raw.get_vocab_size(), context=context)
    settings = {"eos_token": "<|end|>", "pad_token": "<|end|>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _pieces(text: str, taken: dict[str, int]) -> Iterator[str]:
    """Cut `text` into pieces that are all different, so that each has one successor."""
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[0][0]
    seen = set(taken)
    start = 0
    while start < len(spelled):
        end = start + 3
        while spelled[start:end] in seen and end < len(spelled):
            end += 1
        if len(spelled) - end < 3:
            end = len(spelled)
        seen.add(spelled[start:end])
        yield spelled[start:end]
        start = end


def _write_weights(folder: Path, scripts: list[list[int]], newline: int, size: int, context: int) -> None:
    from tutee.model.config import DecoderConfig
    from tutee.model.decoder import Decoder

    assert size <= HIDDEN
    config = DecoderConfig(
        model_type="llama",
        vocab_size=size,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        eos_token_ids=(size - 1,),
    )
    generator = torch.Generator().manual_seed(7)
    weights = {}
    for name, weight in Decoder(config, torch.float32).state_dict().items():
        weights[name] = torch.randn(weight.shape, generator=generator) * 0.05
        if "norm" in name:
            weights[name] = torch.ones_like(weight)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = torch.zeros_like(weight)
    weights["model.embed_tokens.weight"] = torch.eye(HIDDEN)[:size].contiguous()
    weights["lm_head.weight"] = torch.zeros(size, HIDDEN)
    scale = SURE / HIDDEN**0.5  # the final norm makes a one-hot vector sqrt(HIDDEN) long
    for script in scripts:
        weights["lm_head.weight"][script[0], newline] = scale
        for now, following in zip(script, [*script[1:], script[0]], strict=True):
            weights["lm_head.weight"][following, now] = scale
    weights = {name: weight.bfloat16() for name, weight in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_hf()), encoding="utf-8")
