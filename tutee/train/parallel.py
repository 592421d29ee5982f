"""Several processes, one run: what `torchrun` starts, under the same verbs and with the same numbers as one process.

Every rank reads the same data and takes its share of each step's groups; the step's denominators are those of all
groups, so gradients are *summed* over ranks, never averaged, and any number of ranks makes the same step. Two ways to
hold the weights: a copy a rank whose gradients are summed (DDP: LoRAs and small models), or one copy cut over the ranks
with its gradients and moments (`shard=true`: FSDP2, Zhao et al. 2023, arXiv 2304.11277). Only the first rank writes.

What is worked out once a step and needed whole (answers, rewards, scores) is worked out in shares and told to all
(`share`, `gather`), so what follows from it, such as which groups say nothing, is decided everywhere alike. A rank that
ends takes the others with it, and they say why.

Without `torchrun` everything here does nothing, at no cost. Knows no loss and no method.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined]
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from tutee.errors import Diverged, TuteeError
from tutee.model.decoder import Decoder
from tutee.train.batch import Group, split_groups
from tutee.train.metrics import Metrics

Item = TypeVar("Item")

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

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This rank's part of a work list: every `size`-th item, as `parts` deals groups."""
        return list(items[self.rank :: self.size])

    def gather(self, own: Sequence[Item]) -> list[Item]:
        """What all ranks made of their shares, one result an item, in the order of the list that was shared. Every rank
        must ask, and gets the same."""
        if self.size == 1:
            return list(own)
        shares: list[list[Item]] = [[]] * self.size
        dist.all_gather_object(shares, list(own))
        return [shares[i % self.size][i // self.size] for i in range(sum(map(len, shares)))]

    def add(self, number: Tensor) -> Tensor:
        """The sum over ranks of a number on the device, which is not waited for."""
        if self.size > 1:
            dist.all_reduce(number)
        return number

    def add_metrics(self, metrics: Metrics) -> Metrics:
        """The sum over ranks."""
        total = Metrics()
        for part in self.gather([metrics]):
            total += part
        return total

    def require_same(self, value: str, what: str) -> None:
        """Stop the run where ranks differ in what must be one: they would go on apart, and nobody would see it.

        Raises:
            Diverged: naming the ranks that differ from the first.
        """
        first, *others = self.gather([value])
        different = [str(rank) for rank, said in enumerate(others, 1) if said != first]
        if different:
            raise Diverged(f"Rank {', '.join(different)} has another {what} than rank 0; the run stopped.")

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

    def clip_gradients(self, parameters: Iterable[Tensor], most: float) -> Tensor:
        """Scale the gradients so that their common norm is at most `most`; one that is not finite spoils them all.

        Returns:
            The norm before, over all ranks' parts of cut parameters, on the device: it is not waited for.
        """
        parameters = [p for p in parameters if p.grad is not None]
        kinds = [[p for p in parameters if isinstance(p, DTensor) is cut] for cut in (False, True)]
        norms = [whole(get_total_norm([p.grad for p in kind if p.grad is not None])) for kind in kinds if kind]
        norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
        clip_grads_with_norm_(kinds[0], most, norm)
        for parameter in kinds[1]:
            assert parameter.grad is not None
            parameter.grad.mul_((most / (norm + 1e-6)).clamp(max=1.0))  # the formula of clip_grads_with_norm_
        return norm

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier()


def current() -> Ranks:
    """This process's place among those that `joined` brought together."""
    return Ranks(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else Ranks(0, 1)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Meet the other processes that torchrun started (gloo on the CPU, NCCL on GPUs), and part from them at the end.

    Raises:
        TuteeError: the others cannot be met, or one of them ended before the work was done; its last words are in it.
    """
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield Ranks(0, 1)
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    try:
        store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
        kind = "nccl" if on_gpu else "gloo"
        dist.init_process_group(kind, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except (dist.DistError, ValueError, RuntimeError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise TuteeError(f"Rank {os.environ.get('RANK')} could not meet the others at {where}: {error}") from error
    words = _LastWords(store, rank, size)
    try:
        yield current()
    except BaseException as error:
        if _is_loss(error):
            raise TuteeError(words.of_others()) from error
        words.say(error)
        raise
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True, slots=True)
class _LastWords:
    """Why a rank ended, left where the others can read it: all that they see themselves is a closed connection."""

    store: Store
    rank: int
    size: int

    def say(self, error: BaseException) -> None:
        with suppress(dist.DistError, RuntimeError):  # the store ends with the rank that keeps it
            self.store.set(self._key(self.rank), f"{type(error).__name__}: {error}")

    def of_others(self) -> str:
        """Who ended first and why, as far as is known."""
        for rank in set(range(self.size)) - {self.rank}:
            with suppress(dist.DistError, RuntimeError):
                if self.store.check([self._key(rank)]):
                    return f"Rank {rank} ended the run: {self.store.get(self._key(rank)).decode()}"
        return (
            f"Rank {self.rank} lost the others: one of them was killed, ended without a word or was silent for "
            f"{PATIENCE.total_seconds() / 60:.0f} minutes. The last checkpoint is kept; start the same command again."
        )

    @staticmethod
    def _key(rank: int) -> str:
        return f"last words of rank {rank}"


def _is_loss(error: BaseException) -> bool:
    """Whether this is what a rank sees when another one is gone. Gloo says so by a bare RuntimeError."""
    gloo = isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "Connection closed"))
    return gloo or isinstance(error, dist.DistError)


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


@torch.no_grad()
def put_together(decoder: Decoder, parts: Mapping[str, Tensor], into: Decoder | None = None) -> Decoder:
    """A decoder like the one given with its cut weights whole; every rank must ask.

    Args:
        parts: the cut weights by name.
        into: what an earlier call gave, to be renewed in place.
    """
    out = into or Decoder(decoder.config, decoder.dtype).to(decoder.rope_cos.device)
    for name, parameter in out.named_parameters():
        parameter.copy_(whole(parts[name]))
    return out


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A hash of numbers that every rank has whole; two ranks in step have the same."""
    out = hashlib.sha256()
    for name in sorted(tensors):
        if not isinstance(tensors[name], DTensor):
            out.update(tensors[name].detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return out.hexdigest()


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
