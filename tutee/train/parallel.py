"""Several processes, one run: what `torchrun` starts, under the same verbs and with the same numbers as one process.

Every rank reads the same data and takes its share of each step's groups; the step's denominators are those of all
groups, so gradients are *summed* over ranks, never averaged, and any number of ranks makes the same step. Two ways to
hold the weights: a copy a rank whose gradients are summed (DDP: LoRAs and small models), or one copy cut over the ranks
with its gradients and moments (`shard=true`: FSDP2, Zhao et al. 2023, arXiv 2304.11277). Only the first rank writes.

Without `torchrun` everything here does nothing, at no cost. Knows no loss and no method.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from tutee.errors import TuteeError
from tutee.model.decoder import Decoder
from tutee.train.batch import Group, split_groups
from tutee.train.metrics import Metrics

PATIENCE = timedelta(minutes=10)
"""A rank that hears nothing from the others for so long ends with an error that says so, instead of hanging."""

BUCKET = 2**22
"""Numbers that are summed over ranks in one message."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those of the run. One process alone is `Ranks(0, 1)`."""

    rank: int
    size: int

    @property
    def first(self) -> bool:
        """Whether this rank writes files and speaks."""
        return self.rank == 0

    def parts(self, groups: Sequence[Group], token_budget: int) -> list[tuple[list[Group], bool]]:
        """This rank's microbatches of a step, and whether each is really its own.

        Every rank gets the same number of them, because cut weights are put together by all ranks at once: one that
        has nothing left repeats a group at weight 0, whose metrics must not be counted.
        """
        shares = [
            split_groups(groups[rank :: self.size], token_budget, share_prompts=True) for rank in range(self.size)
        ]
        most, own = max(len(share) for share in shares), shares[self.rank]
        filler = [replace(min(groups, key=lambda group: group.num_tokens), weight=0.0)]
        return [(part, True) for part in own] + [(filler, False)] * (most - len(own))

    def add_metrics(self, metrics: Metrics) -> Metrics:
        """The sum over ranks."""
        if self.size == 1:
            return metrics
        gathered: list[Metrics] = [Metrics()] * self.size
        dist.all_gather_object(gathered, metrics)
        total = Metrics()
        for part in gathered:
            total += part
        return total

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sum the gradients of whole parameters over ranks, in place; those of cut ones are summed already."""
        if self.size == 1:
            return
        whole = [p for p in parameters if not isinstance(p, DTensor)]
        for parameter in whole:
            if parameter.grad is None:  # a rank whose share was empty still takes part
                parameter.grad = torch.zeros_like(parameter)
        for bucket in _buckets([p.grad for p in whole if p.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            for gradient, summed in zip(bucket, torch.split(flat, [g.numel() for g in bucket]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def clip_gradients(self, parameters: Iterable[Tensor], most: float) -> float:
        """Scale the gradients so that their common norm is at most `most`; a norm that is not finite scales nothing.

        Returns:
            The norm before, over all ranks' parts of cut parameters.
        """
        parameters = [p for p in parameters if p.grad is not None]
        kinds = [[p for p in parameters if isinstance(p, DTensor) is cut] for cut in (False, True)]
        norms = [whole(get_total_norm([p.grad for p in kind if p.grad is not None])) for kind in kinds if kind]
        norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
        if torch.isfinite(norm):
            clip_grads_with_norm_(kinds[0], most, norm)
            for parameter in kinds[1]:
                assert parameter.grad is not None
                parameter.grad.mul_(min(1.0, most / (float(norm) + 1e-6)))  # the formula of clip_grads_with_norm_
        return float(norm)

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()


def current() -> Ranks:
    """This process's place among those that `joined` brought together."""
    return Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Ranks(0, 1)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Meet the other processes that torchrun started (gloo on the CPU, NCCL on GPUs), and part from them at the end."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield Ranks(0, 1)
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    except (dist.DistError, ValueError, RuntimeError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise TuteeError(f"Rank {os.environ.get('RANK')} could not meet the others at {where}: {error}") from error
    try:
        yield current()
    finally:
        dist.destroy_process_group()


def shard(decoder: Decoder) -> None:
    """Cut a decoder's weights over the ranks, block by block; gradients are summed over ranks in float32.

    Vectors of another precision than their block's matrices (norms under bfloat16) stay whole on every rank.
    """
    policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    decoder.cut = True
    kept = {p for block in decoder.model.layers for p in block.parameters() if p.dtype != decoder.dtype}
    for module in (*decoder.model.layers, decoder):
        cut = fully_shard(module, mp_policy=policy, ignored_params=kept)
        cut.set_gradient_divide_factor(1.0)
        cut.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum


def whole(tensor: Tensor) -> Tensor:
    """A cut tensor put together (every rank must ask), any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor cut as `like` is."""
    if not isinstance(like, DTensor) or tensor.ndim == 0:
        return tensor
    return distribute_tensor(tensor, like.device_mesh, like.placements)


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for gradient in gradients:
        bucket.append(gradient)
        if sum(g.numel() for g in bucket) >= BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket
