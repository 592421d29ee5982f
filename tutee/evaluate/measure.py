"""The examination of a candidate: every measurement that the gate reads, as scores.

    preference.accuracy        held-out comparisons: does it find the chosen answer likelier than the base does?
    preference.margin          the same in nats
    preference.reward_accuracy does the reward learned from training feedback agree with held-out comparisons?
    preference.reward_gain     that reward on fresh answers, candidate minus live
    corrections.likelihood     held-out corrections and demonstrations, nats per token gained over live
    drift.kl, drift.length_ratio, drift.short_share, drift.distinct_2, drift.finished
    capability.lost            share of probe items that live gets right and the candidate wrong
    sycophancy.flip_increase   rise of the rate at which a right answer is given up

Knows no store: `improve.py` writes the scores down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tutee import intervals
from tutee.conversation import Message
from tutee.data.rows import PairRow, Row, SftRow
from tutee.data.wording import distinct_2, short_count, short_share, word_count
from tutee.engine.request import Completion, SamplingParams
from tutee.errors import InvalidInput
from tutee.evaluate import drift, preference
from tutee.evaluate.gate import Score
from tutee.evaluate.preference import Reward
from tutee.evaluate.probes import EVERYDAY_PROMPTS, DoubtItem, capability_items, doubt_items
from tutee.evaluate.subject import Subject


@dataclass(frozen=True, slots=True)
class ExamConfig:
    """Size of the examination. Tokens are per answer."""

    prompts: int = 96
    """Conversations on which fresh answers are compared: enough to tell a tenth of short answers from a thirtieth."""
    max_tokens: int = 128
    temperature: float = 0.7
    probe_items: int = 128
    probe_tokens: int = 32
    seed: int = 20
    """Of the probe items and of sampling: the same for every version, so that scores can be compared."""

    def __post_init__(self) -> None:
        ranges = {"prompts": 1000, "max_tokens": 4096, "probe_items": 10_000, "probe_tokens": 4096}
        for name, most in ranges.items():
            if not 1 <= getattr(self, name) <= most:
                raise InvalidInput(f"'{name}' must be between 1 and {most}.", param=name, code="invalid_value")
        if not 0 <= self.temperature <= 2:
            raise InvalidInput("'temperature' must be between 0 and 2.", param="temperature", code="invalid_value")


@dataclass(frozen=True, slots=True)
class Material:
    """What the candidate is examined with, apart from the generated probes.

    Args:
        chosen: answers that people chose or wrote in the training data: how long good answers are.
        held_out: rows that nobody trained on.
        prompts: conversations ending in a user turn, those that were held out first; may be empty.
        reward: the learned reward, if the job made one.
    """

    chosen: Sequence[str] = ()
    held_out: Sequence[Row] = ()
    prompts: Sequence[Sequence[Message]] = ()
    reward: Reward | None = None


def chosen_texts(rows: Sequence[Row]) -> list[str]:
    """The better answers of pairs, and what people wrote."""
    pairs = [row.chosen.text for row in rows if isinstance(row, PairRow)]
    return pairs + [row.reply.text for row in rows if isinstance(row, SftRow)]


Tick = Callable[[str, int, int], None]
"""Called with (part, done, total); what it raises stops the examination."""


def measure(
    candidate: Subject, live: Subject, base: Subject, material: Material, config: ExamConfig, tick: Tick
) -> list[Score]:
    """Examine the candidate against the live version. `base` is the model that both were trained from."""
    return [
        *_held_out_feedback(candidate, live, base, material),
        *_fresh_answers(candidate, live, material, config, tick),
        *_probes(candidate, live, config, tick),
    ]


def _held_out_feedback(candidate: Subject, live: Subject, base: Subject, material: Material) -> Iterator[Score]:
    pairs = [row for row in material.held_out if isinstance(row, PairRow)]
    written = [row for row in material.held_out if isinstance(row, SftRow)]
    if pairs:
        margins = preference.log_ratio_margins(candidate, base, pairs)
        yield Score(
            "preference.accuracy", len(pairs), *preference.accuracy(margins), "block", "Wilson, log-ratio to the base"
        )
        yield Score("preference.margin", len(pairs), *intervals.mean(margins), "info", "bootstrap")
        if material.reward is not None:
            by_reward = preference.accuracy(preference.reward_margins(material.reward, pairs))
            yield Score("preference.reward_accuracy", len(pairs), *by_reward, "info", "Wilson")
    if written:
        gains = preference.correction_gains(candidate, live, written)
        yield Score("corrections.likelihood", len(written), *intervals.mean(gains), "warn", "paired bootstrap")


def _fresh_answers(
    candidate: Subject, live: Subject, material: Material, config: ExamConfig, tick: Tick
) -> Iterator[Score]:
    asked = [p for p in (*material.prompts, *EVERYDAY_PROMPTS) if candidate.fits(p)][: config.prompts]
    params = SamplingParams(temperature=config.temperature, max_tokens=config.max_tokens, logprobs=0, seed=config.seed)
    ours = candidate.answer(asked, params, lambda done, total: tick("answers", done, 2 * total))
    theirs = live.answer(asked, params, lambda done, total: tick("answers", total + done, 2 * total))
    live_logprobs = live.score_answers(asked, [answer.token_ids for answer in ours])
    yield Score(
        "drift.kl",
        len(asked),
        *drift.kl_per_reply([answer.logprobs for answer in ours], live_logprobs),
        "block",
        "k3 estimator, bootstrap, nats per reply",
    )
    yield from _lengths(ours, theirs, material)
    if material.reward is not None:
        gains = [
            material.reward(prompt, a.text) - material.reward(prompt, b.text)
            for prompt, a, b in zip(asked, ours, theirs, strict=True)
        ]
        yield Score("preference.reward_gain", len(asked), *intervals.mean(gains), "info", "paired bootstrap")


def _lengths(ours: Sequence[Completion], theirs: Sequence[Completion], material: Material) -> Iterator[Score]:
    our_texts, their_texts = [a.text for a in ours], [a.text for a in theirs]
    chosen = material.chosen
    n = len(our_texts)
    ratio = drift.length_ratio(our_texts, their_texts)
    detail = {
        "median_words": float(np.median([word_count(text) for text in our_texts])),
        "candidate": drift.length_quantiles(our_texts),
        "live": drift.length_quantiles(their_texts),
    }
    if chosen:
        quantiles = drift.length_quantiles(chosen)
        detail |= {"chosen_q05": quantiles["q05"], "chosen_q95": quantiles["q95"]}
    yield Score("drift.length_ratio", n, ratio, ratio, ratio, "block", "ratio of medians", detail)
    short = {"live": short_share(their_texts), "chosen": short_share(chosen)}
    share = intervals.share(short_count(our_texts), n)
    yield Score("drift.short_share", n, *share, "block", "under 8 words, Wilson", short)
    before, now = (float(np.mean([distinct_2(text) for text in texts])) for texts in (their_texts, our_texts))
    kept = now / before if before else 1.0
    yield Score("drift.distinct_2", n, kept, kept, kept, "block", "ratio to live", {"candidate": now, "live": before})
    finished = sum(a.finish_reason == "stop" for a in ours)
    ended = {"live": sum(a.finish_reason == "stop" for a in theirs) / n}
    yield Score("drift.finished", n, *intervals.share(finished, n), "info", "ended by the model", ended)


def _probes(candidate: Subject, live: Subject, config: ExamConfig, tick: Tick) -> Iterator[Score]:
    items = capability_items(config.seed, config.probe_items)
    ours, theirs = _short_answers(candidate, live, [item.prompt() for item in items], "probes", config, tick)
    known = [i for i, item in enumerate(items) if item.right(theirs[i])]
    lost = [items[i] for i in known if not items[i].right(ours[i])]
    kinds = {kind: sum(item.kind == kind for item in lost) for kind in ("arithmetic", "copying", "format", "facts")}
    detail = {
        "asked": len(items),
        "lost": kinds,
        "candidate_right": sum(item.right(answer) for item, answer in zip(items, ours, strict=True)),
        "examples": [item.question for item in lost[:5]],
    }
    estimate, lo, hi = intervals.share(len(lost), len(known))
    yield Score("capability.lost", len(known), estimate if known else 0.0, lo, hi, "block", "Wilson", detail)

    doubted = [doubts for doubts in (doubt_items(items[i]) for i in known) if doubts]
    asked = [doubt for doubts in doubted for doubt in doubts]
    ours, theirs = _short_answers(candidate, live, [doubt.prompt() for doubt in asked], "doubts", config, tick)
    now, before = _given_up(doubted, ours), _given_up(doubted, theirs)
    rates = {"candidate": _mean(now), "live": _mean(before), "doubts": len(asked)}
    rise = intervals.matched_difference([a - b for a, b in zip(now, before, strict=True)])
    yield Score("sycophancy.flip_increase", len(doubted), *rise, "block", "Agresti-Min", rates)


def _given_up(doubted: Sequence[Sequence[DoubtItem]], answers: Sequence[str]) -> list[float]:
    """The share of its doubts to which each item was given up."""
    said = iter(answers)
    return [_mean([doubt.flipped(next(said)) for doubt in doubts]) for doubts in doubted]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _short_answers(
    candidate: Subject, live: Subject, prompts: Sequence[Sequence[Message]], phase: str, config: ExamConfig, tick: Tick
) -> tuple[list[str], list[str]]:
    """What both say greedily: the candidate's texts, the live version's."""
    n, params = len(prompts), SamplingParams(temperature=0.0, max_tokens=config.probe_tokens)
    ours = candidate.answer(prompts, params, lambda done, _: tick(phase, done, 2 * n))
    theirs = live.answer(prompts, params, lambda done, _: tick(phase, n + done, 2 * n))
    return [answer.text for answer in ours], [answer.text for answer in theirs]
