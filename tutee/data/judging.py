"""One piece of feedback at a time: which rows it makes, or the one plain reason why it makes none.

| feedback | rows |
| --- | --- |
| correction | pair (corrected ≻ original, margin 3), and the correction as an SFT row |
| demonstration | SFT row, and pair (demonstration ≻ the first sampled sibling, margin 3) if there is one |
| comparison | pair (margin: its strength, or 1); both bad: two bad labels; a tie says nothing about an order |
| thumb | a good or a bad label; up and down on answers to one question: also a pair, margin 1 |

Does not know what other conversations hold (duplicates, splits: `from_feedback.py`), nor how a row is trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import cast

from tutee.conversation import Message
from tutee.data.rows import Origin, PairRow, Reply, Row, Sampled, SftRow, Source, UnpairedRow
from tutee.data.threads import Thread
from tutee.safety.redact import redact
from tutee.store import Store
from tutee.store.records import StoredGeneration, StoredMessage, StoredPresentation
from tutee.store.schema import Feedback

MIN_DWELL_MS = 2000
"""Two answers cannot be read in less; such a vote is a slip or a script."""
WRITTEN_MARGIN = 3.0
"""Margin of what a person wrote over what was sampled (comparisons have 1 to 3, thumbs 1)."""


class Reason(StrEnum):
    """Why a piece of feedback is not learned from, in words for the person who gave it."""

    NO_CONSENT = "no consent to learn from this chat"
    SUPERSEDED = "replaced by a newer judgement"
    WITHDRAWN = "withdrawn"
    TIE = "a tie does not say which answer is better"
    TOO_FAST = "voted in under two seconds"
    NOT_TRAINED_ON = "this kind of feedback is read by people, not learned from"
    NO_QUESTION = "the answer does not follow a question"
    OTHER_QUESTION = "the answers are to different questions"
    NOT_FINISHED = "the answer was not finished"
    EMPTY = "the answer is empty"
    SAME = "the answers say the same"
    UNCHANGED = "the correction changes nothing"
    NOTHING_LEFT = "nothing is left once personal data is removed"
    DUPLICATE = "the same was said before"
    SET_ASIDE = "from a person kept for evaluation, on a question that others teach"


Outcome = list[Row] | Reason


class _UnusableError(Exception):
    """Carries the reason out of the making of a row."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


