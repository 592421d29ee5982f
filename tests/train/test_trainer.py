"""The five verbs: gradients do not depend on how a step is cut, and what was trained is what is sampled and saved."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutee.engine.engine import Engine
from tutee.engine.request import SamplingParams
from tutee.errors import Diverged
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Group, Loss, pack_groups, totals
from tutee.train.dpo import dpo_loss, with_references
from tutee.train.encode import encode_tokens
from tutee.train.sft import sequence_mean_loss, token_mean_loss
from tutee.train.trainer import Trainer, TrainerConfig

from .tiny_training import examples, singles, tiny_model


def moved(trainer: Trainer) -> Trainer:
    """A trainer whose LoRA changes something, so that every gradient is other than zero."""
    assert trainer.lora is not None
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.lora.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return trainer


def gradients(
    model: Pretrained, parts: list[list[Group]], loss: Loss, full: bool = False
) -> tuple[float, list[torch.Tensor]]:
    """(loss of the step, gradients) with the step's groups cut into `parts`."""
    trainer = Trainer(model, TrainerConfig(rank=4, full=full))
    if not full:
        moved(trainer)
    denominators = totals([group for part in parts for group in part])
    value = sum(trainer.forward_backward(pack_groups(part), loss, denominators).total("loss") for part in parts)
    parameters = list(model.decoder.parameters() if full else trainer.lora.parameters())
    grads = [p.grad.clone() for p in parameters]
    for p in parameters if full else ():
        p.grad = None
    return value, grads


