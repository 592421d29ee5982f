"""What is read off a prompt while it is computed: the log-probs of its tokens, or its hidden states' mean or last.

A readout goes with one request (`Engine.submit(…, readout=…)`), is filled by the engine's thread during prefill, and
may be read by anybody once the request is done. It sees every row of the prompt once, also when its request was
preempted in the middle; cached prefixes are not reused beyond what it has seen. Logits are made for a bounded number of
rows at a time and never kept. Does not know why somebody asks.

Axes: N new tokens of one prompt, R rows whose logits are made, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tutee.engine.drawing import normalisers
from tutee.engine.request import TopLogprobs
from tutee.model.logprobs import CHUNK, log_softmax
from tutee.model.served import Served


class PromptLogprobs:
    """The model's own log-prob of each prompt token after the first, given those before it.

    Args:
        top: how many of the most likely tokens are reported at each position, the best first.
        first: the first token that is wanted; what lies before it may come from the cache.
        then: a token after the prompt that is wanted too.
    """

    def __init__(self, top: int = 0, first: int = 1, then: int | None = None) -> None:
        self.top = top
        self.then = then
        self.position = first - 1
        """Prompt tokens whose rows were read, or need not be."""
        self.logprobs: list[float] = []
        """Of prompt tokens `first`, `first + 1`, …; token 0 has nothing before it."""
        self.top_logprobs: list[TopLogprobs] = []
        """As long as `logprobs`; empty tuples when `top` is 0."""


class MeanHidden:
    """The mean of the final hidden states (after the last norm) over the prompt's tokens."""

    def __init__(self) -> None:
        self.position = 0
        self._sum_D: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """Float64, on the model's device, [D]; valid once the request is done."""
        assert self._sum_D is not None, "nothing was read"
        return self._sum_D / self.position

    def add(self, hidden_ND: Tensor) -> None:
        """Rows of the prompt that are new."""
        sum_D = hidden_ND.double().sum(0)
        self._sum_D = sum_D if self._sum_D is None else self._sum_D + sum_D
        self.position += len(hidden_ND)


class LastHidden:
    """The final hidden state (after the last norm) of the prompt's last token."""

    def __init__(self, length: int) -> None:
        self.position = length - 1
        self._hidden_D: Tensor | None = None

    @property
    def hidden(self) -> Tensor:
        """Float32, on the model's device, [D]; valid once the request is done."""
        assert self._hidden_D is not None, "nothing was read"
        return self._hidden_D

    def add(self, hidden_ND: Tensor) -> None:
        """Rows of the prompt that are new."""
        self._hidden_D = hidden_ND[-1].clone()
        self.position += len(hidden_ND)


Readout = PromptLogprobs | MeanHidden | LastHidden


@dataclass(frozen=True, slots=True)
class Rows:
    """New tokens of one prompt: hidden states of `prompt[first : first + N]`, and of what was sampled behind it."""

    readout: Readout
    prompt: Sequence[int]
    first: int
    hidden_ND: Tensor

    @property
    def unread(self) -> Tensor:
        """The prompt's rows that the readout has not seen."""
        return self.hidden_ND[max(0, self.readout.position - self.first) : len(self.prompt) - self.first]


def read(served: Served, parts: Sequence[Rows]) -> None:
    """Give the rows of one step to those who read them."""
    hidden: list[Tensor] = []
    asked: list[tuple[PromptLogprobs, int]] = []
    for rows in parts:
        readout, unread = rows.readout, rows.unread
        if not len(unread):  # a piece of a prompt before what is wanted
            continue
        if not isinstance(readout, PromptLogprobs):
            readout.add(unread)
            continue
        following = [*rows.prompt[readout.position + 1 : readout.position + 1 + len(unread)]]
        readout.position += len(unread)
        if readout.then is not None and readout.position == len(rows.prompt):
            following.append(readout.then)
        hidden.append(unread[: len(following)])
        asked += [(readout, token) for token in following]
    if asked:
        _score(served, torch.cat(hidden), asked)


def _score(served: Served, hidden_RD: Tensor, asked: Sequence[tuple[PromptLogprobs, int]]) -> None:
    """Row by row the log-prob of the token that follows; the prompts of a step share their products with the head."""
    targets_R1 = torch.tensor([[token] for _, token in asked], device=hidden_RD.device)
    most = max(readout.top for readout, _ in asked)
    for start in range(0, len(asked), CHUNK):
        rows = slice(start, start + CHUNK)
        values_RV = served.logits(hidden_RD[rows])
        shift_R1: Tensor | float = 0.0
        if served.native:  # in C, without writing the vocabulary once more
            shift_R1 = normalisers(values_RV)[:, None]
        else:
            values_RV = log_softmax(values_RV)
        values = (values_RV.gather(1, targets_R1[rows]) - shift_R1).squeeze(1).tolist()
        best, ids = _best(values_RV, most)
        best_values, best_ids = (best - shift_R1).tolist(), ids.tolist()
        for row, ((readout, _), value) in enumerate(zip(asked[rows], values, strict=True)):
            readout.logprobs.append(value)
            top = zip(best_ids[row][: readout.top], best_values[row][: readout.top], strict=True)
            readout.top_logprobs.append(tuple(top))


def _best(values_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(values, ids) of the largest of each row, the largest first."""
    if count == 1:  # what harnesses ask for; on the CPU nine times as fast as topk
        return values_RV.max(1, keepdim=True)
    best = values_RV.topk(min(count, values_RV.shape[1]))
    return best.values, best.indices
