"""Our forward pass against transformers', and our two precisions against each other."""

import copy
import json
from pathlib import Path

import pytest
import torch
import transformers

from tests.model.families import FAMILIES, random_reference, tiny_decoder
from tutee.model.config import DecoderConfig
from tutee.model.decoder import Decoder
from tutee.model.kv_cache import KVCache
from tutee.model.layout import Layout
from tutee.model.lora import Lora
from tutee.model.weights import load_safetensors


def logits_of(decoder: Decoder, tokens: torch.Tensor) -> torch.Tensor:
    layout = Layout.packed([len(tokens)])
    with torch.no_grad():
        return decoder.logits(decoder(tokens, layout.positions, layout))


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    reference = random_reference(name)
    reference.save_pretrained(tmp_path)
    config = DecoderConfig.from_hf(json.loads((tmp_path / "config.json").read_text()))
    decoder = Decoder(config)
    decoder.load_state_dict(load_safetensors(tmp_path))
    tokens = torch.arange(60) * 7 % 97
    with torch.no_grad():
        expected = reference(tokens[None]).logits[0]
    assert expected.abs().max() > 1
    torch.testing.assert_close(logits_of(decoder, tokens), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_we_write_opens_in_transformers_with_the_same_logits(name: str, tmp_path: Path) -> None:
    reference = random_reference(name)
    reference.save_pretrained(tmp_path)
    config = DecoderConfig.from_hf(json.loads((tmp_path / "config.json").read_text()))
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    assert DecoderConfig.from_hf(config.to_hf()) == config
    opened = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    tokens = (torch.arange(60) * 7 % 97)[None]
    with torch.no_grad():
        torch.testing.assert_close(opened(tokens).logits, reference(tokens).logits, atol=1e-6, rtol=0)


def test_state_dict_has_the_names_of_transformers() -> None:
    reference = random_reference("qwen2").state_dict()
    config = DecoderConfig.from_hf(FAMILIES["qwen2"].to_dict())
    for dtype in (torch.float32, torch.bfloat16):
        ours = Decoder(config, dtype).state_dict()
        assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in reference.items()}


def test_bfloat16_keeps_what_decides_in_float32_and_comes_near() -> None:
    exact, fast = tiny_decoder(), tiny_decoder(torch.bfloat16)
    kinds = {name: parameter.dtype for name, parameter in fast.named_parameters()}
    assert kinds["model.embed_tokens.weight"] == kinds["lm_head.weight"] == kinds["model.norm.weight"] == torch.float32
    assert kinds["model.layers.0.self_attn.q_proj.weight"] == torch.bfloat16
    tokens = torch.arange(40) * 5 % 97
    a, b = logits_of(exact, tokens), logits_of(fast, tokens)
    assert b.dtype == torch.float32
    assert (a - b).abs().max() < 0.1 * a.abs().max()
    assert (a - b).abs().max() > 0


