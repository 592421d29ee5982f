"""Which sequences take part in the next step, and with how many tokens.

Knows ranks, blocks and budgets; nothing of tensors. Every running stream gets its token in every step; what is left of
the step's token budget goes to prompts, in pieces, so that a long prompt delays the streams beside it by one piece at
most. Places are given by priority, then to the owner who was served least. When blocks run out, the sequence of the
lowest rank (priority, then arrival) gives up its own and starts over later, usually finding most of them still in the
cache.
"""

from __future__ import annotations

import time
from bisect import insort
from dataclasses import dataclass

from tutee.engine.blocks import BlockPool, Match
from tutee.engine.door import Door
from tutee.engine.sequence import Sequence
from tutee.engine.shares import GENERATED_COST, Shares
from tutee.engine.speculation import Speculation
from tutee.engine.waiting import Waiting


@dataclass(frozen=True, slots=True)
class Scheduled:
    """`count` new tokens of one sequence, from position `sequence.computed` on.

    The last of them may be guesses (`draft`): what the sequence might say next. They are computed as if they were true,
    and what is sampled after each shows how many were.
    """

    sequence: Sequence
    count: int
    draft: tuple[int, ...] = ()

    @property
    def samples(self) -> bool:
        """Whether this brings the sequence to its end, so that its next token can be sampled."""
        return self.count - len(self.draft) == self.sequence.remaining

    @property
    def tokens(self) -> list[int]:
        """The `count` tokens to compute, guesses included."""
        done = self.sequence.computed
        return [*self.sequence.tokens[done : done + self.count - len(self.draft)], *self.draft]


