"""What the rows of a snapshot teach: labels for the head, written pairs, answers to imitate; and the head's own pairs.

Knows rows and how they are tokenised; does not sample, train or decide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tutee.conversation import Message
from tutee.data.rows import PairRow, Reply, Row, SftRow, UnpairedRow, replies_of
from tutee.data.wording import word_count
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Group
from tutee.train.candidates import Candidate
from tutee.train.encode import encode_reply, encode_tokens
from tutee.train.features import Described, feature_matrix
from tutee.train.preference_head import FOLDS, Labels, PreferenceHead, fit_head

ENOUGH_CHOSEN = 20
"""Chosen answers from which on their lengths say what is too short."""
_WHOLE = re.compile(r"[.!?:;)\]\"'”’*`]\s*$")


@dataclass(frozen=True, slots=True)
class Lessons:
    """The rows, sorted by what they are good for."""

    labels: Labels
    pairs: tuple[Group, ...]
    """What a person wrote over what the model had said, one group of two each."""
    imitations: tuple[Group, ...]
    """What people wrote, one group of one each."""
    chosen_texts: tuple[str, ...]
    """Answers that people chose, liked or wrote: what good answers look like."""
    answer_tokens: int
    """Tokens that 95 % of the labelled answers do not exceed; 0 when nobody kept their tokens."""
    too_long: int
    """Rows that do not fit the model's context and were left out."""

    def long_enough(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Which of the texts [n] have as many words as all but a twentieth of the answers that people chose.

        Of shorter ones the head knows too little to call one the best: where people only ever saw answers that were
        too long, it scores an answer the higher the shorter it is.
        """
        counts = [word_count(text) for text in self.chosen_texts]
        least = np.quantile(counts, 0.05) if len(counts) >= ENOUGH_CHOSEN else 0
        return np.array([word_count(text) >= least for text in texts])


def read_lessons(model: Pretrained, rows: Sequence[Row]) -> Lessons:
    """Sort rows. A pair from a correction or demonstration is trained on as it is and teaches the head, too; votes and
    thumbs only teach the head."""
    votes: list[PairRow] = []
    written: list[PairRow] = []
    thumbs: list[UnpairedRow] = []
    pairs, imitations, chosen, too_long = [], [], [], 0
    for row in rows:
        if isinstance(row, UnpairedRow):
            thumbs.append(row)
            chosen += [row.reply.text] if row.label else []
        elif isinstance(row, PairRow) and row.origin.source in ("compare", "thumb"):
            votes.append(row)
            chosen.append(row.chosen.text)
        else:
            group = _group(model, row)
            too_long += group is None
            written += [row] if isinstance(row, PairRow) else []
            if group is not None and len(group.examples) == 2 and group.examples[0].tokens != group.examples[1].tokens:
                pairs.append(group)
            elif group is not None and len(group.examples) == 1:
                imitations.append(group)
                chosen.append(row.reply.text if isinstance(row, SftRow) else "")
    lengths = [len(r.sampled.token_ids) for row in rows for r in replies_of(row).values() if r.sampled is not None]
    return Lessons(
        labels=_labels(votes, thumbs, written),
        pairs=tuple(pairs),
        imitations=tuple(imitations),
        chosen_texts=tuple(chosen),
        answer_tokens=int(np.quantile(lengths, 0.95)) if lengths else 0,
        too_long=too_long,
    )


def learn_head(labels: Labels, seed: int) -> PreferenceHead | None:
    """The head, or None when there are too few labels to fit and check one."""
    if len(labels.chosen) < FOLDS and len(labels.thumbs) < 2 * FOLDS:
        return None
    return fit_head(labels, seed)


def head_pairs(
    model: Pretrained,
    head: PreferenceHead,
    lessons: Lessons,
    prompts: Sequence[Sequence[Message]],
    candidates: Sequence[Sequence[Candidate]],
) -> list[Group]:
    """The best over the worst answer of each prompt, as the head sees them; prompts where it sees no difference drop
    out."""
    groups = []
    for messages, answers in zip(prompts, candidates, strict=True):
        text = question(messages)
        may_win = lessons.long_enough([answer.text for answer in answers])
        choice = head.best_and_worst(feature_matrix([answer.described(text) for answer in answers]), may_win)
        if choice is None:
            continue
        examples = [encode_tokens(model, a.prompt_ids, a.token_ids, a.logprobs) for a in (answers[i] for i in choice)]
        if all(example is not None for example in examples):
            groups.append(Group(tuple(example for example in examples if example is not None), ranks=(0, 1)))
    return groups


def question(messages: Sequence[Message]) -> str:
    """What was asked last."""
    return next((message.content for message in reversed(messages) if message.role == "user"), "")


def describe_text(prompt: Sequence[Message], text: str) -> Described:
    """An answer of which only the text is known; its last character must tell whether it was finished."""
    return Described(question(prompt), text, bool(_WHOLE.search(text)))


def describe(prompt: Sequence[Message], reply: Reply) -> Described:
    """A stored answer as the features see it."""
    sampled = reply.sampled
    if reply.generation_id is None:
        return Described(question(prompt), reply.text)
    if sampled is None or sampled.finish_reason is None:
        return describe_text(prompt, reply.text)
    mean = float(np.mean(sampled.logprobs)) if sampled.logprobs else None
    return Described(question(prompt), reply.text, sampled.finish_reason == "stop", mean)


def _labels(votes: Sequence[PairRow], thumbs: Sequence[UnpairedRow], written: Sequence[PairRow]) -> Labels:
    return Labels(
        chosen=feature_matrix([describe(row.prompt, row.chosen) for row in votes]),
        rejected=feature_matrix([describe(row.prompt, row.rejected) for row in votes]),
        weight=np.array([row.weight for row in votes], dtype=np.float64),
        thumbs=feature_matrix([describe(row.prompt, row.reply) for row in thumbs]),
        thumb_up=np.array([row.label for row in thumbs], dtype=np.bool_),
        written=feature_matrix([describe(row.prompt, row.chosen) for row in written]),
        replaced=feature_matrix([describe(row.prompt, row.rejected) for row in written]),
    )


def _group(model: Pretrained, row: PairRow | SftRow) -> Group | None:
    replies = (row.chosen, row.rejected) if isinstance(row, PairRow) else (row.reply,)
    examples = [encode_reply(model, row.prompt, reply) for reply in replies]
    if any(example is None for example in examples):
        return None
    ranks = (0, 1) if isinstance(row, PairRow) else None
    return Group(tuple(example for example in examples if example is not None), row.weight, ranks)
