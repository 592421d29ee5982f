"""Adapters: their effect, their files, and what is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.model.families import tiny_decoder
from tutee.errors import InvalidInput
from tutee.model.decoder import Decoder
from tutee.model.layout import Layout
from tutee.model.lora import Lora, LoraConfig, merge


def trained(decoder: Decoder, config: LoraConfig | None = None) -> Lora:
    lora = Lora(decoder.config, config).requires_grad_(False)
    with torch.no_grad():
        for i, b in enumerate(lora.B.values()):
            b.normal_(0, 0.05, generator=torch.Generator().manual_seed(i))
    return lora


def hidden(decoder: Decoder, lora: Lora | None) -> torch.Tensor:
    layout = Layout.packed([30], lora)
    with torch.no_grad():
        return decoder(torch.arange(30), layout.positions, layout)


@pytest.mark.parametrize("targets", [None, ("q_proj", "v_proj"), ("down_proj",)])
def test_merged_weights_compute_what_the_adapter_does(targets: tuple[str, ...] | None) -> None:
    decoder = tiny_decoder()
    lora = trained(decoder, LoraConfig(4, 8.0, targets) if targets else None)
    merged = Decoder(decoder.config)
    merged.load_state_dict(merge(decoder.state_dict(), lora))
    changed = hidden(decoder, lora)
    torch.testing.assert_close(hidden(merged, None), changed, atol=1e-4, rtol=0)
    assert (changed - hidden(decoder, None)).abs().max() > 0.05


def test_in_bfloat16_the_adapter_comes_near_and_partial_targets_hit_their_own_matrix() -> None:
    exact, fast = tiny_decoder(), tiny_decoder(torch.bfloat16)
    lora = trained(exact, LoraConfig(4, 8.0, ("k_proj", "up_proj")))
    change = hidden(exact, lora) - hidden(exact, None)
    fast_change = hidden(fast, lora) - hidden(fast, None)
    assert torch.cosine_similarity(change.flatten(), fast_change.flatten(), dim=0) > 0.9


def test_a_fresh_adapter_changes_nothing_and_a_scaled_one_in_proportion() -> None:
    decoder = tiny_decoder()
    torch.testing.assert_close(hidden(decoder, Lora(decoder.config)), hidden(decoder, None), atol=0, rtol=0)
    lora = trained(decoder)
    torch.testing.assert_close(hidden(decoder, lora.scaled(1.0)), hidden(decoder, lora), atol=0, rtol=0)
    torch.testing.assert_close(hidden(decoder, lora.scaled(0.0)), hidden(decoder, None), atol=0, rtol=0)


def test_a_change_in_place_is_seen_by_the_next_forward_pass() -> None:
    decoder = tiny_decoder(torch.bfloat16)
    lora = trained(decoder)
    before = hidden(decoder, lora)
    with torch.no_grad():
        lora.B["model/layers/0/mlp/up_proj"].mul_(3)
    assert (hidden(decoder, lora) - before).abs().max() > 0.01


def test_saved_and_loaded_is_the_same_in_peft_names(tmp_path: Path) -> None:
    decoder = tiny_decoder()
    lora = trained(decoder, LoraConfig(4, 6.0, ("q_proj", "down_proj")))
    lora.save(tmp_path / "adapter", base_sha256="a" * 64, base_name="tiny")
    names = set(load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in names
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["tutee_base_sha256"]) == (4, 6.0, "a" * 64)
    loaded = Lora.load(tmp_path / "adapter", decoder.config, "a" * 64)
    assert loaded.config == lora.config
    torch.testing.assert_close(hidden(decoder, loaded), hidden(decoder, lora), atol=0, rtol=0)
    assert not any(p.requires_grad for p in loaded.parameters())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_an_adapter_of_another_base_or_shape_is_refused(tmp_path: Path) -> None:
    decoder = tiny_decoder()
    trained(decoder).save(tmp_path / "adapter", base_sha256="a" * 64)
    with pytest.raises(InvalidInput) as caught:
        Lora.load(tmp_path / "adapter", decoder.config, "b" * 64)
    assert caught.value.code == "wrong_base"
    other = tiny_decoder(hidden_size=32)
    with pytest.raises(InvalidInput) as caught:
        Lora.load(tmp_path / "adapter", other.config)
    assert caught.value.code == "wrong_base"
    with pytest.raises(InvalidInput) as caught:
        Lora.load(tmp_path, decoder.config)
    assert caught.value.code == "not_an_adapter"


def test_a_kind_of_adapter_that_is_not_computed_is_refused(tmp_path: Path) -> None:
    decoder = tiny_decoder()
    trained(decoder).save(tmp_path / "adapter", base_sha256="a" * 64)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    with pytest.raises(InvalidInput) as caught:
        Lora.load(tmp_path / "adapter", decoder.config)
    assert caught.value.code == "unsupported_adapter"


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"targets": ()}, {"targets": ("lm_head",)}])
def test_a_wrong_setting_is_an_error(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        LoraConfig(**wrong)  # type: ignore[arg-type]
