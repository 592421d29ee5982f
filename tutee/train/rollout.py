"""Rollouts: the policy's own answers to an environment's questions, with everything that learning from them needs.

A prompt is sampled in a group; each answer keeps its token ids, the log-probs it was drawn with, how it ended, the
policy's version and its reward. What is sampled is learned as the ids that were sampled, never as text encoded again.
Sampling cuts nothing off (no top-p, no top-k): a truncated sampler draws from another policy than the one that learns.

A step's rollouts are a function of (weights, seed, step, number of the next question), so this number is all that a
checkpoint must hold. Of several ranks (`parallel.py`) each draws, rewards and scores the answers to its share of the
questions, whole groups, and tells the others: every rank then holds the step that one process would. Knows the engine,
questions and rewards; nothing of advantages or losses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

import numpy as np
import torch
from torch import Tensor

from tutee.engine.engine import Engine
from tutee.engine.request import Completion, SamplingParams
from tutee.errors import InvalidInput
from tutee.model.decoder import Decoder
from tutee.model.layout import Layout
from tutee.model.logprobs import token_logprobs
from tutee.model.lora import Lora
from tutee.train import parallel
from tutee.train.advantages import zero_variance_share
from tutee.train.batch import Batch, Example, Group, pack_groups
from tutee.train.environments import Environment, Question
from tutee.train.options import require
from tutee.train.rewards import Answer, RewardFailing, Rewards
from tutee.train.trainer import Trainer

MOST_PASSED_OVER = 1000
"""Questions in a row that do not fit the context, after which there is no use in looking for one that does."""

SCORED_TOKENS = 4096
"""Tokens of one batch when answers are scored."""


@dataclass(frozen=True, slots=True)
class RolloutConfig:
    """How a step's answers are drawn."""

    prompts: int = 8
    """Questions a step."""
    group: int = 8
    """Answers to each."""
    max_tokens: int = 128
    """Longest answer; a longer one is cut off and counts as not ended."""
    temperature: float = 1.0
    """Of the sampler and of every log-prob that is learned from."""
    resample: int = 0
    """Rounds of fresh questions that may replace groups without variance (DAPO's dynamic sampling); 0 keeps them."""
    recompute: bool | None = None
    """Score the answers again as a trainer does, instead of trusting the sampler's log-probs. Unset: where it matters,
    that is at another temperature than 1 (the sampler reports the model's own), and in bfloat16 when a step makes
    several updates (its rounding would look like a policy that moved)."""
    most_failed: float = 0.1
    """Share of a step's answers that may go without a reward; above it the run pauses."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.prompts >= 1, "prompts", "'prompts' must be at least 1.")
        require(self.group >= 1, "group", "'group' must be at least 1.")
        require(self.max_tokens >= 1, "max_tokens", "'max_tokens' must be at least 1.")
        require(0 < self.temperature <= 2, "temperature", "'temperature' must be above 0 and at most 2.")
        require(self.resample >= 0, "resample", "'resample' must not be negative.")
        require(0 <= self.most_failed <= 1, "most_failed", "'most_failed' must be in [0, 1].")


@dataclass(frozen=True, slots=True)
class Rollout:
    """One rewarded answer. `logprobs` has one number in nats for each of `answer.token_ids`.

    Args:
        index: number of its question; answers with the same one are a group.
        logprobs: under the policy that drew it, at the sampling temperature.
        version: steps that this policy had taken; the store's version name for served answers is not a number, so
            those say -1.
    """

    index: int
    answer: Answer
    logprobs: tuple[float, ...]
    version: int
    reward: float
    terms: dict[str, float]

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prompt and answer."""
        return self.answer.prompt_ids + self.answer.token_ids

    def example(self, **streams: Tensor | None) -> Example:
        """The answer's tokens to be learned, as they were sampled.

        Args:
            streams: of the answer's tokens [T], by the names that `Example` has for them; `behaviour_logprobs` are the
                sampler's unless given.
        """
        before = (0.0,) * len(self.answer.prompt_ids)
        mask = (*before, *[1.0] * len(self.answer.token_ids))
        whole = {name: (*before, *stream.tolist()) for name, stream in streams.items() if stream is not None}
        return Example(self.tokens, mask, **{"behaviour_logprobs": before + self.logprobs, **whole})