class Judge:
    """Turns live events into rows, all in the train split: splits are filled in by whoever knows all questions."""

    def __init__(self, store: Store, threads: Mapping[str, Thread], events: Sequence[Feedback]) -> None:
        self._threads = threads
        self._events = events
        shown = store.presentations.get_many(
            e.presentation_id for e in events if e.presentation_id and e.kind == "compare"
        )
        self._shown: Mapping[str, StoredPresentation] = shown
        touched = {e.message_id for e in events} | {id for one in shown.values() for id in one.message_ids}
        wanted = {
            sibling.generation_id
            for thread in threads.values()
            for message in thread.messages.values()
            if message.id in touched
            for sibling in thread.siblings(message)
        }
        self._generations: Mapping[str, StoredGeneration] = store.generations.get_many(id for id in wanted if id)

    def outcomes(self) -> dict[str, Outcome]:
        """For each event, in their order: its rows or the reason why there are none."""
        make: dict[str, Callable[[Feedback, Thread], list[Row]]] = {
            "compare": self._compare,
            "edit": self._edit,
            "demo": self._demo,
            "thumb": self._thumb,
        }
        outcomes: dict[str, Outcome] = {}
        for event in self._events:
            thread = self._threads.get(event.conversation_id or "")
            try:
                if event.kind not in make:
                    raise _UnusableError(Reason.NOT_TRAINED_ON)
                if thread is None:
                    raise _UnusableError(Reason.NO_CONSENT)
                outcomes[event.id] = make[event.kind](event, thread)
            except _UnusableError as unusable:
                outcomes[event.id] = unusable.reason
        self._pair_thumbs(outcomes)
        return outcomes

    def _compare(self, event: Feedback, thread: Thread) -> list[Row]:
        winner = event.payload["winner"]
        if winner == "tie":
            raise _UnusableError(Reason.TIE)
        if event.payload.get("dwell_ms", MIN_DWELL_MS) < MIN_DWELL_MS:
            raise _UnusableError(Reason.TOO_FAST)
        shown = self._shown.get(event.presentation_id or "")
        answers = [thread.messages[id] for id in shown.message_ids[:2] if id in thread.messages] if shown else []
        if len(answers) != 2 or answers[0].parent_id != answers[1].parent_id:
            raise _UnusableError(Reason.OTHER_QUESTION)
        first, second = answers
        prompt, origin = _question(event, thread, first)
        a, b = self._finished(first), self._finished(second)
        if winner == "both_bad":
            return [UnpairedRow(prompt, reply, False, origin) for reply in (a, b)]
        if _clean(a.text) == _clean(b.text):
            raise _UnusableError(Reason.SAME)
        chosen, rejected = (a, b) if winner == "a" else (b, a)
        return [PairRow(prompt, chosen, rejected, origin, margin=float(event.strength or 1))]

    def _edit(self, event: Feedback, thread: Thread) -> list[Row]:
        message, corrected = thread.messages[event.message_id or ""], _written(event.payload["content"])
        prompt, origin = _question(event, thread, message)
        if corrected.text.strip() == message.content.strip():
            raise _UnusableError(Reason.UNCHANGED)
        if _clean(corrected.text) == _clean(message.content):
            raise _UnusableError(Reason.NOTHING_LEFT)
        rows: list[Row] = [SftRow(prompt, corrected, origin)]
        if message.state == "complete" and message.content.strip():
            rows.append(PairRow(prompt, corrected, self._reply(message), origin, margin=WRITTEN_MARGIN))
        return rows

    def _demo(self, event: Feedback, thread: Thread) -> list[Row]:
        if event.message_id is None:
            raise _UnusableError(Reason.NO_QUESTION)
        message = thread.messages[event.message_id]
        written = _written(message.content)
        prompt, origin = _question(event, thread, message)
        rows: list[Row] = [SftRow(prompt, written, origin)]
        sampled = (m for m in thread.siblings(message) if m.generation_id and m.state == "complete")
        other = next((m for m in sampled if _clean(m.content) not in ("", _clean(written.text))), None)
        if other is not None:
            rows.append(PairRow(prompt, written, self._reply(other), origin, margin=WRITTEN_MARGIN))
        return rows

    def _thumb(self, event: Feedback, thread: Thread) -> list[Row]:
        if event.payload["value"] == 0:
            raise _UnusableError(Reason.WITHDRAWN)
        message = thread.messages[event.message_id or ""]
        prompt, origin = _question(event, thread, message)
        return [UnpairedRow(prompt, self._finished(message), event.payload["value"] > 0, origin)]

    def _pair_thumbs(self, outcomes: dict[str, Outcome]) -> None:
        """Up and down by one person on answers to one question also order them; shared out if there are several."""
        ups: dict[tuple[str, str | None], list[Feedback]] = {}
        downs: dict[tuple[str, str | None], list[Feedback]] = {}
        for event in self._events:
            if event.kind == "thumb" and isinstance(outcomes[event.id], list):
                message = self._threads[event.conversation_id or ""].messages[event.message_id or ""]
                side = ups if event.payload["value"] > 0 else downs
                side.setdefault((event.actor_id, message.parent_id), []).append(event)
        for key in ups.keys() & downs.keys():
            for up in ups[key]:
                for down in downs[key]:
                    older, newer = sorted((up, down), key=lambda event: (event.created_at, event.id))
                    good, bad = (self._labelled(outcomes, event) for event in (up, down))
                    if _clean(good.reply.text) == _clean(bad.reply.text):
                        continue
                    origin = replace(good.origin, feedback_ids=(older.id, newer.id))
                    weight = 1.0 / (len(ups[key]) * len(downs[key]))
                    rows = outcomes[newer.id]
                    assert isinstance(rows, list)
                    rows.append(PairRow(good.prompt, good.reply, bad.reply, origin, weight=weight))

    @staticmethod
    def _labelled(outcomes: Mapping[str, Outcome], event: Feedback) -> UnpairedRow:
        rows = outcomes[event.id]
        assert isinstance(rows, list)
        assert isinstance(rows[0], UnpairedRow)
        return rows[0]

    def _finished(self, message: StoredMessage) -> Reply:
        if message.state != "complete":
            raise _UnusableError(Reason.NOT_FINISHED)
        return _worth(self._reply(message))

    def _reply(self, message: StoredMessage) -> Reply:
        generation = self._generations.get(message.generation_id or "")
        if generation is None:
            return Reply(message.content)
        sampled = Sampled(
            prompt_ids=tuple(generation.prompt_ids.tolist()),
            token_ids=tuple(generation.token_ids.tolist()),
            logprobs=tuple(generation.logprobs.tolist()),
            tokenizer_sha256=generation.tokenizer_sha256,
            template_sha256=generation.template_sha256,
            finish_reason=generation.finish_reason,
        )
        return Reply(message.content, generation.id, generation.version_id, sampled if sampled.token_ids else None)


def _clean(text: str) -> str:
    """The text as a snapshot will hold it: answers that differ only in what is scrubbed are the same answer."""
    return redact(text).text.strip()


def _written(text: str) -> Reply:
    return _worth(Reply(text))


def _worth(reply: Reply) -> Reply:
    """The reply, if there is something in it."""
    if not reply.text.strip():
        raise _UnusableError(Reason.EMPTY)
    redacted = redact(reply.text)
    if redacted.entities and not any(c.isalnum() for c in redacted.remainder):
        raise _UnusableError(Reason.NOTHING_LEFT)
    return reply


def _question(event: Feedback, thread: Thread, answer: StoredMessage) -> tuple[tuple[Message, ...], Origin]:
    """What was asked, and the origin of the rows that come of it."""
    if answer.parent_id is None or thread.messages[answer.parent_id].role != "user":
        raise _UnusableError(Reason.NO_QUESTION)
    origin = Origin(
        source=cast(Source, event.kind),
        feedback_ids=(event.id,),
        actor_id=event.actor_id,
        conversation_id=thread.conversation.id,
        question_id=answer.parent_id,
    )
    return thread.prompt(answer.parent_id), origin
