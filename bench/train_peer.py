"""One row of `bench/train.py` by a peer, in the peers' environment: TRL's trainers, or a plain transformers loop.

Reads `{"peer", "row", "model", "threads", "steps", "work"}` from standard input; the last line is
`{"seconds", "peak_gib"}`. TRL runs as it does by default on a CPU (bfloat16 autocast over float32 weights) but without
gradient checkpointing, which would cost it a third; the plain loop has bfloat16 weights, padding, and AdamW.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import tempfile
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from bench.train_work import peak_gib

ANSWERS_AT_ONCE = 16
"""TRL's microbatch of GRPO: all 64 answers at once take 15.5 GiB, which this machine has not to spare."""
TRAINING = {"learning_rate": 1e-6, "lr_scheduler_type": "constant", "logging_steps": 1000, "save_strategy": "no"}


class StepTimes(TrainerCallback):  # type: ignore[misc]
    """Seconds of each optimizer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.begun = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.begun)


def plain(asked: dict[str, Any]) -> list[float]:
    """transformers in bfloat16, one padded batch a step, torch's AdamW."""
    model = AutoModelForCausalLM.from_pretrained(asked["model"], dtype=torch.bfloat16).train()
    if asked["row"].endswith("lora"):
        model = _with_lora(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)
    rows = asked["work"]["rows"]
    width = max(map(len, rows))
    seconds = []
    for _ in range(asked["steps"] + 1):
        begun = time.perf_counter()
        for start in range(0, len(rows), 8):
            part = rows[start : start + 8]
            width = max(map(len, part))
            ids = torch.tensor([row + [0] * (width - len(row)) for row in part])
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in part])
            model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - begun)
    return seconds


def _with_lora(model: Any) -> Any:
    from peft import get_peft_model

    return get_peft_model(model, _lora())


def _lora() -> Any:
    from peft import LoraConfig

    return LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")


def trl(asked: dict[str, Any]) -> list[float]:
    """TRL's trainer of the row."""
    import trl
    from datasets import Dataset

    row, work, repeat = asked["row"], asked["work"], asked["steps"] + 1
    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    times = StepTimes()
    common: dict[str, Any] = TRAINING | {"max_steps": repeat, "report_to": [], "gradient_checkpointing": False}
    common |= {"output_dir": tempfile.mkdtemp(), "use_cpu": True, "bf16": True, "disable_tqdm": True}
    # At most 8 sequences of different lengths are padded to one batch; the rest is accumulated.
    count = len(work["rows"]) or len(work["pairs"])
    common |= {"per_device_train_batch_size": min(8, count), "gradient_accumulation_steps": -(-count // 8)}
    made: dict[str, Any] = {"callbacks": [times], "processing_class": tokenizer}
    made["peft_config"] = _lora() if row.endswith("lora") else None
    if row in ("sft_full", "sft_lora", "memory"):
        data = Dataset.from_list([{"input_ids": ids} for ids in work["rows"]] * repeat)
        arguments = trl.SFTConfig(**common, max_length=None)
        trainer = trl.SFTTrainer(asked["model"], arguments, train_dataset=data, **made)
    elif row == "dpo_lora":
        text = tokenizer.decode
        rows = [{"prompt": text(p), "chosen": text(c), "rejected": text(r)} for p, c, r in work["pairs"]]
        arguments = trl.DPOConfig(**common, max_length=None)
        trainer = trl.DPOTrainer(asked["model"], args=arguments, train_dataset=Dataset.from_list(rows * repeat), **made)
    elif row == "reward":
        rows = [{"chosen_ids": p + c, "rejected_ids": p + r} for p, c, r in work["pairs"]]
        model = AutoModelForSequenceClassification.from_pretrained(asked["model"], num_labels=1, dtype=torch.float32)
        model.config.pad_token_id = tokenizer.pad_token_id
        arguments = trl.RewardConfig(**common, max_length=None)
        trainer = trl.RewardTrainer(model, args=arguments, train_dataset=Dataset.from_list(rows * repeat), **made)
    else:
        trainer = _grpo(asked, tokenizer, common, made, Dataset)
    trainer.train()
    return times.seconds


def _grpo(asked: dict[str, Any], tokenizer: Any, common: dict[str, Any], made: dict[str, Any], dataset: Any) -> Any:
    import trl

    work = asked["work"]
    answers = len(work["prompts"]) * work["group"]
    common |= {
        "per_device_train_batch_size": min(ANSWERS_AT_ONCE, answers),
        "gradient_accumulation_steps": max(1, answers // ANSWERS_AT_ONCE),
        "num_generations": work["group"],
    }
    common |= {"max_completion_length": work["answer"], "beta": 0.0, "temperature": 1.0}
    common["generation_kwargs"] = {"min_new_tokens": work["answer"]}
    rows = [{"prompt": tokenizer.decode(ids)} for ids in work["prompts"]] * (asked["steps"] + 1)

    def reward(completions: list[str], **_: Any) -> list[float]:
        return [random.random() for _ in completions]

    class Split(trl.GRPOTrainer):  # type: ignore[misc,name-defined]
        def _generate_and_score_completions(self, inputs: Any) -> Any:
            begun = time.perf_counter()
            out = super()._generate_and_score_completions(inputs)
            asked.setdefault("generate", []).append(time.perf_counter() - begun)
            return out

    return Split(asked["model"], reward, trl.GRPOConfig(**common), train_dataset=dataset.from_list(rows), **made)


def main() -> None:
    asked = json.load(sys.stdin)
    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(asked["threads"])
    seconds = {"trl": trl, "transformers": plain}[asked["peer"]](asked)
    counted = seconds[1:] or seconds  # where one step takes minutes there is no warm-up
    found = {
        "seconds": statistics.median(counted),
        "peak_gib": peak_gib(),
    }
    if "generate" in asked:
        found["generate"] = statistics.median(asked["generate"][1:] or asked["generate"])
        found["train"] = found["seconds"] - found["generate"]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
