"""Tiny models over single characters or words, made from nothing: what `bench/learn.py` teaches.

A tokenizer of one token a symbol, a chat template that adds one sign after a question and one after an answer, a
decoder of two or three layers. Everything that a large model has, at a size at which a hundred steps take seconds.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers
from tokenizers import decoders as raw_decoders

from tutee.model.chat_format import ChatFormat
from tutee.model.config import DecoderConfig
from tutee.model.decoder import Decoder
from tutee.model.pretrained import Pretrained
from tutee.model.tokenizer import Tokenizer as OurTokenizer
from tutee.train.batch import Group, pack_groups, totals
from tutee.train.encode import encode_tokens
from tutee.train.sft import SftConfig
from tutee.train.trainer import Trainer, TrainerConfig

END = "<end>"
TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'user' %}<ask>{% else %}<end>{% endif %}{% endfor %}"
)


def make_model(symbols: Sequence[str], hidden: int, layers: int, seed: int, context: int = 64) -> Pretrained:
    """A random decoder over these symbols: single characters, or words with a space before each."""
    vocabulary = {symbol: i for i, symbol in enumerate([*symbols, "<unk>"])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r" [^ ]+|[^ ]"), "isolated")
    raw.decoder = raw_decoders.Fuse()
    raw.add_special_tokens([AddedToken("<ask>", special=True), AddedToken(END, special=True)])
    with tempfile.TemporaryDirectory() as folder:
        raw.save(str(Path(folder) / "tokenizer.json"))
        settings = {"eos_token": END, "pad_token": END, "chat_template": TEMPLATE}
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings))
        tokenizer = OurTokenizer(Path(folder))
    end = raw.token_to_id(END)
    config = DecoderConfig(
        model_type="llama",
        vocab_size=raw.get_vocab_size(),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=hidden // 4,
        max_position_embeddings=context,
        eos_token_ids=(end,),
    )
    decoder = Decoder(config).initialise(seed, std=0.08)
    chat_format = ChatFormat(TEMPLATE, tokenizer, (end,))
    return Pretrained(
        "characters", Path("characters"), config, decoder, tokenizer, chat_format, f"{seed:064d}", torch.float32
    )


def rows(model: Pretrained, pairs: Sequence[tuple[str, str]]) -> list[Group]:
    """(question, answer) texts as rows to imitate; the end token is learned too."""
    from tutee.conversation import Message

    end = model.config.eos_token_ids[0]
    out = []
    for question, answer in pairs:
        prompt = model.chat_format.render([Message("user", question)])
        example = encode_tokens(model, prompt, [*model.tokenizer.encode(answer), end])
        assert example is not None
        out.append(Group((example,)))
    return out


def imitate(model: Pretrained, groups: Sequence[Group], steps: int, batch: int, rate: float, seed: int) -> float:
    """Supervised training of all weights; the mean loss of the last ten steps, nats a token."""
    trainer = Trainer(model, TrainerConfig(full=True, beta2=0.95))
    loss = SftConfig().loss()
    dice = np.random.default_rng(seed)
    losses = []
    for _ in range(steps):
        part = [groups[i] for i in dice.choice(len(groups), min(batch, len(groups)), replace=False)]
        metrics = trainer.forward_backward(pack_groups(part), loss, totals(part))
        trainer.optim_step(rate)
        losses.append(metrics.total("loss"))
    return float(np.mean(losses[-10:]))