class Scheduler:
    """The sequences that wait, and those that run in order of rank (who comes last gives up its blocks first)."""

    def __init__(
        self, pool: BlockPool, *, max_batch: int, max_step_tokens: int, door: Door, speculation: Speculation
    ) -> None:
        self._pool = pool
        self._max_batch = max_batch
        self._max_step_tokens = max_step_tokens
        self._door = door
        self._speculation = speculation
        self._shares = Shares()
        self.waiting = Waiting(self._shares)
        self.running: list[Sequence] = []
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """A new sequence, which has its place at the door already."""
        self._shares.join(sequence.request.owner)
        self.waiting.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and free its blocks."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)
            if not sequence.admitted_before:
                self._door.leave(sequence.request.priority, sequence.request.owner)
        else:
            self.running.remove(sequence)
            self._release(sequence)
        self._shares.leave(sequence.request.owner)

    def preempt_all(self) -> None:
        """Everybody starts over (the weights behind the cached keys changed)."""
        for sequence in list(self.running):
            self._preempt(sequence)

    def schedule(self) -> list[Scheduled]:
        """The next step's work; empty when there is nothing to do."""
        self._make_way()
        streams = self._grow_streams()
        budget = self._prompt_budget(len(streams))
        prompts = []
        for sequence in self.running:
            if sequence.remaining > 1 and budget > 0:
                prompts.append(Scheduled(sequence, min(sequence.remaining, budget)))
                budget -= prompts[-1].count
        prompts += self._admit(budget)
        # Guesses take what a step of streams leaves idle; beside prompts nothing is.
        return streams + prompts if prompts else self._guess(streams)

    def _prompt_budget(self, streams: int) -> int:
        """Prompt tokens of a step. Beside streams, which wait for the whole of it, it is half as long; but some prompt
        always gets on, however many they are."""
        most = self._max_step_tokens
        return max(most // 2 - streams if streams else most, most // 4, self._pool.block_size)

    def advance(self, item: Scheduled, accepted: int = 0) -> None:
        """One item of a step is done: its keys and values are in the cache, and full blocks can be found by others from
        now on. Of its guessed tokens the first `accepted` were true, and are among the sequence's tokens now."""
        sequence, size = item.sequence, self._pool.block_size
        before = sequence.computed
        sequence.computed += item.count - len(item.draft) + accepted
        for place in range(before // size, sequence.computed // size):
            if place >= len(sequence.contents):
                self._announce(sequence, place)
            if place * size >= sequence.reused:
                self._pool.set_ready(sequence.blocks[place])

    def generated(self, sequence: Sequence, tokens: int) -> None:
        """Charge the owner for new tokens."""
        self._shares.charge(sequence.request.owner, GENERATED_COST * tokens)

    def _make_way(self) -> None:
        """Let go of low ranks while somebody of a better priority waits and finds no place."""
        while self.waiting and self.running:
            first, last = next(self.waiting.in_turn()), self.running[-1]
            if first.request.priority >= last.request.priority:
                return
            if len(self.running) < self._max_batch and self._fits(first):
                return
            self._preempt(last)

    def _fits(self, sequence: Sequence) -> bool:
        match = self._pool.find(sequence.version.root, sequence.reusable)
        return match.next_is_coming or self._room(sequence, match)

    def _room(self, sequence: Sequence, match: Match) -> bool:
        """Whether blocks for all its tokens are there, and a little room for those already running, or they would push
        the newcomer out again at once."""
        needed = self._pool.blocks_for(len(sequence.tokens)) - len(match.blocks)
        reserve = min(len(self.running), self._pool.capacity // 16)
        return needed + reserve <= self._pool.available_beside(match.blocks)

    def _grow_streams(self) -> list[Scheduled]:
        """One token for every sequence that has its whole past in the cache, and a block for it where one is needed."""
        streams = []
        for sequence in list(self.running):
            if not sequence.blocks or sequence.remaining != 1:  # No blocks: it was preempted a moment ago.
                continue
            if sequence.computed == len(sequence.blocks) * self._pool.block_size:
                # Until itself at the worst: all of better rank have their token in this step already.
                while sequence.blocks and not self._pool.available:
                    self._preempt(self.running[-1])
                if not sequence.blocks:
                    continue
                sequence.blocks += self._pool.allocate(1)
            streams.append(Scheduled(sequence, 1))
        return streams

    def _guess(self, streams: list[Scheduled]) -> list[Scheduled]:
        """The same streams with guessed tokens where that pays, as far as blocks are free: nobody is pushed out."""
        drafts = self._speculation.draft([item.sequence for item in streams])
        return [
            self._with_draft(item.sequence, draft) if draft else item
            for item, draft in zip(streams, drafts, strict=True)
        ]

    def _with_draft(self, sequence: Sequence, draft: tuple[int, ...]) -> Scheduled:
        held = len(sequence.tokens)
        needed = self._pool.blocks_for(held + len(draft)) - len(sequence.blocks)
        if 0 < needed <= self._pool.available - len(self.running):
            sequence.blocks += self._pool.allocate(needed)
        draft = draft[: len(sequence.blocks) * self._pool.block_size - held]
        return Scheduled(sequence, 1 + len(draft), draft)

    def _admit(self, budget: int) -> list[Scheduled]:
        """Start waiting sequences in their turn while there is room; each gets blocks for all the tokens it has."""
        admitted: list[Scheduled] = []
        passed_over = 0
        for sequence in self.waiting.in_turn() if self.waiting else ():
            if len(self.running) >= self._max_batch or budget <= 0 or passed_over > self._max_batch:
                break
            match = self._pool.find(sequence.version.root, sequence.reusable)
            if match.next_is_coming:
                passed_over += 1  # Somebody is computing more of this prompt: wait for it instead of doing it twice.
                continue
            if not self._room(sequence, match):
                break
            self.waiting.remove(sequence)
            self._start(sequence, match)
            admitted.append(Scheduled(sequence, min(sequence.remaining, budget)))
            budget -= admitted[-1].count
        return admitted

    def _start(self, sequence: Sequence, match: Match) -> None:
        size = self._pool.block_size
        self._pool.hold(match.blocks)
        needed = self._pool.blocks_for(len(sequence.tokens)) - len(match.blocks)
        sequence.blocks = match.blocks + self._pool.allocate(needed)
        sequence.contents = match.contents
        sequence.reused = len(match.blocks) * size
        # A prompt found whole still needs its last token computed, to know what comes next.
        sequence.computed = min(sequence.reused, len(sequence.tokens) - 1)
        if not sequence.admitted_before:
            self._door.leave(sequence.request.priority, sequence.request.owner)
            self._shares.charge(sequence.request.owner, sequence.remaining)
            sequence.request.cached_tokens = sequence.computed
            sequence.admitted_before = True
            sequence.admitted_at = time.monotonic()
        for place in range(len(match.blocks), len(sequence.tokens) // size):
            self._announce(sequence, place)
        insort(self.running, sequence, key=_rank)

    def _announce(self, sequence: Sequence, place: int) -> None:
        parent = sequence.contents[place - 1] if place else sequence.version.root
        start = place * self._pool.block_size
        sequence.contents.append(self._pool.announce(sequence.blocks[place], parent, sequence.tokens, start))

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.running.remove(sequence)
        self._release(sequence)
        self.waiting.add(sequence)

    def _release(self, sequence: Sequence) -> None:
        self._pool.release(sequence.blocks)
        sequence.blocks, sequence.contents = [], []
        sequence.computed = sequence.reused = 0


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank
