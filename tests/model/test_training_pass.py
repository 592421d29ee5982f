"""The hand-written bfloat16 pass against autograd in float32: values, and the gradient of every parameter."""

import pytest
import torch
from torch import Tensor

from tests.model.families import tiny_decoder
from tutee.model.gradients import send_gradient
from tutee.model.layout import Layout
from tutee.model.logprobs import token_logprobs
from tutee.model.lora import Lora

FAMILIES: list[dict[str, object]] = [
    {},
    {"sliding_window": 6},
    {"model_type": "qwen3", "qk_norm": True},
    {"attention_bias": True},
    {"tie_word_embeddings": False},
]


def gradients(dtype: torch.dtype, changes: dict[str, object], full: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """(log-probs, gradients by name) of one decoder and a LoRA that changes something, on four sequences."""
    decoder = tiny_decoder(dtype, **changes).requires_grad_(full)
    lora = Lora(decoder.config, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for b in lora.B.values():
            b.normal_(0, 0.05, generator=generator)
    layout = Layout.packed([33, 7, 20, 5], lora)
    tokens_T = torch.arange(65) % 97
    logprob_T, _ = token_logprobs(decoder, decoder(tokens_T, layout.positions, layout), tokens_T * 7 % 97)
    (logprob_T * torch.linspace(-1, 2, 65)).sum().backward()
    named = [*decoder.named_parameters(), *lora.named_parameters()]
    return logprob_T.detach(), {name: p.grad.float() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("changes", FAMILIES, ids=str)
def test_gradients_are_those_of_autograd(changes: dict[str, object]) -> None:
    exact, expected = gradients(torch.float32, changes)
    fast, got = gradients(torch.bfloat16, changes)
    assert (exact - fast).abs().max() < 0.1
    assert got.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.cosine_similarity(gradient.flatten(), got[name].flatten(), dim=0) > 0.995, name
        assert got[name].norm().item() == pytest.approx(gradient.norm().item(), rel=0.03), name


def test_frozen_weights_get_no_gradient_and_change_none() -> None:
    _, everything = gradients(torch.bfloat16, {})
    _, adapter = gradients(torch.bfloat16, {}, full=False)
    assert adapter.keys() == {name for name in everything if name.startswith(("A.", "B."))}
    for name, gradient in adapter.items():
        torch.testing.assert_close(gradient, everything[name], atol=0, rtol=0)


@pytest.mark.row(17)
def test_gradients_of_two_microbatches_add() -> None:
    decoder = tiny_decoder(torch.bfloat16)
    lora = Lora(decoder.config, seed=1)
    layout = Layout.packed([9], lora)
    tokens_T = torch.arange(9)

    def backward() -> Tensor:
        decoder(tokens_T, layout.positions, layout).sum().backward()
        gradient = lora.B["model/layers/0/mlp/up_proj"].grad
        assert gradient is not None
        return gradient.clone()

    once = backward()
    torch.testing.assert_close(backward(), 2 * once, atol=0, rtol=0)


def test_a_masters_gradient_is_not_rounded_and_adds_up() -> None:
    """What `.grad` holds in bfloat16 is the master's, rounded; a master that is gone gets nothing."""

    def backward(with_masters: bool) -> dict[str, Tensor]:
        decoder = tiny_decoder(torch.bfloat16).requires_grad_(True)
        layout = Layout.packed([9])
        blocks = {name: p for name, p in decoder.named_parameters() if p.dtype == torch.bfloat16}
        masters = {name: p.detach().float() for name, p in blocks.items()}
        for name, p in blocks.items():
            send_gradient(p, masters[name])
        if not with_masters:
            del masters
        for _ in range(2 if with_masters else 1):
            decoder(torch.arange(9), layout.positions, layout).sum().backward()
        kept = masters if with_masters else blocks
        assert all(p.grad is None for p in blocks.values()) is with_masters
        return {name: p.grad for name, p in kept.items() if p.grad is not None}

    twice, once = backward(with_masters=True), backward(with_masters=False)
    assert twice.keys() == once.keys() != set()
    for name, gradient in twice.items():
        assert gradient.dtype == torch.float32
        torch.testing.assert_close((gradient / 2).bfloat16(), once[name], atol=0, rtol=2**-7)
