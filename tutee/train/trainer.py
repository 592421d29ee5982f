"""The five verbs under every method: forward_backward, optim_step, sample, save, load.

Owns what is hard once: which parameters learn (a LoRA, or all weights through float32 masters when the decoder
computes in bfloat16), gradient accumulation, clipping, the guard against non-finite steps, and the files. Knows no
loss, no schedule, no data: a loss is any function of log-probs and streams (`sft.py`, `dpo.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tutee.engine.engine import Engine
from tutee.engine.request import Completion, SamplingParams
from tutee.errors import Diverged, InvalidInput
from tutee.model import workspace
from tutee.model.decoder import Decoder
from tutee.model.gradients import Places, send_gradient
from tutee.model.layout import Layout
from tutee.model.logprobs import score, token_logprobs
from tutee.model.lora import Lora, LoraConfig
from tutee.model.pretrained import Pretrained, save_version
from tutee.model.value_head import ValueHead
from tutee.train import parallel
from tutee.train.batch import Batch, Loss, Totals
from tutee.train.metrics import Metrics
from tutee.train.optimizers import MomentsName, Optimizer, OptimizerName
from tutee.train.options import require

HEAD_PREFIX = "value_head."
NORM = "grad_norm"


@dataclass(frozen=True, slots=True)
class TrainerConfig:
    """What learns and how one step is taken."""

    full: bool = False
    """All weights instead of a LoRA."""
    shard: bool = False
    """Under torchrun: one copy of the weights and moments cut over the processes (FSDP2), not a copy each."""
    rank: int = 16
    """Rank of the LoRA's matrices: how much it can hold."""
    alpha: float = 32.0
    """The LoRA's change is scaled by alpha / rank."""
    optimizer: OptimizerName = "adamw"
    """`muon` is for pretraining: matrices of the blocks by Muon, the rest by AdamW."""
    momentum: float = 0.95
    """Muon's."""
    moments: Literal["auto", "float32", "bfloat16"] = "auto"
    """What AdamW keeps its two moments in; bfloat16, rounded at random, takes half of the memory. Auto: as the
    network's matrices, where all weights learn on a CPU; else float32."""
    beta1: float = 0.9
    """AdamW's memory of the gradient."""
    beta2: float = 0.98
    """AdamW's memory of the squared gradient."""
    eps: float = 1e-8
    """Added to AdamW's denominator; 1e-5 is usual in RL."""
    weight_decay: float = 0.0
    """Decoupled (AdamW); norms and other vectors are never decayed."""
    max_grad_norm: float = 1.0
    """Clip the accumulated gradient to this norm."""
    max_skipped: int = 3
    """This many non-finite steps in a row stop the run."""
    temperature: float = 1.0
    """Log-probs are those of softmax(logits / temperature): in reinforcement, of what the sampler draws from."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature", "'temperature' must be above 0.")
        require(1 <= self.rank <= 1024, "rank", "'rank' must be between 1 and 1024.")
        require(self.alpha > 0, "alpha", "'alpha' must be above 0.")
        require(0 <= self.beta1 < 1 and 0 <= self.beta2 < 1, "beta1", "'beta1' and 'beta2' must be in [0, 1).")
        require(self.full or not self.shard, "shard", "'shard' cuts the weights in training: it needs full=true.")
        require(self.eps > 0, "eps", "'eps' must be above 0.")
        require(self.weight_decay >= 0, "weight_decay", "'weight_decay' must not be negative.")
        require(0 <= self.momentum < 1, "momentum", "'momentum' must be in [0, 1).")
        require(self.optimizer in ("adamw", "muon"), "optimizer", "'optimizer' is adamw or muon.")
        require(self.full or self.optimizer == "adamw", "optimizer", "'muon' moves all weights: it needs full=true.")
        known = ("auto", "float32", "bfloat16")
        require(self.moments in known, "moments", f"'moments' is one of {', '.join(known)}.")
        require(
            self.moments != "bfloat16" or not (self.shard or self.optimizer == "muon"),
            "moments",
            "'moments' in bfloat16 are AdamW's, of whole weights: not with 'muon' or 'shard'.",
        )
        require(self.max_grad_norm > 0, "max_grad_norm", "'max_grad_norm' must be above 0.")
        require(self.max_skipped >= 1, "max_skipped", "'max_skipped' must be at least 1.")

    def moments_of(self, matrices: torch.dtype, device: torch.device) -> MomentsName:
        """What `moments` means for a network."""
        if self.moments != "auto":
            return self.moments
        plain = self.full and not self.shard and self.optimizer == "adamw"
        return "bfloat16" if plain and matrices == torch.bfloat16 and device.type == "cpu" else "float32"


@dataclass(frozen=True, slots=True)
class StepReport:
    """What an optimizer step did. `grad_norm` is before clipping; a skipped step changed nothing."""

    grad_norm: float
    skipped: bool
    metrics: Metrics
    """Those that the step was given, as numbers that are here."""


class Trainer:
    """One policy, or with a head one value model, in training on one base model.

    Without a LoRA it trains `model.decoder` itself, in place.
    """

    def __init__(
        self,
        model: Pretrained,
        config: TrainerConfig | None = None,
        start: Lora | None = None,
        head: ValueHead | None = None,
    ) -> None:
        """Begin with a fresh LoRA, with a copy of `start`, or with all weights (`config.full`).

        Args:
            head: trains a value model: losses then get `value_T`, the head's output on every row, not log-probs.
        """
        self.model = model
        self.config = config or TrainerConfig()
        self.head = head
        self.lora: Lora | None = None
        self.skipped = 0
        self._skipped_in_a_row = 0
        self._whole: Decoder | None = None
        self.ranks = parallel.current()
        model.decoder.requires_grad_(self.config.full)
        if self.config.shard and self.ranks.size > 1:
            parallel.shard(model.decoder)
        if self.config.full:
            self._live = dict(model.decoder.named_parameters())
        else:
            lora = LoraConfig(rank=self.config.rank, alpha=self.config.alpha)
            self.lora = Lora(model.config, lora, seed=self.config.seed) if start is None else start.scaled(1.0)
            self._live = dict(self.lora.named_parameters())
        if head is not None:
            self._live |= {f"{HEAD_PREFIX}{name}": parameter for name, parameter in head.named_parameters()}
        # The optimizer moves float32 masters; a bfloat16 weight would lose updates smaller than 1/256 of itself.
        self._masters = {
            name: live if live.dtype == torch.float32 else live.detach().float().requires_grad_()
            for name, live in self._live.items()
        }
        own = dict(model.decoder.named_parameters()) if self.config.full and not model.decoder.cut else {}
        self._places = Places({name: self._masters[name] for name in own})
        for name, live in own.items():
            if model.dtype == torch.bfloat16:  # in float32 autograd makes them all
                send_gradient(live, self._masters[name], self._places if live.device.type == "cpu" else None, name)
        self._optimizer = Optimizer(
            self._masters,
            self.config.optimizer,
            betas=(self.config.beta1, self.config.beta2),
            eps=self.config.eps,
            weight_decay=self.config.weight_decay,
            momentum=self.config.momentum,
            moments=self.config.moments_of(model.dtype, self.device),
            copies={name: live for name, live in self._live.items() if live is not self._masters[name]},
        )

    def answering(self) -> Pretrained:
        """The model with the weights as they are now, for an engine to answer from: this one or, where its weights are
        cut over ranks, a whole copy that every call renews in place. Every rank must ask."""
        if not self.model.decoder.cut:
            return self.model
        self._whole = parallel.put_together(self.model.decoder, self._live, self._whole)
        return replace(self.model, decoder=self._whole)

    @property
    def device(self) -> torch.device:
        """Where the weights are; batches are taken there."""
        return self.model.decoder.head_weight.device

    def forward_backward(self, batch: Batch, loss: Loss, totals: Totals) -> Metrics:
        """Add the gradient of `loss` over one microbatch; call again for the next one of the same step."""
        batch = batch.to(self.device, non_blocking=True)
        first, entropy = self._first(batch)
        value, metrics = loss(first, batch, totals)
        value.backward()  # type: ignore[no-untyped-call]
        for name, live in self._live.items():
            master = self._masters[name]
            if live is not master and live.grad is not None:
                grad = live.grad.float()
                master.grad = grad if master.grad is None else master.grad.add_(grad)
                live.grad = None
        return metrics + entropy + Metrics.ratio("loss", value.detach(), 1.0)

    @torch.no_grad()
    def forward(self, batch: Batch, loss: Loss, totals: Totals) -> Metrics:
        """What `forward_backward` would report, without a gradient: validation."""
        batch = batch.to(self.device, non_blocking=True)
        first, entropy = self._first(batch)
        value, metrics = loss(first, batch, totals)
        return metrics + entropy + Metrics.ratio("loss", value, 1.0)

    def _first(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """What the loss is a function of: log-probs [N], or a value model's values [T]; and what it says of them."""
        layout = Layout.packed(batch.lengths, self.lora, self.device, batch.parents)
        hidden_TD = self.model.decoder(batch.tokens_T, batch.positions_T, layout)
        if self.head is not None:
            return self.head(hidden_TD), Metrics()
        logprob_N, entropy_N = token_logprobs(
            self.model.decoder, hidden_TD[batch.sources_N], batch.targets_N, self.config.temperature
        )
        return logprob_N, Metrics.ratio("entropy", entropy_N.sum(), len(entropy_N))

    def optim_step(self, learning_rate: float, metrics: Metrics | None = None) -> StepReport:
        """Clip the accumulated gradient, step, clear it. A non-finite gradient is dropped and counted instead.

        Args:
            metrics: what this rank's microbatches said. They are fetched from the device together with the gradient's
                norm, which decides whether there is a step: the one time that a step waits.

        Raises:
            Diverged: `max_skipped` non-finite steps came in a row.
        """
        self.ranks.add_gradients(self._masters.values())
        clipped = self.ranks.clip_gradients(self._masters.values(), self.config.max_grad_norm)
        here = ((metrics or Metrics()) + Metrics.ratio(NORM, clipped, 1.0)).settled()
        norm = float(here.parts.pop(NORM)[0])
        finite = math.isfinite(norm)
        if finite:
            self._skipped_in_a_row = 0
            self._optimizer.step(learning_rate)
            self._publish(done=self._optimizer.renews)
        else:
            self.skipped += 1
            self._skipped_in_a_row += 1
        self._optimizer.zero_grad()
        if self._skipped_in_a_row >= self.config.max_skipped:
            raise Diverged(
                f"The gradient was not a finite number in {self._skipped_in_a_row} steps in a row; training stopped. "
                "The last good checkpoint is kept. Lower the learning rate.",
                param="learning_rate",
            )
        return StepReport(norm, not finite, here)

    @torch.no_grad()
    def _publish(self, done: frozenset[str] = frozenset()) -> None:
        for name, live in self._live.items():
            if live is not self._masters[name] and name not in done:
                live.copy_(self._masters[name])

    def sample(
        self,
        engine: Engine,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams | Sequence[SamplingParams],
        n: int = 1,
        version: str = "policy",
    ) -> list[list[Completion]]:
        """Answers of the policy as it is now. `engine` must be on the same base model (`answering`).

        With all weights in training memory is tight: sampler and trainer each give up theirs for the other's turn.
        """
        if self.lora is None:
            self.answering()
            self._places.release()
            workspace.release()
            engine.weights_changed()
            try:
                return engine.generate(prompts, params, n=n)
            finally:
                engine.sleep()
        engine.add_version(version, self.lora)
        try:
            return engine.generate(prompts, params, version=version, n=n)
        finally:
            engine.remove_version(version)

    def score(self, sequences: Sequence[Sequence[int]], reference: bool = False) -> list[Tensor]:
        """Log-probs of tokens[1:] of each sequence under the policy, or under the base it started from (LoRA only)."""
        if reference and self.lora is None:
            raise ValueError("full fine-tuning keeps no copy of its base; score the reference before training")
        lora = None if reference else self.lora
        return score(self.model.decoder, sequences, lora=lora, temperature=self.config.temperature)

    def save(self, folder: Path) -> None:
        """Write the policy for serving: PEFT adapter files, or a whole Hugging Face folder."""
        masters = {name: master for name, master in self._masters.items() if not name.startswith(HEAD_PREFIX)}
        state = None if self.lora is not None else {name: parallel.whole(master) for name, master in masters.items()}
        if self.ranks.first:
            save_version(self.model, folder, state=state, lora=self.lora)
            if self.head is not None:
                self.head.save(folder)
        self.ranks.wait()

    def load(self, state: Mapping[str, Tensor], counters: Mapping[str, Any]) -> None:
        """Take up where `state()` was taken: parameters, optimizer moments, counters.

        Raises:
            InvalidInput: the state is of another model or another kind of training.
        """
        names = {name.removeprefix("parameter.") for name in state if name.startswith("parameter.")}
        shapes = {name: tuple(master.shape) for name, master in self._masters.items()}
        if {name: tuple(state[f"parameter.{name}"].shape) for name in names} != shapes:
            raise InvalidInput("This checkpoint is of another model or another rank.", code="wrong_checkpoint")
        with torch.no_grad():
            for name, master in self._masters.items():
                master.copy_(parallel.cut_like(state[f"parameter.{name}"], master))
        self._publish()
        self._optimizer.load(state)
        self.skipped = int(counters["skipped"])
        self._skipped_in_a_row = int(counters["skipped_in_a_row"])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything `load` needs to go on bit for bit: tensors, and counters for JSON.

        There is no random state among it: whatever is random in training is drawn from (seed, step), never from a
        stream that a crash could lose.
        """
        tensors = {f"parameter.{name}": master.detach() for name, master in self._masters.items()}
        tensors |= self._optimizer.state()
        tensors = {name: parallel.whole(tensor) for name, tensor in tensors.items()}
        return tensors, {"skipped": self.skipped, "skipped_in_a_row": self._skipped_in_a_row}
