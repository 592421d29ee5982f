"""Writes fixtures/trl.json: what TRL's own trainers compute on small random tensors, losses and gradients.

    make bench-env && .venv-bench/bin/python tests/train/make_trl_fixture.py

The loss methods of TRL's trainers are called as they are, on stand-ins for the trainer and the model that return given
log-probs; so the numbers are TRL's, not ours. Run again when TRL changes; `test_trl.py` compares.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import trl
from trl import DPOTrainer, GRPOTrainer, KTOTrainer, RewardTrainer

PROMPT = 2
"""Masked tokens before each answer."""
DPO_CASES: dict[str, dict[str, Any]] = {
    "sigmoid": {},
    "sigmoid_smooth": {"label_smoothing": 0.2, "loss": "aot_unpaired"},
    "ipo": {"loss": "ipo"},
    "hinge": {"loss": "hinge"},
    "robust": {"loss": "robust", "label_smoothing": 0.1},
    "exo": {"loss": "exo_pair", "label_smoothing": 0.1},
    "nca": {"loss": "nca_pair"},
    "bco": {"loss": "bco_pair"},
    "sppo": {"loss": "sppo_hard"},
    "apo_zero": {"loss": "apo_zero"},
    "apo_down": {"loss": "apo_down"},
    "discopop": {"loss": "discopop"},
    "sigmoid_norm": {"loss": "sigmoid_norm"},
    "sigmoid_and_sft": {"loss": ["sigmoid", "sft"], "weights": [1.0, 0.5]},
}
GRPO_CASES: dict[str, dict[str, Any]] = {
    "grpo": {"loss": "grpo"},
    "grpo_kl": {"loss": "grpo", "beta": 0.04},
    "grpo_kl_corrected": {"loss": "grpo", "beta": 0.04, "corrected": True},
    "dr_grpo": {"loss": "dr_grpo"},
    "dapo": {"loss": "dapo", "high": 0.28},
    "gspo": {"loss": "grpo", "level": "sequence", "low": 0.05, "high": 0.08},
}


def stand_in(**fields: Any) -> SimpleNamespace:
    """Whatever a loss method asks of its trainer besides the settings of the case."""
    accelerator = SimpleNamespace(
        device="cpu",
        num_processes=1,
        sync_gradients=True,
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, reduction: x,
    )
    metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    return SimpleNamespace(
        accelerator=accelerator,
        _metrics=metrics,
        _total_train_tokens=0,
        _tp_size=1,
        aux_loss_enabled=False,
        precompute_ref_logps=True,
        model=SimpleNamespace(training=True),
        **fields,
    )


def answers(lengths: list[int], generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(mask [B, L] over prompt and answer, random log-probs [B, L - 1], 0 outside the answers)."""
    width = PROMPT + max(lengths)
    mask = torch.tensor([[0] * PROMPT + [1] * n + [0] * (width - PROMPT - n) for n in lengths])
    logprobs = -torch.rand(len(lengths), width - 1, generator=generator) * 2
    return mask, logprobs * mask[:, 1:]


def model_that_says(logprobs: torch.Tensor) -> Any:
    """A model whose output is these log-probs."""
    zero = torch.zeros_like(logprobs)
    outputs = SimpleNamespace(log_probs=logprobs, entropy=zero, mean_logits=zero, is_top1=zero.bool())
    return lambda **inputs: outputs


def rows(values: torch.Tensor, lengths: list[int]) -> list[list[float]]:
    """The answers' own numbers, a list each."""
    return [row[PROMPT - 1 : PROMPT - 1 + n].tolist() for row, n in zip(values, lengths, strict=True)]


def dpo() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    lengths = [4, 2, 5, 3, 3, 6, 1, 4]  # four chosen, then four rejected
    mask, logprobs = answers(lengths, generator)
    _, reference = answers(lengths, generator)
    cases = {}
    for name, case in DPO_CASES.items():
        own = logprobs.clone().requires_grad_()
        if case.get("loss") == "aot_unpaired":  # a pair at a time, so that its sorting over the batch does nothing
            parts = [torch.tensor([i, i + 4]) for i in range(4)]
            value = torch.stack([dpo_value(own[i], reference[i], mask[i], case) for i in parts]).mean()
        else:
            value = dpo_value(own, reference, mask, case)
        value.backward()
        cases[name] = {"loss": value.item(), "gradient": rows(own.grad, lengths)}
    return {"logprobs": rows(logprobs, lengths), "reference": rows(reference, lengths), "beta": 0.5, "cases": cases}


