"""Tokens, their bytes, and streaming."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from tutee.errors import InvalidInput
from tutee.model.tokenizer import Detokenizer, Tokenizer

TEXTS = ["Hello, world!", "  two spaces", "naïve café — ½ €", "日本語 🎉👩‍👩‍👧", "a\n\nb\t", "<|end|> said <|end|>", ""]


def byte_level(folder: Path) -> Tokenizer:
    """Every byte a token, no merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|start|>", special=True), AddedToken("<|end|>", special=True)])
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    return Tokenizer(folder)


def sentencepiece(folder: Path) -> Tokenizer:
    """Byte fallback and ▁ for spaces, as Llama 2 and Mistral have it."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"▁abcdeHlorw,!<|>nsi",
        "▁a",
        "He",
        "<0xZZ>",
    ]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    model = BPE(vocab=vocab, merges=[("▁", "a"), ("H", "e")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    backend = Backend(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer(folder)


KINDS = {"byte level": byte_level, "sentencepiece": sentencepiece}


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    return KINDS[request.param](tmp_path)


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_whole_and_streamed(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    detokenizer = Detokenizer(tokenizer)
    parts = [detokenizer.add(id) for id in ids] + [detokenizer.finish()]
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 257), max_size=30))
def test_any_ids_stream_to_what_they_decode_to(tmp_path_factory: pytest.TempPathFactory, ids: list[int]) -> None:
    tokenizer = byte_level(tmp_path_factory.mktemp("tokenizer"))
    detokenizer = Detokenizer(tokenizer)
    assert "".join([detokenizer.add(id) for id in ids] + [detokenizer.finish()]) == tokenizer.decode(ids)


def test_special_tokens_are_special_only_when_asked(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    assert tokenizer.encode("<|end|>", special=True) == [tokenizer.eos_id]
    plain = tokenizer.encode("<|end|>")
    assert tokenizer.eos_id not in plain
    assert tokenizer.decode(plain) == "<|end|>"
    assert tokenizer.decode([tokenizer.eos_id or 0]) == ""
    assert tokenizer.token_text(tokenizer.eos_id or 0) == "<|end|>"
    assert tokenizer.special_ids == {256, 257}


def test_the_bytes_of_tokens_join_to_the_text(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    text = "naïve 日本 🎉"
    assert b"".join(tokenizer.token_bytes(id) for id in tokenizer.encode(text)) == text.encode()
    assert tokenizer.token_bytes(10_000) == b""


def test_a_folder_without_tokenizer_or_with_a_broken_one_is_refused(tmp_path: Path) -> None:
    for content in (None, b"", b"{}", b"\xff\xfe"):
        if content is not None:
            (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(InvalidInput) as caught:
            Tokenizer(tmp_path)
        assert caught.value.code == "not_a_model"
