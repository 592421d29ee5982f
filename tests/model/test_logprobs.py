"""Log-probs and entropies against PyTorch's own, values and gradients."""

import pytest
import torch

from tests.model.families import tiny_decoder
from tutee.errors import InvalidInput
from tutee.model.layout import Layout
from tutee.model.logprobs import log_softmax, score, token_logprobs
from tutee.model.lora import LoraConfig


@pytest.mark.row(21)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [4, 256])
@pytest.mark.parametrize("tied", [True, False])
def test_values_and_gradients_equal_the_plain_computation(temperature: float, chunk: int, tied: bool) -> None:
    decoder = tiny_decoder(tie_word_embeddings=tied).requires_grad_(True)
    hidden = torch.randn(10, 48, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    targets = torch.arange(10) * 9 % 97
    weights = torch.linspace(-1, 2, 10)
    logprobs, entropy = token_logprobs(decoder, hidden, targets, temperature, chunk)
    (logprobs * weights).sum().backward()
    got = hidden.grad.clone(), decoder.head_weight.grad.clone()
    hidden.grad = decoder.head_weight.grad = None
    plain = (hidden @ decoder.head_weight.t() / temperature).log_softmax(-1)
    (plain[range(10), targets] * weights).sum().backward()
    torch.testing.assert_close(logprobs, plain[range(10), targets], atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, -(plain.exp() * plain).sum(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(got[0], hidden.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(got[1], decoder.head_weight.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("rows", "width", "vocabulary"), [(10, 48, 97), (300, 64, 128), (1, 96, 1000)])
def test_in_bfloat16_the_head_is_finer(rows: int, width: int, vocabulary: int) -> None:
    """Log-probs keep 16 bits, gradients within bfloat16's resolution."""
    decoder = tiny_decoder(torch.bfloat16, hidden_size=width, vocab_size=vocabulary).requires_grad_(True)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator).mul_(5).requires_grad_(True)
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    weights = torch.randn(rows, generator=generator)
    logprobs, entropy = token_logprobs(decoder, hidden, targets, temperature=0.8)
    (logprobs * weights).sum().backward()
    exact, head = (
        hidden.detach().double().requires_grad_(True),
        decoder.head_weight.detach().double().requires_grad_(True),
    )
    plain = (exact @ head.t() / 0.8).log_softmax(-1)
    (plain[range(rows), targets] * weights).sum().backward()
    torch.testing.assert_close(logprobs.double(), plain[range(rows), targets], atol=3e-4, rtol=0)
    torch.testing.assert_close(entropy.double(), -(plain.exp() * plain).sum(-1), atol=1e-4, rtol=1e-4)
    for got, expected in ((hidden.grad, exact.grad), (decoder.head_weight.grad, head.grad)):
        assert got is not None
        assert expected is not None
        assert (got.double() - expected).norm() < 0.01 * expected.norm()


@pytest.mark.row(21)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_rows_have_no_log_probs(dtype: torch.dtype) -> None:
    decoder = tiny_decoder(dtype).requires_grad_(True)
    hidden = torch.zeros(0, 48, requires_grad=True)
    logprobs, entropy = token_logprobs(decoder, hidden, torch.zeros(0, dtype=torch.int64))
    logprobs.sum().backward()
    assert (len(logprobs), len(entropy)) == (0, 0)
    assert decoder.head_weight.grad is not None
    assert not decoder.head_weight.grad.any()


def test_an_adapter_on_the_head_is_refused_not_ignored() -> None:
    with pytest.raises(InvalidInput, match="targets"):
        LoraConfig(targets=("q_proj", "lm_head"))


def test_a_frozen_head_gets_no_gradient() -> None:
    decoder = tiny_decoder()
    hidden = torch.randn(6, 48, requires_grad=True)
    logprobs, entropy = token_logprobs(decoder, hidden, torch.arange(6))
    assert not entropy.requires_grad
    logprobs.sum().backward()
    assert decoder.head_weight.grad is None
    assert hidden.grad is not None


@pytest.mark.parametrize("rows", [1, 2, 5, 64])
def test_a_row_of_log_softmax_does_not_depend_on_the_others(rows: int) -> None:
    logits = torch.randn(64, 49152, generator=torch.Generator().manual_seed(0)) * 5
    torch.testing.assert_close(log_softmax(logits[:rows].clone()), log_softmax(logits)[:rows], atol=0, rtol=0)


@pytest.mark.row(4, 20)
def test_score_does_not_depend_on_how_sequences_are_packed() -> None:
    decoder = tiny_decoder()
    sequences = [[1, 2, 3, 4, 5], [7], [], list(range(40)), [9, 8]]
    alone = [score(decoder, [sequence])[0] for sequence in sequences]
    for budget in (1, 8, 4096):
        for got, expected in zip(score(decoder, sequences, token_budget=budget), alone, strict=True):
            torch.testing.assert_close(got, expected, atol=0, rtol=0)
    assert [len(logprobs) for logprobs in alone] == [4, 0, 0, 39, 1]


def test_temperature_zero_is_refused() -> None:
    with pytest.raises(InvalidInput):
        token_logprobs(tiny_decoder(), torch.zeros(1, 48), torch.zeros(1, dtype=torch.int64), temperature=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_to_one_prompt_are_scored_as_if_each_were_alone(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = tiny_decoder(dtype)
    draw = torch.Generator().manual_seed(0)

    def some(count: int) -> list[int]:
        tokens: list[int] = torch.randint(0, 97, (count,), generator=draw).tolist()
        return tokens

    one, other = some(20), some(40)
    alike = [[*one, *some(n)] for n in (1, 2, 9)] + [[*other, *some(n)] for n in (6, 3)]
    sequences = [*alike[:3], some(5), [3], *alike[3:], other, [*other[:30], *some(4)], some(2)]
    alone = [score(decoder, [tokens])[0] for tokens in sequences]
    computed = []
    packed = Layout.packed.__func__

    def counting(lengths: list[int], *rest: object) -> Layout:
        computed.append(sum(lengths))
        layout: Layout = packed(Layout, lengths, *rest)
        return layout

    monkeypatch.setattr(Layout, "packed", counting)
    together = score(decoder, sequences, token_budget=64)
    assert sum(computed) < sum(len(tokens) - 1 for tokens in sequences) - 100
    for found, expected in zip(together, alone, strict=True):
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-6 if dtype == torch.float32 else 0.05)
