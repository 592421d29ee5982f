"""GGUF files written by llama.cpp's own library, read back as Hugging Face folders."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from tests.model.families import tiny_decoder
from tutee.conversation import Message
from tutee.errors import InvalidInput
from tutee.model.decoder import Decoder
from tutee.model.gguf import NAMES, import_gguf
from tutee.model.pretrained import load_pretrained

OURS = {theirs: ours for ours, theirs in NAMES.items()}
LETTERS = [*"abcdefghijklmnopqrstuvwxyzĠĊ?.,0123456789", "ab", "Ġa"]
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def gguf_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{OURS[rest]}.{kind}"
    return f"{OURS[stem]}.{kind}"


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to q and k, as its source states it."""
    split = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return split.swapaxes(1, 2).reshape(weight.shape)


def write(path: Path, decoder: Decoder, quant: gguf.GGMLQuantizationType, **changes: Any) -> None:
    config = decoder.config
    architecture = changes.get("architecture", config.model_type)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(changes.get("heads", config.num_attention_heads))
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    special = ["<|im_start|>", "<|im_end|>"]
    tokens = [*special, *LETTERS, *(f"<unused{i}>" for i in range(config.vocab_size - len(LETTERS) - 2))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(changes.get("pre", "smollm"))
    writer.add_token_list(tokens)
    writer.add_token_types([3 if i < 2 else 1 for i in range(len(tokens))])
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_eos_token_id(1)
    writer.add_chat_template(CHATML)
    for name, tensor in decoder.state_dict().items():
        array = tensor.numpy()
        if config.model_type == "llama" and ("q_proj" in name or "k_proj" in name):
            array = permute(array, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        kind = quant if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(np.ascontiguousarray(array), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
@pytest.mark.parametrize("quant", ["F32", "F16", "Q8_0", "Q4_1"])
def test_the_folder_holds_what_the_file_holds(tmp_path: Path, model_type: str, quant: str) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    decoder = tiny_decoder(**sizes, head_dim=16, model_type=model_type, qk_norm=model_type == "qwen3")
    kind = getattr(gguf.GGMLQuantizationType, quant)
    write(tmp_path / "tiny.gguf", decoder, kind)
    steps: list[float] = []
    folder = import_gguf(tmp_path / "tiny.gguf", tmp_path / "tiny", lambda what, fraction: steps.append(fraction))
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    model = load_pretrained(folder, "float32")
    for name, tensor in model.decoder.state_dict().items():
        error = {"F32": 0.0, "F16": 1e-3, "Q8_0": 1e-2, "Q4_1": 0.1}[quant]
        torch.testing.assert_close(tensor, decoder.state_dict()[name], atol=error * 0.6, rtol=0)


def test_its_tokenizer_splits_digits_and_knows_its_special_tokens(tmp_path: Path) -> None:
    write(tmp_path / "tiny.gguf", tiny_decoder(hidden_size=64), gguf.GGMLQuantizationType.F32)
    model = load_pretrained(import_gguf(tmp_path / "tiny.gguf", tmp_path / "tiny"))
    texts = [model.tokenizer.token_text(id) for id in model.tokenizer.encode("ab a12")]
    assert texts == ["ab", " a", "1", "2"]
    assert model.chat_format.render([Message("user", "a")])[0] == 0
    assert model.chat_format.stop_ids == {1}


def test_files_that_we_do_not_read_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"

    def code() -> str | None:
        with pytest.raises(InvalidInput) as caught:
            import_gguf(path, tmp_path / "shelf" / "bad")
        return caught.value.code

    path.write_bytes(b"not a model")
    assert code() == "damaged_weights"
    write(path, tiny_decoder(), gguf.GGMLQuantizationType.F32, heads=10)
    assert code() == "damaged_weights"
    write(path, tiny_decoder(), gguf.GGMLQuantizationType.F32, heads=[6, 6])
    assert code() == "invalid_config"
    write(path, tiny_decoder(), gguf.GGMLQuantizationType.F32, architecture="gemma")
    assert code() == "unsupported_model"
    write(path, tiny_decoder(), gguf.GGMLQuantizationType.F32, pre="some-new-rule")
    assert code() == "unsupported_tokenizer"
    write(path, tiny_decoder(), gguf.GGMLQuantizationType.F32)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert code() == "damaged_weights"
    shelf = tmp_path / "shelf"
    assert not shelf.exists() or list(shelf.iterdir()) == []
