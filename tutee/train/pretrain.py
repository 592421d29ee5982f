"""Pretraining: a model from nothing but text. Its tokenizer, its shape, and text as packed rows.

    L = -Σ_t log π(y_t | y_<t) / number of tokens
over documents that each begin and end with `<|endoftext|>` (Radford et al. 2019). The loss is SFT's token mean with
every token learned. A document longer than the context is cut into windows that overlap by one token, so every token
but the first is predicted exactly once; what follows each other in the file is then packed into rows of at most the
context. Documents never see each other, and nothing is padded.

The tokenizer is byte-level BPE (Sennrich et al. 2016, arXiv 1508.07909; bytes as GPT-2 does), trained on the text
itself by `tokenizers`: no text is unknown to it. The model is a Llama (arXiv 2302.13971) with tied embeddings, and its
folder has a chat template, so that SFT can follow. Knows nothing of optimizers.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from tutee.data.training_files import Text
from tutee.errors import InvalidInput
from tutee.model.config import DecoderConfig
from tutee.model.decoder import Decoder
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.model.tokenizer import Tokenizer
from tutee.model.weights import SINGLE, save_safetensors
from tutee.train.batch import Example, Group, Loss, split_groups
from tutee.train.encode import Encoded
from tutee.train.options import require
from tutee.train.sft import token_mean_loss

END_OF_TEXT, TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, TURN, END_OF_TURN)
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BYTES = 256


@dataclass(frozen=True, slots=True)
class PretrainConfig:
    """The shape of the model that is made; the defaults are 3.5 million parameters, for a CPU."""

    vocabulary: int = 4096
    """Tokens, the 256 bytes and three special ones included."""
    layers: int = 4
    """Blocks, one after the other."""
    width: int = 256
    """Numbers that stand for a token between blocks."""
    heads: int = 4
    """Attention heads; each is width / heads wide."""
    kv_heads: int = 2
    """Key-value heads; fewer make the cache smaller."""
    inner: int = 0
    """Width of the feed-forward layers; 0: 8/3 of the width, rounded up to a multiple of 64."""
    context: int = 512
    """Most tokens that are read at once."""

    def __post_init__(self) -> None:
        least = BYTES + len(SPECIAL)
        require(least <= self.vocabulary <= 1_000_000, "vocabulary", f"'vocabulary' must be {least} to 1000000.")
        require(1 <= self.layers <= 256, "layers", "'layers' must be between 1 and 256.")
        require(
            self.heads >= 1 and self.width % (2 * self.heads) == 0, "width", "'width' must divide by twice 'heads'."
        )
        require(self.kv_heads >= 1 and self.heads % self.kv_heads == 0, "kv_heads", "'kv_heads' must divide 'heads'.")
        require(self.inner >= 0, "inner", "'inner' must not be negative.")
        require(2 <= self.context <= 1_048_576, "context", "'context' must be between 2 and 1048576.")

    def loss(self) -> Loss:
        return token_mean_loss

    def decoder(self, vocabulary: int, end_ids: tuple[int, ...]) -> DecoderConfig:
        """The decoder of this shape over a tokenizer of so many tokens."""
        inner = self.inner or -(-self.width * 8 // (3 * 64)) * 64
        return DecoderConfig(
            model_type="llama",
            vocab_size=vocabulary,
            hidden_size=self.width,
            intermediate_size=inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.width // self.heads,
            max_position_embeddings=self.context,
            tie_word_embeddings=True,
            bos_token_id=end_ids[0],
            eos_token_ids=end_ids,
        )


def train_tokenizer(texts: Iterable[str], vocabulary: int, folder: Path) -> Tokenizer:
    """Byte-level BPE learned from `texts`, written to `folder` with the chat template.

    It has fewer than `vocabulary` tokens where the text has no more pairs that occur twice.
    """
    raw = Backend(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        show_progress=False,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    raw.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    raw.save(str(folder / "tokenizer.json"))
    named = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TURN, "pad_token": END_OF_TEXT}
    settings = {**named, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return Tokenizer(folder)


def new_model(
    config: PretrainConfig, rows: Sequence[Text], folder: Path, seed: int = 0, dtype: str = "float32"
) -> Pretrained:
    """A model with random weights and a tokenizer trained on `rows`, as a Hugging Face folder; one that is already
    there is opened instead.

    Raises:
        InvalidInput: no text to train the tokenizer on.
    """
    if not (folder / SINGLE).is_file():
        if not any(row.text.strip() for row in rows):
            raise InvalidInput("There is no text to learn from.", param="training_file", code="empty_dataset")
        temporary = folder.with_name(f".{folder.name}.new")
        shutil.rmtree(temporary, ignore_errors=True)
        tokenizer = train_tokenizer((row.text for row in rows), config.vocabulary, temporary)
        ends = tuple(tokenizer.special_tokens[token] for token in (END_OF_TEXT, END_OF_TURN))
        shape = config.decoder(tokenizer.vocab_size, ends)
        (temporary / "config.json").write_text(json.dumps(shape.to_hf() | {"dtype": "float32"}, indent=2))
        save_safetensors(dict(Decoder(shape, torch.float32).initialise(seed).named_parameters()), temporary / SINGLE)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    return load_pretrained(folder, dtype)


def pretrain_groups(model: Pretrained, rows: Sequence[Text]) -> Encoded:
    """The text as packed rows: groups of documents (or windows of them) that fill the context together.

    Raises:
        InvalidInput: the tokenizer has no token that ends a document (`no_end_token`).
    """
    end = model.tokenizer.special_tokens.get(END_OF_TEXT, model.tokenizer.eos_id)
    if end is None:
        raise InvalidInput(
            f"{model.name} has no end-of-sequence token to divide documents with. Name one in tokenizer_config.json.",
            param="model",
            code="no_end_token",
        )
    context = model.config.max_position_embeddings
    windows = [w for row in rows for w in cut([end, *model.tokenizer.encode(row.text), end], context)]
    examples = [Example(tuple(window), (0.0, *[1.0] * (len(window) - 1))) for window in windows]
    parts = split_groups([Group((example,)) for example in examples], context)
    return Encoded(tuple(Group(tuple(e for group in part for e in group.examples)) for part in parts))


def cut(ids: Sequence[int], context: int) -> list[Sequence[int]]:
    """Windows of at most `context` ids, each beginning with the last id of the one before."""
    return [ids[start : start + context] for start in range(0, len(ids) - 1, context - 1)]
