"""From logits to tokens, for a whole batch at once.

Knows sampling parameters and one answer's history of token counts; nothing of scheduling or text. A row's token depends
on its own logits, parameters, seed and position only, never on the other rows.

How a token is drawn: by the inverse of the cumulative distribution, one uniform number a token, in two levels (which
run of the vocabulary, then which token in it), because that reads the weights once. Top-p needs no sorting: draw from
everything, accept if the tokens that are more likely sum to less than p, else forbid what is no more likely than the
refused token and draw again. Given acceptance the token is distributed as if the rest had been cut off beforehand.

Axes: B sequences, R rows of the batch that a step concerns, V vocabulary, N runs of the vocabulary, C tokens in a run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutee.engine.grammar import Matcher
from tutee.engine.request import SamplingParams, TopLogprobs
from tutee.model.logprobs import log_softmax

RUN_LENGTHS = (256, 128, 64, 32)
COLDEST = 1e-6
"""A lower temperature is 0: only ties could be drawn otherwise, and dividing by it would soon overflow."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_DRAWS_PER_TOKEN = np.uint64(1 << 20)


class SamplerState:
    """What one answer's sampler carries from token to token."""

    def __init__(
        self,
        params: SamplingParams,
        seed: int,
        prompt: Sequence[int] = (),
        end_ids: Iterable[int] = (),
        matcher: Matcher | None = None,
    ) -> None:
        self.params = params
        self.temperature = params.temperature if params.temperature >= COLDEST else 0.0
        self.matcher = matcher
        """Where the answer stands in its grammar, if it has one."""
        self.drawn = 0
        self.key = int(_mix(np.array([seed & (2**64 - 1)], dtype=np.uint64))[0])
        self.bias_ids = np.fromiter(params.logit_bias.keys(), dtype=np.int64)
        self.bias = np.fromiter(params.logit_bias.values(), dtype=np.float32)
        self.end_ids = np.fromiter(end_ids, dtype=np.int64) if params.min_tokens else np.empty(0, dtype=np.int64)
        self.repeats = params.repetition_penalty != 1.0
        self.penalised = self.repeats or params.presence_penalty != 0.0 or params.frequency_penalty != 0.0
        self._places: dict[int, int] = {}
        seen = sorted(set(prompt)) if self.repeats else []
        self._seen_ids = np.array(seen, dtype=np.int64)
        self._counts = np.zeros(len(seen), dtype=np.float32)
        self._places = {token: place for place, token in enumerate(seen)}

    @property
    def adjusts(self) -> bool:
        """Whether the next logits must be changed before a token is chosen."""
        return self.penalised or len(self.bias_ids) > 0 or self.drawn < self.params.min_tokens

    @property
    def seen(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(ids that penalties concern, how often each was generated)."""
        return self._seen_ids[: len(self._places)], self._counts[: len(self._places)]

    def after(self, tokens: Sequence[int]) -> SamplerState:
        """A state as it will be once `tokens` are accepted; this one stays as it is. Not for one with a grammar, whose
        answers are not guessed."""
        if not tokens:
            return self
        assert self.matcher is None
        ahead = copy(self)
        if self.penalised:
            ahead._places = dict(self._places)
            ahead._seen_ids, ahead._counts = self._seen_ids.copy(), self._counts.copy()
        for token in tokens:
            ahead.accept(token)
        return ahead

    def accept(self, token: int) -> None:
        """The token was chosen."""
        self.drawn += 1
        if self.matcher is not None:
            self.matcher.accept(token)
        if not self.penalised:
            return
        place = self._places.setdefault(token, len(self._places))
        if place >= len(self._seen_ids):
            room = max(64, len(self._seen_ids))
            self._seen_ids = np.concatenate([self._seen_ids, np.zeros(room, dtype=np.int64)])
            self._counts = np.concatenate([self._counts, np.zeros(room, dtype=np.float32)])
        self._seen_ids[place] = token
        self._counts[place] += 1


@dataclass(frozen=True, slots=True)
class Sampled:
    """One entry a row. A token of -1 says that the row's logits were not finite; its log-prob means nothing."""

    tokens: list[int]
    logprobs: list[float | None]
    top_logprobs: list[TopLogprobs]

    def part(self, begin: int, end: int) -> Sampled:
        """Rows `begin … end - 1`."""
        return Sampled(self.tokens[begin:end], self.logprobs[begin:end], self.top_logprobs[begin:end])


@dataclass(frozen=True, slots=True)
class Masks:
    """What grammars allow: of each of `rows` a bit a token, int32 [R, W], token t in bit t % 32 of word t // 32."""

    rows: list[int]
    allowed_RW: NDArray[np.int32]


@torch.no_grad()
def sample(logits_BV: Tensor, states: Sequence[SamplerState], masks: Masks | None = None) -> Sampled:
    """Choose one token a row, of those that `masks` allow. `logits_BV` (float32) is overwritten."""
    reported = [row for row, state in enumerate(states) if state.params.logprobs is not None]
    own_RV = log_softmax(_rows(logits_BV, reported)) if reported else None
    adjust(logits_BV, states)
    if masks is not None:
        _forbid(logits_BV, masks)
    greedy = [row for row, state in enumerate(states) if state.temperature == 0.0]
    random = [row for row, state in enumerate(states) if state.temperature != 0.0]
    tokens_B = torch.empty(len(states), dtype=torch.int64, device=logits_BV.device)
    if greedy:
        _put(tokens_B, greedy, _argmax(_rows(logits_BV, greedy)))
    if random:
        _put(tokens_B, random, _draw(_rows(logits_BV, random), [states[row] for row in random]))
    tokens = tokens_B.tolist()
    logprobs: list[float | None] = [None] * len(states)
    top: list[TopLogprobs] = [()] * len(states)
    if own_RV is not None:
        for place, (row, value) in enumerate(zip(reported, _chosen(own_RV, tokens_B, reported), strict=True)):
            logprobs[row] = value
            top[row] = _top(own_RV[place], states[row].params.logprobs or 0)
    return Sampled(tokens, logprobs, top)


def _rows(values_BV: Tensor, rows: list[int]) -> Tensor:
    return values_BV if len(rows) == values_BV.shape[0] else values_BV[rows]


def _put(target_B: Tensor, rows: list[int], values_R: Tensor) -> None:
    target_B[rows] = values_R


def _chosen(own_RV: Tensor, tokens_B: Tensor, rows: list[int]) -> list[float]:
    values: list[float] = own_RV.gather(1, tokens_B[rows].clamp_min(0).unsqueeze(1)).squeeze(1).tolist()
    return values


def _top(own_V: Tensor, count: int) -> TopLogprobs:
    if count == 0:
        return ()
    best = own_V.topk(min(count, own_V.shape[0]))
    return tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def adjust(logits_BV: Tensor, states: Sequence[SamplerState]) -> None:
    """Penalties, biases and forbidden end tokens, in place, touching only the tokens they concern."""
    if not any(state.adjusts for state in states):
        return
    penalised = [(row, state) for row, state in enumerate(states) if state.penalised and len(state.seen[0])]
    if penalised:
        _penalise(logits_BV, penalised)
    biased = [(row, state) for row, state in enumerate(states) if len(state.bias_ids)]
    if biased:
        at = _places(logits_BV, [(row, state.bias_ids) for row, state in biased])
        amount = torch.from_numpy(np.concatenate([state.bias for _, state in biased])).to(logits_BV.device)
        logits_BV[at] = logits_BV[at] + amount
    unfinished = [(row, state.end_ids) for row, state in enumerate(states) if state.drawn < state.params.min_tokens]
    if unfinished:
        logits_BV[_places(logits_BV, unfinished)] = -torch.inf


def _forbid(logits_BV: Tensor, masks: Masks) -> None:
    allowed_RV = np.unpackbits(masks.allowed_RW.view(np.uint8), axis=1, count=logits_BV.shape[1], bitorder="little")
    for row, allowed_V in zip(masks.rows, torch.from_numpy(allowed_RV), strict=True):
        logits_BV[row].masked_fill_(allowed_V.to(logits_BV.device) == 0, -torch.inf)


def _penalise(logits_BV: Tensor, penalised: list[tuple[int, SamplerState]]) -> None:
    at = _places(logits_BV, [(row, state.seen[0]) for row, state in penalised])
    sizes = [len(state.seen[0]) for _, state in penalised]

    def per_token(values: list[float]) -> Tensor:
        return torch.from_numpy(np.repeat(np.array(values, dtype=np.float32), sizes)).to(logits_BV.device)

    counts = torch.from_numpy(np.concatenate([state.seen[1] for _, state in penalised])).to(logits_BV.device)
    repetition = per_token([state.params.repetition_penalty for _, state in penalised])
    values = logits_BV[at]
    values = torch.where(values > 0, values / repetition, values * repetition)
    values -= per_token([state.params.presence_penalty for _, state in penalised]) * (counts > 0)
    values -= per_token([state.params.frequency_penalty for _, state in penalised]) * counts
    logits_BV[at] = values


def _places(logits_BV: Tensor, ids: list[tuple[int, NDArray[np.int64]]]) -> tuple[Tensor, Tensor]:
    rows = np.repeat(np.array([row for row, _ in ids], dtype=np.int64), [len(tokens) for _, tokens in ids])
    columns = np.concatenate([tokens for _, tokens in ids])
    return torch.from_numpy(rows).to(logits_BV.device), torch.from_numpy(columns).to(logits_BV.device)


def _floats(values: Sequence[float], like: Tensor) -> Tensor:
    """A parameter of each row, which may have been written as a whole number."""
    return torch.tensor(values, dtype=torch.float32, device=like.device)


def _in_runs(values_RV: Tensor, padding: float) -> Tensor:
    """[R, V] seen as [R, N, C]; padded when the vocabulary has no convenient divisor."""
    rows, vocabulary = values_RV.shape
    length = next((length for length in RUN_LENGTHS if vocabulary % length == 0), None)
    if length is None:
        length = RUN_LENGTHS[-1]
        values_RV = torch.nn.functional.pad(values_RV, (0, -vocabulary % length), value=padding)
    return values_RV.reshape(rows, -1, length)


def _argmax(logits_RV: Tensor) -> Tensor:
    """The first most likely token of each row; -1 where that is not finite."""
    # Two levels because torch's amax is vectorised on the CPU and its argmax is not (6 times slower at 49k tokens).
    runs_RNC = _in_runs(logits_RV, -torch.inf)
    best_RN = runs_RNC.amax(-1)
    run_R = best_RN.argmax(-1)
    rows_R = torch.arange(len(run_R), device=run_R.device)
    token_R = run_R * runs_RNC.shape[-1] + runs_RNC[rows_R, run_R].argmax(-1)
    return torch.where(best_RN[rows_R, run_R].isfinite(), token_R, -1)


def _draw(logits_RV: Tensor, states: Sequence[SamplerState]) -> Tensor:
    """A token a row from softmax(logits / temperature) after the cuts; -1 where the logits are not finite."""
    temperature_R1 = _floats([state.temperature for state in states], logits_RV).unsqueeze(1)
    best_R = _in_runs(logits_RV, -torch.inf).amax(-1).amax(-1)
    weights_RV = logits_RV.sub_(best_R.unsqueeze(1)).div_(temperature_R1).exp_()
    _cut(weights_RV, states)
    token_R = _pick(weights_RV, _uniforms(states, 0).to(logits_RV.device))
    nucleus = [row for row, state in enumerate(states) if state.params.top_p < 1.0]
    if nucleus:
        _keep_to_nucleus(token_R, weights_RV, nucleus, states)
    return torch.where(best_R.isfinite(), token_R, -1)


def _cut(weights_RV: Tensor, states: Sequence[SamplerState]) -> None:
    """Top-k and min-p, in place: weights under a row's least one become zero."""
    # The most likely token weighs exactly 1 here, so min-p is itself a least weight.
    least_R = _floats([state.params.min_p for state in states], weights_RV)
    limited = [row for row, state in enumerate(states) if 0 < state.params.top_k < weights_RV.shape[1]]
    if limited:
        top_k_R1 = torch.tensor([[states[row].params.top_k] for row in limited], device=weights_RV.device)
        best_RK = _rows(weights_RV, limited).topk(int(top_k_R1.max())).values
        least_R[limited] = torch.maximum(least_R[limited], best_RK.gather(1, top_k_R1 - 1).squeeze(1))
    if limited or any(state.params.min_p for state in states):
        weights_RV.masked_fill_(weights_RV < least_R.unsqueeze(1), 0.0)


def _keep_to_nucleus(token_B: Tensor, weights_BV: Tensor, rows: list[int], states: Sequence[SamplerState]) -> None:
    """Draw again, in place, the rows whose token lies outside their top-p set (rejection with a rising floor)."""
    device = weights_BV.device
    weights_RV = _rows(weights_BV, rows)
    enough_R = _floats([states[row].params.top_p for row in rows], weights_RV) * _in_runs(weights_RV, 0.0).sum(-1).sum(
        -1
    )
    for attempt in itertools.count(1):
        weight_R1 = weights_RV.gather(1, token_B[rows].unsqueeze(1))
        # weights * (weights > weight), without a mask of bools, which torch handles 3 times slower on the CPU.
        likelier_RV = (weights_RV - weight_R1).mul_(3e38).clamp_(0.0, 1.0).mul_(weights_RV)
        above_R = _in_runs(likelier_RV, 0.0).sum(-1).sum(-1)
        # A row that holds NaN is never "outside", so that the loop ends; the caller marks it.
        again = ((above_R > 0) & (above_R >= enough_R)).nonzero().squeeze(1)
        rows = [rows[place] for place in again.tolist()]
        if not rows:
            return
        weights_RV, enough_R = likelier_RV[again], enough_R[again]
        token_B[rows] = _pick(weights_RV, _uniforms([states[row] for row in rows], attempt).to(device))


def _pick(weights_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """The token where the running sum of the weights passes `uniform` (float64 in [0, 1)) times their total."""
    runs_RNC = _in_runs(weights_RV, 0.0)
    ends_RN = runs_RNC.sum(-1).double().cumsum(-1)
    target_R1 = uniform_R.unsqueeze(1) * ends_RN[:, -1:]
    run_R1 = torch.searchsorted(ends_RN, target_R1, right=True).clamp_max_(ends_RN.shape[1] - 1)
    begin_R1 = torch.where(run_R1 > 0, ends_RN.gather(1, (run_R1 - 1).clamp_min(0)), 0.0)
    part_R1 = (target_R1 - begin_R1) / (ends_RN.gather(1, run_R1) - begin_R1)
    rows_R = torch.arange(len(run_R1), device=run_R1.device)
    inner_RC = runs_RNC[rows_R, run_R1.squeeze(1)].double().cumsum(-1)
    # The run's float32 sum and its float64 running sum differ in the last digits: scale, so that a token is always hit.
    aim_R1 = part_R1.clamp(0.0, 1.0 - 1e-12) * inner_RC[:, -1:]
    inside_R1 = torch.searchsorted(inner_RC, aim_R1, right=True).clamp_max_(inner_RC.shape[1] - 1)
    return (run_R1 * inner_RC.shape[1] + inside_R1).squeeze(1).clamp_max_(weights_RV.shape[1] - 1)


def _uniforms(states: Sequence[SamplerState], attempt: int) -> Tensor:
    """One number in [0, 1) a row: number (position, attempt) of the stream that the row's seed names.

    SplitMix64 (Steele, Lea and Flood 2014) read at any place: no state to keep, so preemption cannot disturb it.
    """
    keys = np.array([state.key for state in states], dtype=np.uint64)
    drawn = np.array([state.drawn for state in states], dtype=np.uint64)
    bits = _mix(keys + (drawn * _DRAWS_PER_TOKEN + np.uint64(attempt + 1)) * _GOLDEN)
    return torch.from_numpy((bits >> np.uint64(12)).astype(np.float64) * 2.0**-52)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