@pytest.mark.parametrize("rows", [3, 400], ids=["packed weight", "plain weight"])
def test_changed_weights_are_used_at_once(rows: int) -> None:
    decoder = tiny_decoder(torch.bfloat16)
    tokens = torch.arange(rows) % 97
    layout = Layout.packed([rows // 2, rows - rows // 2])

    def run(one: Decoder) -> torch.Tensor:
        with torch.no_grad():
            return one(tokens, layout.positions, layout)

    before = run(decoder)
    other = tiny_decoder(torch.bfloat16, seed=1)
    with torch.no_grad():
        decoder.model.layers[1].mlp.up_proj.weight.copy_(other.model.layers[1].mlp.up_proj.weight)
    changed = run(decoder)
    assert (changed - before).abs().max() > 0.1
    torch.testing.assert_close(run(copy.deepcopy(decoder)), changed, atol=0, rtol=0)
    decoder.load_state_dict(other.state_dict())
    torch.testing.assert_close(run(decoder), run(other), atol=0, rtol=0)


def test_serving_first_does_not_spoil_training_afterwards() -> None:
    decoder = tiny_decoder(torch.bfloat16)
    lora = Lora(decoder.config).requires_grad_(False)
    layout = Layout.packed([300], lora)
    tokens = torch.arange(300) % 97
    positions = layout.positions % 256
    with torch.inference_mode():
        decoder(tokens, positions, layout)
        decoder(tokens[:4], positions[:4], Layout.packed([4], lora))
    decoder.requires_grad_(True)
    decoder(tokens, positions, layout).square().sum().backward()
    assert all(p.grad is not None for name, p in decoder.named_parameters() if name != "lm_head.weight")
    with torch.no_grad():
        decoder.model.layers[0].mlp.up_proj.weight.add_(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frozen_base_gets_no_gradient_and_the_adapter_does(dtype: torch.dtype) -> None:
    decoder = tiny_decoder(dtype)
    lora = Lora(decoder.config)
    layout = Layout.packed([9, 20, 5], lora)
    hidden = decoder(torch.arange(34), layout.positions, layout)
    hidden.square().sum().backward()
    assert all(parameter.grad is None for parameter in decoder.parameters())
    # B starts at zero, so A gets no gradient yet and B gets one everywhere.
    assert all(b.grad is not None and b.grad.abs().max() > 0 for b in lora.B.values())


def test_full_gradients_equal_transformers() -> None:
    reference = random_reference("qwen3")
    decoder = Decoder(DecoderConfig.from_hf(FAMILIES["qwen3"].to_dict()))
    decoder.load_state_dict(reference.state_dict())
    decoder.requires_grad_(True)
    tokens = torch.arange(40) * 11 % 96 + 1  # 0 is padding there, and gets no gradient
    layout = Layout.packed([25, 15])
    (decoder.logits(decoder(tokens, layout.positions, layout)).log_softmax(-1)[:, 3].sum()).backward()
    (sum(reference(part[None]).logits[0].log_softmax(-1)[:, 3].sum() for part in tokens.split([25, 15]))).backward()
    expected = dict(reference.named_parameters())
    for name, parameter in decoder.named_parameters():
        grad = expected[name].grad
        torch.testing.assert_close(parameter.grad, grad, atol=1e-4 * float(grad.abs().max()), rtol=1e-3)


def test_bfloat16_gradients_come_near_float32_for_adapter_and_base() -> None:
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        decoder = tiny_decoder(dtype).requires_grad_(True)
        lora = Lora(decoder.config)
        with torch.no_grad():
            for i, b in enumerate(lora.B.values()):
                b.normal_(0, 0.02, generator=torch.Generator().manual_seed(i))
        layout = Layout.packed([40, 12, 33, 35], lora)
        hidden = decoder(torch.arange(120) % 97, layout.positions, layout)
        decoder.logits(hidden).log_softmax(-1)[:, 3].sum().backward()
        grads.append({n: p.grad.float() for n, p in [*decoder.named_parameters(), *lora.named_parameters()]})
    for name, exact in grads[0].items():
        cosine = torch.cosine_similarity(exact.flatten(), grads[1][name].flatten(), dim=0)
        assert cosine > 0.99, (name, cosine)


def test_cache_block_size_and_order_of_blocks_do_not_matter() -> None:
    decoder = tiny_decoder()
    tokens = torch.arange(50) % 97
    packed = logits_of(decoder, tokens)
    for block_size, table in ((16, [3, 0, 2, 1]), (32, [1, 0])):
        cache = KVCache(decoder.config, 4, block_size, torch.float32)
        layout = Layout.cached(cache, [0, 50], [table], [50])
        with torch.no_grad():
            got = decoder.logits(decoder(tokens, layout.positions, layout))
            cache.copy_block(table[-1], 3 if block_size == 32 else table[-1])
        torch.testing.assert_close(got, packed, atol=0, rtol=0)
