"""Reading config.json: what is refused, and by which name."""

from typing import Any

import pytest

from tests.model.families import FAMILIES
from tutee.errors import InvalidInput
from tutee.model.config import DecoderConfig

LLAMA = FAMILIES["llama"].to_dict()


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model_type": "gpt2"}, "model_type"),
        ({"model_type": None}, "model_type"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"num_key_value_heads": 4}, "num_attention_heads"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_scaling"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}, "rope_scaling.low_freq_factor"),
        ({"rope_parameters": "none"}, "rope_parameters"),
        ({"rope_parameters": {"rope_theta": "big"}}, "rope_theta"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"eos_token_id": [2, None]}, "eos_token_id"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window"),
        ({"model_type": "mistral", "sliding_window": "all"}, "sliding_window"),
    ],
)
def test_a_config_that_is_not_computed_is_refused_by_field(change: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        DecoderConfig.from_hf(LLAMA | change)
    assert caught.value.param == param


def test_old_and_new_ways_of_writing_rope_are_read_alike() -> None:
    scaling = {"rope_type": "linear", "factor": 4.0}
    new = DecoderConfig.from_hf(LLAMA | {"rope_parameters": scaling | {"rope_theta": 5e5}})
    raw = {k: v for k, v in LLAMA.items() if k != "rope_parameters"}
    old = DecoderConfig.from_hf(raw | {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}})
    assert new == old
    assert (new.rope_theta, new.rope_scaling) == (5e5, scaling)


def test_several_end_tokens_survive_the_round_trip() -> None:
    config = DecoderConfig.from_hf(LLAMA | {"eos_token_id": [2, 5]})
    assert config.eos_token_ids == (2, 5)
    assert DecoderConfig.from_hf(config.to_hf()) == config


def test_qwen_layers_that_differ_in_window_are_refused() -> None:
    raw = FAMILIES["qwen2"].to_dict() | {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
    raw["layer_types"] = ["full_attention", "sliding_attention"]
    with pytest.raises(InvalidInput) as caught:
        DecoderConfig.from_hf(raw)
    assert caught.value.param == "layer_types"
    assert DecoderConfig.from_hf(raw | {"layer_types": ["sliding_attention"] * 2}).sliding_window == 16
    assert DecoderConfig.from_hf(raw | {"use_sliding_window": False}).sliding_window is None
