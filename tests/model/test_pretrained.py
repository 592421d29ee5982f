"""Opening and writing model folders; the default model answers."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from tests.conftest import write_tiny_model
from tutee.conversation import Message
from tutee.errors import InvalidInput
from tutee.model.kv_cache import KVCache
from tutee.model.layout import Layout
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained, export_merged, load_pretrained, save_version
from tutee.model.weights import weights_sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny").mkdir()
    write_tiny_model(tmp_path / "tiny")
    return tmp_path / "tiny"


def logits_of(model: Pretrained, tokens: torch.Tensor, lora: Lora | None = None) -> torch.Tensor:
    layout = Layout.packed([len(tokens)], lora)
    with torch.no_grad():
        return model.decoder.logits(model.decoder(tokens, layout.positions, layout))


def lora_of(model: Pretrained) -> Lora:
    lora = Lora(model.config)
    with torch.no_grad():
        for i, b in enumerate(lora.B.values()):
            b.normal_(0, 0.05, generator=torch.Generator().manual_seed(i))
    return lora


def test_a_folder_opens_with_all_that_belongs_to_it(folder: Path) -> None:
    model = load_pretrained(folder)
    assert (model.name, model.dtype, model.folder) == ("tiny", torch.bfloat16, folder)
    assert model.weights_sha256 == weights_sha256(folder)
    assert model.chat_format.stop_ids == {257}
    assert not any(parameter.requires_grad for parameter in model.decoder.parameters())
    assert load_pretrained(folder, "float32", name="other").name == "other"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_exported_version_opens_in_transformers_with_the_same_logits(folder: Path, dtype: str) -> None:
    model = load_pretrained(folder, dtype)
    lora = lora_of(model)
    sha256 = export_merged(model, lora, folder.parent / "merged")
    assert sha256 == weights_sha256(folder.parent / "merged") != model.weights_sha256
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder.parent / "merged", dtype=torch.float32)
    tokens = torch.arange(50) * 3 % 258
    with torch.no_grad():
        expected = reference(tokens[None]).logits[0]
    exact = load_pretrained(folder, "float32")
    torch.testing.assert_close(logits_of(exact, tokens, lora), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(logits_of(load_pretrained(folder.parent / "merged", "float32"), tokens), expected)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder.parent / "merged")
    chat = [{"role": "user", "content": "Hi"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert ids == model.chat_format.render([Message("user", "Hi")])


def test_a_version_is_an_adapter_or_a_whole_model(folder: Path) -> None:
    model = load_pretrained(folder, "float32")
    lora = lora_of(model)
    tokens = torch.arange(30)
    save_version(model, folder.parent / "adapter", lora=lora)
    loaded = Lora.load(folder.parent / "adapter", model.config, model.weights_sha256)
    torch.testing.assert_close(logits_of(model, tokens, loaded), logits_of(model, tokens, lora), atol=0, rtol=0)
    state = {name: tensor * 1.01 for name, tensor in model.decoder.state_dict().items()}
    sha256 = save_version(model, folder.parent / "full", state=state)
    whole = load_pretrained(folder.parent / "full", "float32")
    assert whole.weights_sha256 == sha256
    torch.testing.assert_close(whole.decoder.state_dict(), state)
    with pytest.raises(ValueError, match="either"):
        save_version(model, folder.parent / "none")
    with pytest.raises(InvalidInput) as caught:
        Lora.load(folder.parent / "adapter", whole.config, whole.weights_sha256)
    assert caught.value.code == "wrong_base"


def damage_config(folder: Path, **changes: object) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | changes))


def test_what_is_no_model_is_refused_by_what_is_wrong(folder: Path) -> None:
    def code(dtype: str = "bfloat16") -> str | None:
        with pytest.raises(InvalidInput) as caught:
            load_pretrained(folder, dtype)
        return caught.value.code

    assert code("float16") == "invalid_value"
    damage_config(folder, hidden_size=16, head_dim=4)
    assert code() == "damaged_weights"
    damage_config(folder, hidden_size=32, head_dim=8, num_hidden_layers=3)
    assert code() == "damaged_weights"
    damage_config(folder, num_hidden_layers=1)
    assert code() == "damaged_weights"
    damage_config(folder, num_hidden_layers=2, model_type="bert")
    assert code() == "unsupported_model"
    (folder / "config.json").write_text("{")
    assert code() == "not_a_model"
    shutil.rmtree(folder)
    assert code() == "not_a_model"


def test_end_tokens_of_the_generation_config_stop_too(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": [257, 10]}')
    assert load_pretrained(folder).chat_format.stop_ids == {257, 10}


def greedy(model: Pretrained, question: str, most: int = 24) -> str:
    """Answer at temperature 0 through the cache, as serving does."""
    tokens = model.chat_format.render([Message("user", question)])
    cache = KVCache(model.config, 16, 16, model.decoder.dtype)
    blocks = [list(range(16))]
    new, context, answer = tokens, len(tokens), []
    while len(answer) < most:
        layout = Layout.cached(cache, [0, len(new)], blocks, [context])
        with torch.no_grad():
            hidden = model.decoder(torch.tensor(new), layout.positions, layout)
            token = int(model.decoder.logits(hidden[layout.last_rows]).argmax())
        if token in model.chat_format.stop_ids:
            break
        answer.append(token)
        new, context = [token], context + 1
    return model.tokenizer.decode(answer)


@pytest.mark.model
def test_the_default_model_knows_the_capital_of_france(default_model: Path) -> None:
    model = load_pretrained(default_model, "bfloat16")
    assert greedy(model, "What is the capital of France?") == "The capital of France is Paris."


@pytest.mark.model
def test_the_default_model_equals_transformers(default_model: Path) -> None:
    model = load_pretrained(default_model, "float32")
    reference = transformers.AutoModelForCausalLM.from_pretrained(default_model, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(default_model)
    messages = [{"role": "user", "content": "Write 3 things about naïve cafés:\n\n\t1) …"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == model.chat_format.render([Message("user", messages[0]["content"])])
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(logits_of(model, torch.tensor(ids)), expected, atol=1e-4, rtol=0)
