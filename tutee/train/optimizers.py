"""AdamW, and Muon for pretraining, behind one interface: float32 tensors by name in, one step at a rate.

AdamW: Loshchilov and Hutter 2019 (arXiv 1711.05101). Muon: Jordan et al. 2024 (kellerjordan.github.io/posts/muon), the
momentum of a matrix made orthogonal by a Newton–Schulz iteration, scaled as Liu et al. 2025 (arXiv 2502.16982, equation
4) so that one learning rate serves both: Muon moves the matrices inside the blocks, AdamW the embedding, the head and
everything that is no matrix. Knows nothing of gradients' origin, of schedules or of clipping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tutee.model import adamw
from tutee.model.workspace import Workspace, room_for
from tutee.train import parallel

OptimizerName = Literal["adamw", "muon"]
MomentsName = Literal["float32", "bfloat16"]

NOT_MUONS = ("embed_tokens", "lm_head")
"""Matrices that are tables of rows, one a token: orthogonal updates mean nothing to them."""


class AdamW:
    """AdamW over whole tensors by `model/adamw.py`: one pass over memory each, which also renews bfloat16 copies.

    Args:
        parameters: (tensor, weight decay) each.
        copies: bfloat16 copies of some of them, by the id of the tensor.
        moments: what the two moments are kept in.
    """

    def __init__(
        self,
        parameters: Sequence[tuple[Tensor, float]],
        betas: tuple[float, float],
        eps: float,
        moments: torch.dtype,
        copies: Mapping[int, Tensor],
    ) -> None:
        self._parameters, self._betas, self._eps = parameters, betas, eps
        self._moments, self._copies = moments, copies
        self._room: Workspace | None = None
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self.param_groups: list[dict[str, Any]] = [{"params": [p for p, _ in parameters], "lr": 0.0}]

    @torch.no_grad()
    def step(self) -> None:
        """Move every tensor that has a gradient."""
        rate = self.param_groups[0]["lr"]
        for parameter, decay in self._parameters:
            if parameter.grad is None:
                continue
            state = self.state.setdefault(parameter, {}) or self._begin(parameter)
            state["step"] += 1
            rates = adamw.Rates(int(state["step"]), rate, self._betas, self._eps)
            copy = self._copies.get(id(parameter))
            moments = state["exp_avg"], state["exp_avg_sq"]
            adamw.step(parameter, parameter.grad, moments, rates, decay, copy)
            if copy is not None:
                torch.autograd.graph.increment_version([copy])

    def forget(self) -> None:
        """Lose all moments."""
        self.state.clear()
        self._room = None

    def _begin(self, parameter: Tensor) -> dict[str, Tensor]:
        on_cpu = [p for p, _ in self._parameters if p.device.type == "cpu"]
        if self._room is None and on_cpu:
            self._room = Workspace(2 * sum(room_for(p.numel() * self._moments.itemsize) for p in on_cpu))
        first, second = (self._empty(parameter).zero_() for _ in range(2))
        self.state[parameter] = {"step": torch.zeros(()), "exp_avg": first, "exp_avg_sq": second}
        return self.state[parameter]

    def _empty(self, like: Tensor) -> Tensor:
        if self._room is None or like.device.type != "cpu":
            return torch.empty_like(like, dtype=self._moments)
        return self._room.empty(*like.shape, dtype=self._moments)


class Optimizer:
    """One or two optimizers over named tensors: ours or PyTorch's AdamW, and PyTorch's Muon.

    Args:
        parameters: what is moved, in place, float32; their gradients are read from `.grad`.
        eps: added to AdamW's denominator. 1e-5 is InstructGPT's and PPO's; 1e-8 PyTorch's.
        weight_decay: decoupled; tensors of fewer than two axes are never decayed.
        momentum: Muon's (Nesterov).
        moments: what AdamW keeps its moments in.
        copies: bfloat16 copies of some tensors, by the same names; `step` renews those that `renews` lists.
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
        moments: MomentsName = "float32",
        copies: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._parameters = dict(parameters)
        muons = [p for n, p in parameters.items() if name == "muon" and is_muons(n, p)]
        others = {n: p for n, p in parameters.items() if name != "muon" or not is_muons(n, p)}
        halved = moments == "bfloat16"
        ours = {n: p for n, p in others.items() if not isinstance(p, DTensor) and (halved or p.device.type == "cpu")}
        self.renews = frozenset(ours) & frozenset(copies or ())
        self._parts: list[torch.optim.Optimizer | AdamW] = []
        if ours:
            decays = [(p, weight_decay if p.ndim >= 2 else 0.0) for p in ours.values()]
            renewed = {id(ours[n]): copy for n, copy in (copies or {}).items() if n in ours}
            self._parts.append(AdamW(decays, betas, eps, getattr(torch, moments), renewed))
        # PyTorch's fast path takes tensors of one kind at a time, whole or cut over ranks.
        kinds = [(matrix, cut) for matrix in (True, False) for cut in (False, True)]
        left = [p for n, p in others.items() if n not in ours]
        dealt = {kind: [p for p in left if (p.ndim >= 2, isinstance(p, DTensor)) == kind] for kind in kinds}
        groups = [
            {"params": params, "weight_decay": weight_decay if matrix else 0.0}
            for (matrix, _), params in dealt.items()
            if params
        ]
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
        # The fused kernels do not say that they changed them, and what is laid out for the sampler is renewed by that.
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
            part.forget() if isinstance(part, AdamW) else part.state.clear()
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
