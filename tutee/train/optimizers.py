"""AdamW, and Muon for pretraining, behind one interface: float32 tensors by name in, one step at a rate.

AdamW: Loshchilov and Hutter 2019 (arXiv 1711.05101). Muon: Jordan et al. 2024 (kellerjordan.github.io/posts/muon), the
momentum of a matrix made orthogonal by a Newton–Schulz iteration, scaled as Liu et al. 2025 (arXiv 2502.16982, equation
4) so that one learning rate serves both: Muon moves the matrices inside the blocks, AdamW the embedding, the head and
everything that is no matrix. Knows nothing of gradients' origin, of schedules or of clipping.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tutee.train import parallel

OptimizerName = Literal["adamw", "muon"]

NOT_MUONS = ("embed_tokens", "lm_head")
"""Matrices that are tables of rows, one a token: orthogonal updates mean nothing to them."""


class Optimizer:
    """One or two of PyTorch's optimizers over named tensors.

    Args:
        parameters: what is moved, in place, float32; their gradients are read from `.grad`.
        eps: added to AdamW's denominator. 1e-5 is InstructGPT's and PPO's; 1e-8 PyTorch's.
        weight_decay: decoupled; tensors of fewer than two axes are never decayed.
        momentum: Muon's (Nesterov).
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        name: OptimizerName = "adamw",
        *,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        self._parameters = dict(parameters)
        muons = [p for n, p in parameters.items() if name == "muon" and is_muons(n, p)]
        others = [p for n, p in parameters.items() if name != "muon" or not is_muons(n, p)]
        # PyTorch's fast path takes tensors of one kind at a time, whole or cut over ranks.
        kinds = [(matrix, cut) for matrix in (True, False) for cut in (False, True)]
        dealt = {kind: [p for p in others if (p.ndim >= 2, isinstance(p, DTensor)) == kind] for kind in kinds}
        groups = [
            {"params": params, "weight_decay": weight_decay if matrix else 0.0}
            for (matrix, _), params in dealt.items()
            if params
        ]
        self._parts: list[torch.optim.Optimizer] = []
        if groups:
            self._parts.append(torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps, fused=True))
        if muons:
            muon = torch.optim.Muon(
                muons, lr=0.0, weight_decay=weight_decay, momentum=momentum, adjust_lr_fn="match_rms_adamw"
            )
            self._parts.append(muon)

    def step(self, learning_rate: float) -> None:
        """Move every tensor that has a gradient."""
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = learning_rate
            part.step()
        # The fused kernel does not say that it changed them, and what is laid out for the sampler is renewed by that.
        torch.autograd.graph.increment_version(list(self._parameters.values()))

    def zero_grad(self) -> None:
        for parameter in self._parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts as `exp_avg.NAME`, `momentum_buffer.NAME` …; the tensors themselves, not copies."""
        return {
            f"{key}.{name}": value
            for name, parameter in self._parameters.items()
            for part in self._parts
            for key, value in part.state.get(parameter, {}).items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over (copies of) what `state` gave; a tensor that had not moved yet has no entry."""
        for part in self._parts:
            part.state.clear()
            for group in part.param_groups:
                for parameter in group["params"]:
                    name = next(n for n, p in self._parameters.items() if p is parameter)
                    own = {
                        key: parallel.cut_like(state[f"{key}.{name}"].clone(), parameter)
                        for key in _KEPT
                        if f"{key}.{name}" in state
                    }
                    if own:
                        part.state[parameter] = own


_KEPT = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")


def is_muons(name: str, parameter: Tensor) -> bool:
    """Whether Muon moves this tensor: a matrix that maps vectors to vectors."""
    return parameter.ndim == 2 and not any(table in name for table in NOT_MUONS)