@dataclass(frozen=True, slots=True)
class Collected:
    """One step's rollouts, groups together, and the number of the next question."""

    rollouts: tuple[Rollout, ...]
    next_question: int
    metrics: dict[str, float]


class Collector:
    """Draws rollouts from a trainer's policy as it is at each call.

    Args:
        engine: on the trainer's own base model.
    """

    def __init__(
        self, trainer: Trainer, engine: Engine, environment: Environment, rewards: Rewards, config: RolloutConfig
    ) -> None:
        require(
            trainer.config.temperature == config.temperature,
            "temperature",
            "The trainer must score at the temperature that is sampled at.",
        )
        self.config = config
        self._trainer = trainer
        self._engine = engine
        self._environment = environment
        self._rewards = rewards

    def collect(self, step: int, next_question: int, moving: bool = False) -> Collected:
        """Sample, reward and (where it matters) rescore the answers of one step.

        Args:
            moving: several updates will be made from them, so that log-probs of the policy as it is now are needed.

        Raises:
            RewardFailing: over `most_failed` of the answers got no reward, or none did.
            InvalidInput: no question fits the context.
        """
        kept: list[Rollout] = []
        drawn: list[Rollout] = []
        passed_over = failed = 0
        for attempt in range(self.config.resample + 1):
            missing = self.config.prompts - len({rollout.index for rollout in kept})
            if missing == 0:
                break
            questions, next_question, too_long = self._questions(next_question, missing)
            passed_over += too_long
            fresh, without_reward = self._draw(questions, step)
            failed += without_reward
            drawn += fresh
            last = attempt == self.config.resample
            kept += fresh if last else _with_variance(fresh)
        failures = self._trainer.ranks.gather([(self._rewards.failures, self._rewards.last_failure)])
        self._check_failures(failed, failed + len(drawn), next((said for _, said in failures if said), ""))
        metrics = describe(drawn, self.config) | {"too_long_prompts": float(passed_over), "kept": float(len(kept))}
        metrics |= {"reward_failures": float(sum(count for count, _ in failures))}
        if self._needs_scores(moving):
            kept, gap = self._rescored(kept)
            metrics |= {} if self.config.temperature != 1.0 else {"sampler_gap": gap}
        return Collected(tuple(kept), next_question, metrics)

    def elsewhere(self, environment: Environment, prompts: int, group: int) -> Collected:
        """The policy's answers to the first `prompts` questions of another environment, rewarded the same way and
        always drawn with the same random numbers: validation."""
        config = replace(self.config, prompts=prompts, group=group, resample=0, recompute=False)
        drawn = Collector(self._trainer, self._engine, environment, self._rewards, config)
        return drawn.collect(0, 0)

    def _questions(self, start: int, count: int) -> tuple[list[tuple[int, Question, list[int]]], int, int]:
        """(number, question, rendered prompt) of the next questions that fit; the number after them; how many did not.

        A prompt is never cut: one that leaves no room for an answer is passed over and counted.
        """
        room = min(self._trainer.model.config.max_position_embeddings, self._engine.context_length)
        room -= self.config.max_tokens
        found: list[tuple[int, Question, list[int]]] = []
        index = start
        in_a_row = 0
        while len(found) < count:
            question = self._environment.question(index)
            ids = list(self._trainer.model.chat_format.render(question.messages))
            if len(ids) <= room:
                found.append((index, question, ids))
                in_a_row = 0
            else:
                in_a_row += 1
            index += 1
            if in_a_row >= MOST_PASSED_OVER:
                raise InvalidInput(
                    f"{in_a_row} questions in a row leave no room for {self.config.max_tokens} tokens of answer in the "
                    "model's context.",
                    param="max_tokens",
                    code="context_length_exceeded",
                )
        return found, index, index - start - count

    def _draw(self, questions: Sequence[tuple[int, Question, list[int]]], step: int) -> tuple[list[Rollout], int]:
        """The rewarded answers to all questions, of which this rank draws and judges its share; and how many answers
        got no reward."""
        ranks = self._trainer.ranks
        own = ranks.share(questions)
        params = [self._params(step, index) for index, _, _ in own]
        drawn = self._trainer.sample(self._engine, [ids for _, _, ids in own], params, n=self.config.group)
        answers = [
            [_answer(question, ids, completion) for completion in group]
            for (_, question, ids), group in zip(own, drawn, strict=True)
        ]
        judged = iter(self._rewards.score([answer for group in answers for answer in group]))
        rewarded = [
            [
                Rollout(index, answer, completion.logprobs, step, said.total, dict(said.terms))
                for answer, completion, said in zip(group, completions, islice(judged, len(group)), strict=True)
                if said.total is not None
            ]
            for (index, _, _), group, completions in zip(own, answers, drawn, strict=True)
        ]
        rollouts = [rollout for group in ranks.gather(rewarded) for rollout in group]
        return rollouts, len(questions) * self.config.group - len(rollouts)

    def _params(self, step: int, index: int) -> SamplingParams:
        seed = int(np.random.SeedSequence([self.config.seed, step, index]).generate_state(1, np.uint64)[0] >> 1)
        return SamplingParams(
            temperature=self.config.temperature, max_tokens=self.config.max_tokens, seed=seed, logprobs=0
        )

    def _check_failures(self, failed: int, answers: int, last: str) -> None:
        if failed > self.config.most_failed * answers or failed == answers:
            raise RewardFailing(
                f"{failed} of {answers} answers got no reward, so the run pauses after its last checkpoint. The last "
                f"failure: {last}. Repair the reward and start the same command again.",
                param="rewards",
            )

    def _needs_scores(self, moving: bool) -> bool:
        if self.config.recompute is not None:
            return self.config.recompute
        rounds = self._trainer.model.decoder.dtype != torch.float32
        return self.config.temperature != 1.0 or (moving and rounds)

    def _rescored(self, rollouts: list[Rollout]) -> tuple[list[Rollout], float]:
        """The rollouts with the trainer's log-probs, and how far a token's lay from the sampler's, nats on average."""
        out, gaps = [], []
        for rollout, own_T in zip(rollouts, policy_logprobs(self._trainer, rollouts), strict=True):
            gaps += (own_T - torch.tensor(rollout.logprobs)).abs().tolist()
            out.append(replace(rollout, logprobs=tuple(own_T.tolist())))
        return out, float(np.mean(gaps)) if gaps else 0.0