def dpo_value(
    logprobs: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor, case: dict[str, Any]
) -> torch.Tensor:
    """TRL's loss of a batch: chosen answers first, then the rejected ones."""
    loss = case.get("loss", "sigmoid")
    kinds = loss if isinstance(loss, list) else [loss]
    trainer = stand_in(
        beta=0.5,
        loss_types=kinds,
        loss_weights=case.get("weights", [1.0] * len(kinds)),
        label_smoothing=case.get("label_smoothing", 0.0),
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        use_weighting=False,
        args=SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None),
    )
    chosen, rejected = reference.sum(1).chunk(2)
    inputs = {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    return DPOTrainer._compute_loss(trainer, model_that_says(logprobs), inputs, False)


def kto() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    lengths, labels = [3, 5, 2, 4, 1], [True, False, True, True, False]
    mask, logprobs = answers(lengths, generator)
    _, reference = answers(lengths, generator)
    cases = {}
    for name, kl in {"kto": 0.4, "kto_negative_kl": -0.3, "apo_zero_unpaired": None}.items():
        own = logprobs.clone().requires_grad_()
        trainer = stand_in(
            beta=0.3,
            loss_type="apo_zero_unpaired" if kl is None else "kto",
            calculate_KL=kl is not None,
            desirable_weight=1.2,
            undesirable_weight=0.8,
            args=SimpleNamespace(gradient_checkpointing_kwargs=None),
            _compute_kl_logps=lambda model, batch, kl=kl: None if kl is None else torch.full((5,), kl),
        )
        inputs = {
            "input_ids": torch.ones_like(mask),
            "attention_mask": torch.ones_like(mask),
            "completion_mask": mask,
            "label": torch.tensor(labels),
            "ref_logps": reference.sum(1),
            "ref_KL_logps": torch.zeros(5),
        }
        value = KTOTrainer._compute_loss(trainer, model_that_says(own), inputs, False)
        value.backward()
        cases[name] = {"loss": value.item(), "gradient": rows(own.grad, lengths), "kl": kl}
    said = {"logprobs": rows(logprobs, lengths), "reference": rows(reference, lengths), "labels": labels}
    return {**said, "beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.8, "cases": cases}


def reward() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(8, generator=generator)  # four chosen, then four rejected
    margins = torch.tensor([0.0, 0.5, 1.0, 0.25])
    cases = {}
    for name, (margin, centre) in {"plain": (False, None), "margin": (True, None), "centred": (True, 0.1)}.items():
        own = scores.clone().requires_grad_()
        trainer = stand_in(args=SimpleNamespace(center_rewards_coefficient=centre))
        inputs: dict[str, Any] = {"attention_mask": torch.ones(8, 3)}
        if margin:
            inputs["margin"] = margins
        output = SimpleNamespace(logits=own[:, None])
        value = RewardTrainer.compute_loss(trainer, lambda output=output, margin=None, **rest: output, inputs)
        value.backward()
        cases[name] = {"loss": value.item(), "gradient": own.grad.tolist(), "margins": margin, "centre": centre or 0.0}
    return {"scores": scores.tolist(), "margins": margins.tolist(), "cases": cases}


def grpo() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(4)
    lengths = [4, 2, 5, 3, 1, 6]
    mask, logprobs = answers(lengths, generator)
    mask, logprobs = mask[:, PROMPT:], logprobs[:, PROMPT - 1 :]
    old = logprobs + 0.4 * torch.randn(logprobs.shape, generator=generator) * mask
    reference = logprobs + 0.4 * torch.randn(logprobs.shape, generator=generator) * mask
    advantages = torch.randn(len(lengths), generator=generator)
    cases = {}
    for name, case in GRPO_CASES.items():
        own = logprobs.clone().requires_grad_()
        trainer = stand_in(
            loss_type=case["loss"],
            beta=case.get("beta", 0.0),
            epsilon_low=case.get("low", 0.2),
            epsilon_high=case.get("high", 0.2),
            importance_sampling_level=case.get("level", "token"),
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=None,
            use_vllm=False,
            max_completion_length=8,
            current_gradient_accumulation_steps=1,
            _entropy_bonus_enabled=False,
            args=SimpleNamespace(
                delta=None, use_bias_correction_kl=case.get("corrected", False), steps_per_generation=1
            ),
            _get_per_token_logps_and_entropies=lambda *a, own=own, **k: (own, torch.zeros_like(own), None),
        )
        inputs = {
            "prompt_ids": torch.ones(len(lengths), PROMPT, dtype=torch.int64),
            "prompt_mask": torch.ones(len(lengths), PROMPT, dtype=torch.int64),
            "completion_ids": torch.ones_like(mask),
            "completion_mask": mask,
            "advantages": advantages,
            "old_per_token_logps": old,
            "ref_per_token_logps": reference,
            "num_items_in_batch": mask.sum(),
        }
        value = GRPOTrainer._compute_loss(trainer, own, inputs)
        value.backward()
        gradient = [row[:n].tolist() for row, n in zip(own.grad, lengths, strict=True)]
        cases[name] = {"loss": value.item(), "gradient": gradient}
    streams = {"logprobs": logprobs, "old": old, "reference": reference}
    said = {k: [row[:n].tolist() for row, n in zip(v, lengths, strict=True)] for k, v in streams.items()}
    return {**said, "advantages": advantages.tolist(), "max_tokens": 8, "cases": cases}


def main() -> None:
    found = {"trl": trl.__version__, "dpo": dpo(), "kto": kto(), "reward": reward(), "grpo": grpo()}
    path = Path(__file__).parent / "fixtures" / "trl.json"
    path.parent.mkdir(exist_ok=True)
    lines = [f"{json.dumps(name)}: {json.dumps(part)}" for name, part in found.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{path}: TRL {trl.__version__}, {sum(len(part['cases']) for part in list(found.values())[1:])} cases")


if __name__ == "__main__":
    main()