@pytest.mark.parametrize("loss", [token_mean_loss, sequence_mean_loss])
@pytest.mark.parametrize("full", [False, True])
def test_accumulation_and_packing_do_not_change_the_step(model: Pretrained, loss: Loss, full: bool) -> None:
    """1x8 = 2x4 = 8x1, with uneven lengths: the denominators are the whole step's. 8x1 is also unpacked."""
    groups = singles(8)
    whole_loss, whole = gradients(model, [groups], loss, full)
    for size in (4, 1):
        parts = [groups[i : i + size] for i in range(0, 8, size)]
        part_loss, part = gradients(model, parts, loss, full)
        assert part_loss == pytest.approx(whole_loss, abs=1e-6)
        for a, b in zip(whole, part, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_accumulation_does_not_change_a_dpo_step(model: Pretrained) -> None:
    tokens = examples(8)
    pairs = with_references(
        [Group.pair(tokens[i], tokens[i + 1], weight=i + 1.0) for i in range(0, 8, 2)], Trainer(model).score
    )
    whole_loss, whole = gradients(model, [pairs], dpo_loss)
    part_loss, part = gradients(model, [[pair] for pair in pairs], dpo_loss)
    assert part_loss == pytest.approx(whole_loss, abs=1e-6)
    for a, b in zip(whole, part, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_a_neighbour_in_the_pack_changes_nothing(model: Pretrained) -> None:
    first, poison = singles(1, seed=1)[0], singles(1, seed=2)[0]
    alone, _ = gradients(model, [[first]], sequence_mean_loss)
    trainer = moved(Trainer(model, TrainerConfig(rank=4)))
    batch = pack_groups([poison, first])
    nll = []

    def only_the_first(logprob_N: torch.Tensor, batch, totals):  # type: ignore[no-untyped-def]
        nll.append(-logprob_N[batch.example_N == 1].mean().item())
        return token_mean_loss(logprob_N, batch, totals)

    trainer.forward_backward(batch, only_the_first, totals([poison, first]))
    assert nll[0] == pytest.approx(alone, abs=1e-6)


def test_dpo_begins_at_exactly_ln_2_with_the_samplers_own_logprobs(model: Pretrained) -> None:
    prompts = [[1, 2, 3, 4], [9, 8, 7]]
    engine = Engine(model, max_batch=4, cache_tokens=1024)
    try:
        drawn = engine.generate(prompts, SamplingParams(max_tokens=12, seed=5, logprobs=0), n=2)
    finally:
        engine.close()
    pairs = [
        Group.pair(*(encode_tokens(model, prompt, c.token_ids, c.logprobs) for c in answers))
        for prompt, answers in zip(prompts, drawn, strict=True)
    ]
    metrics = Trainer(model).forward(pack_groups(pairs), dpo_loss, totals(pairs))
    assert metrics.values()["dpo_loss"] == pytest.approx(math.log(2), abs=1e-6)
    own = with_references(
        [Group.pair(*(replace(e, reference_logprobs=None) for e in pair.examples)) for pair in pairs],
        Trainer(model).score,
    )
    exact = Trainer(model).forward(pack_groups(own), dpo_loss, totals(own)).values()
    assert exact["dpo_loss"] == torch.tensor(2.0).log().item()
    assert exact["reward_margin"] == 0.0


def test_the_adapters_change_reaches_the_sampler_and_the_file(model: Pretrained, tmp_path: Path) -> None:
    """The sampler's log-probs after a step are the trainer's; the base does not move; the file holds the same."""
    trainer = Trainer(model, TrainerConfig(rank=4))
    groups = singles(4)
    before = trainer.score([groups[0].examples[0].tokens])[0]
    for _ in range(3):
        trainer.forward_backward(pack_groups(groups), token_mean_loss, totals(groups))
        trainer.optim_step(1e-2)
    after = trainer.score([groups[0].examples[0].tokens])[0]
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(trainer.score([groups[0].examples[0].tokens], reference=True)[0], before)
    engine = Engine(model, max_batch=4, cache_tokens=1024)
    try:
        prompt = [1, 2, 3]
        [[c]] = trainer.sample(engine, [prompt], SamplingParams(max_tokens=10, seed=1, logprobs=0))
    finally:
        engine.close()
    sequence = [*prompt, *c.token_ids]
    torch.testing.assert_close(trainer.score([sequence])[0][2:], torch.tensor(c.logprobs), atol=1e-6, rtol=0)
    trainer.save(tmp_path / "version")
    loaded = Lora.load(tmp_path / "version", model.config, model.weights_sha256)
    torch.testing.assert_close(Trainer(model, start=loaded).score([sequence])[0], trainer.score([sequence])[0])


def test_a_non_finite_step_changes_nothing_and_three_in_a_row_stop(model: Pretrained) -> None:
    trainer = Trainer(model, TrainerConfig(rank=4))
    groups = singles(2)

    def poisoned(logprob_N, batch, totals):  # type: ignore[no-untyped-def]
        loss, metrics = token_mean_loss(logprob_N, batch, totals)
        return loss * math.inf, metrics

    before = [p.clone() for p in trainer.lora.parameters()]
    for loss, skipped in ((poisoned, True), (poisoned, True), (token_mean_loss, False), (poisoned, True)):
        trainer.forward_backward(pack_groups(groups), loss, totals(groups))
        if not skipped:
            assert all(torch.equal(a, b) for a, b in zip(before, trainer.lora.parameters(), strict=True))
        assert trainer.optim_step(1e-3).skipped is skipped
    assert trainer.skipped == 3
    trainer.forward_backward(pack_groups(groups), poisoned, totals(groups))
    trainer.optim_step(1e-3)
    trainer.forward_backward(pack_groups(groups), poisoned, totals(groups))
    with pytest.raises(Diverged, match="3 steps in a row"):
        trainer.optim_step(1e-3)


def test_one_step_is_adamw_after_clipping(model: Pretrained) -> None:
    """Loshchilov & Hutter 2019: at the first step the corrected moments are g and g², of the clipped gradient."""
    config = TrainerConfig(rank=4, max_grad_norm=0.01, eps=1e-3)
    trainer = moved(Trainer(model, config))
    groups = singles(4)
    trainer.forward_backward(pack_groups(groups), token_mean_loss, totals(groups))
    grads = [p.grad.clone() for p in trainer.lora.parameters()]
    before = [p.detach().clone() for p in trainer.lora.parameters()]
    norm = torch.cat([g.flatten() for g in grads]).norm()
    report = trainer.optim_step(1e-2)
    assert report.grad_norm == pytest.approx(norm.item(), rel=1e-5)
    for old, grad, new in zip(before, grads, trainer.lora.parameters(), strict=True):
        clipped = grad * 0.01 / (norm + 1e-6)
        torch.testing.assert_close(new, old - 1e-2 * clipped / (clipped.abs() + 1e-3), atol=1e-6, rtol=1e-4)


def test_full_training_in_bfloat16_keeps_float32_masters(tmp_path: Path) -> None:
    """Steps far below bfloat16's resolution still add up."""
    model = tiny_model(torch.bfloat16)
    trainer = Trainer(model, TrainerConfig(full=True))
    groups = singles(4)
    losses = []
    for _ in range(12):
        metrics = trainer.forward_backward(pack_groups(groups), token_mean_loss, totals(groups))
        losses.append(metrics.values()["train_loss"])
        trainer.optim_step(1e-4)
    assert losses[-1] < losses[0] - 0.01
    tensors, _ = trainer.state()
    assert all(tensor.dtype == torch.float32 for name, tensor in tensors.items() if name.startswith("parameter."))