class Reference:
    """The policy that a run started from, frozen: what KL is measured to.

    A LoRA run keeps a copy of the adapter that it starts with (none: the base itself); a run of all weights keeps a
    copy of the decoder.
    """

    def __init__(self, trainer: Trainer, start: Lora | None = None) -> None:
        """Call before the first step. `start` is what the trainer's adapter was made from, if anything."""
        self._temperature = trainer.config.temperature
        self._lora = None if start is None else start.scaled(1.0).requires_grad_(False)
        self._decoder = trainer.model.decoder
        if trainer.lora is None:
            self._decoder = copy.deepcopy(trainer.answering().decoder).requires_grad_(False)

    def score(self, rollouts: Sequence[Rollout]) -> list[Tensor]:
        """Log-probs of each answer's tokens, float32 [T] each."""
        return answer_logprobs(self._decoder, self._lora, rollouts, self._temperature)


def policy_logprobs(trainer: Trainer, rollouts: Sequence[Rollout]) -> list[Tensor]:
    """Log-probs of each answer's tokens [T] under the policy as it is now, at its temperature."""
    return answer_logprobs(trainer.model.decoder, trainer.lora, rollouts, trainer.config.temperature)


@torch.no_grad()
def answer_logprobs(
    decoder: Decoder, lora: Lora | None, rollouts: Sequence[Rollout], temperature: float = 1.0
) -> list[Tensor]:
    """Log-probs of each answer's tokens, float32 [T] each; a prompt is computed once for all its answers."""
    device = decoder.head_weight.device

    def look(batch: Batch) -> Sequence[Tensor]:
        layout = Layout.packed(batch.lengths, lora, device, batch.parents)
        moved = batch.to(device)
        hidden_TD = decoder(moved.tokens_T, moved.positions_T, layout)
        logprob_N, _ = token_logprobs(decoder, hidden_TD[moved.sources_N], moved.targets_N, temperature)
        return torch.split(logprob_N, answer_lengths(batch))

    return looked_at(rollouts, SCORED_TOKENS, look)


def looked_at(
    rollouts: Sequence[Rollout], token_budget: int, look: Callable[[Batch], Sequence[Tensor]]
) -> list[Tensor]:
    """What `look` says of each rollout, a row of numbers each, on the CPU.

    Each rank looks at its share of the questions, in batches of at most `token_budget` tokens with shared prompts, and
    hears of the others'. A device is waited for once.

    Args:
        look: one tensor [any length] for each example of a batch.
    """
    ranks = parallel.current()
    members: dict[int, list[int]] = {}
    for i, rollout in enumerate(rollouts):
        members.setdefault(rollout.index, []).append(i)
    groups = grouped(rollouts, [rollout.example() for rollout in rollouts])
    seen: list[Tensor] = []
    for part, own in ranks.parts(groups, token_budget):
        said = look(pack_groups(part, share_prompts=True))
        seen += said if own else ()
    rows = iter(torch.split(torch.cat(seen).cpu(), [len(row) for row in seen]) if seen else ())
    shares = ranks.gather([[next(rows) for _ in numbers] for numbers in ranks.share(list(members.values()))])
    order = [i for numbers in members.values() for i in numbers]
    placed = dict(zip(order, (row for share in shares for row in share), strict=True))
    return [placed[i] for i in range(len(rollouts))]


def answer_lengths(batch: Batch) -> list[int]:
    """Counted tokens of each example of a batch that is on the CPU."""
    lengths: list[int] = torch.bincount(batch.example_N, minlength=len(batch.last_E)).tolist()
    return lengths


def together(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts with those of one question next to each other: the order of `grouped`'s examples."""
    first: dict[int, int] = {}
    for rollout in rollouts:
        first.setdefault(rollout.index, len(first))
    return sorted(rollouts, key=lambda rollout: first[rollout.index])


def grouped(rollouts: Sequence[Rollout], examples: Sequence[Example]) -> list[Group]:
    """The rollouts' examples, those of one prompt in one group."""
    by_prompt: dict[int, list[Example]] = {}
    for rollout, example in zip(rollouts, examples, strict=True):
        by_prompt.setdefault(rollout.index, []).append(example)
    return [Group(tuple(group)) for group in by_prompt.values()]


def sequence_kl(rollouts: Sequence[Rollout], reference: Sequence[Tensor]) -> float:
    """Mean Σ_t log π - log π_ref over answers drawn from π: an unbiased estimate of KL(π ‖ π_ref), nats an answer."""
    sums = [float((torch.tensor(r.logprobs) - ref).sum()) for r, ref in zip(rollouts, reference, strict=True)]
    return sum(sums) / len(sums)


def describe(rollouts: Sequence[Rollout], config: RolloutConfig) -> dict[str, float]:
    """Mean reward and its terms, lengths, how many ended by themselves, and how many groups say nothing."""
    if not rollouts:
        return {}
    lengths = [len(rollout.answer.token_ids) for rollout in rollouts]
    rewards = [rollout.reward for rollout in rollouts]
    out = {
        "reward": float(np.mean(rewards)),
        "reward_std": float(np.std(rewards)),
        "length": float(np.mean(lengths)),
        "finished": float(np.mean([rollout.answer.finished for rollout in rollouts])),
        "distinct_2": float(np.mean([_distinct_2(rollout.answer.token_ids) for rollout in rollouts])),
        "distinct_answers": len({(r.index, r.answer.token_ids) for r in rollouts}) / len(rollouts),
    }
    if config.group > 1:
        out["zero_variance_groups"] = zero_variance_share(rewards, [rollout.index for rollout in rollouts])
    for name in rollouts[0].terms:
        out[f"reward/{name}"] = float(np.mean([rollout.terms[name] for rollout in rollouts]))
    return out


def _answer(question: Question, prompt_ids: Sequence[int], completion: Completion) -> Answer:
    finished = completion.finish_reason == "stop"
    return Answer(question, tuple(prompt_ids), completion.token_ids, completion.text, finished)


def _with_variance(rollouts: list[Rollout]) -> list[Rollout]:
    """The groups in which not every answer earned the same."""
    rewards: dict[int, list[float]] = {}
    for rollout in rollouts:
        rewards.setdefault(rollout.index, []).append(rollout.reward)
    flat = {index for index, group in rewards.items() if zero_variance_share(group, [index] * len(group)) == 1}
    return [rollout for rollout in rollouts if rollout.index not in flat]


def _distinct_2(tokens: Sequence[int]) -> float:
    """Distinct pairs of neighbouring tokens over all of them: 1 without repetition, near 0 in a loop."""
    pairs = list(pairwise(tokens))
    return len(set(pairs)) / len(pairs) if pairs else 1.0
