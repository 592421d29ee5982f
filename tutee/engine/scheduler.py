"""Which sequences take part in the next step, and with how many tokens.

Knows ranks (priority, then arrival), blocks and budgets; nothing of tensors. Every running stream gets its token in
every step; what is left of the step's token budget goes to prompts, in pieces, so that a long prompt delays the
streams beside it by one piece at most. When blocks run out, the sequence of the lowest rank gives up its own and
starts over later (usually finding most of them still in the cache).
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass

from tutee.engine.blocks import BlockPool, Match
from tutee.engine.sequence import Sequence


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
    """The waiting and the running sequences, both kept in order of rank."""

    def __init__(self, pool: BlockPool, *, max_batch: int, max_step_tokens: int) -> None:
        self._pool = pool
        self._max_batch = max_batch
        self._max_step_tokens = max_step_tokens
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = 0

    def add(self, sequence: Sequence) -> None:
        insort(self.waiting, sequence, key=_rank)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        else:
            self.waiting.remove(sequence)

    def preempt_all(self) -> None:
        """Everybody starts over (the weights behind the cached keys changed)."""
        for sequence in list(self.running):
            self._preempt(sequence)

    def schedule(self) -> list[Scheduled]:
        """The next step's work; empty when there is nothing to do."""
        self._make_way()
        work = self._grow_streams()
        budget = max(self._max_step_tokens - len(work), self._pool.block_size)
        for sequence in self.running:
            if sequence.remaining > 1 and budget > 0:
                work.append(Scheduled(sequence, min(sequence.remaining, budget)))
                budget -= work[-1].count
        return work + self._admit(budget)

    def computed(self, work: Iterable[Scheduled]) -> None:
        """The step is done: its keys and values are in the cache, and full blocks can be found by others from now
        on."""
        size = self._pool.block_size
        for item in work:
            sequence = item.sequence
            before, sequence.computed = sequence.computed, sequence.computed + item.count
            for place in range(before // size, sequence.computed // size):
                if place >= len(sequence.contents):
                    self._announce(sequence, place)
                if place * size >= sequence.reused:
                    self._pool.set_ready(sequence.blocks[place])

    def _make_way(self) -> None:
        """Let go of low ranks while somebody of a better priority waits and finds no place."""
        while self.waiting and self.running:
            first, last = self.waiting[0], self.running[-1]
            if first.request.priority >= last.request.priority:
                return
            if len(self.running) < self._max_batch and self._fits(first):
                return
            self._preempt(last)

    def _fits(self, sequence: Sequence) -> bool:
        match = self._pool.find(sequence.version.root, sequence.tokens)
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

    def _admit(self, budget: int) -> list[Scheduled]:
        """Start waiting sequences by rank while there is room; each gets blocks for all the tokens it has."""
        admitted = []
        position = 0
        while position < len(self.waiting) and len(self.running) < self._max_batch and budget > 0:
            sequence = self.waiting[position]
            match = self._pool.find(sequence.version.root, sequence.tokens)
            if match.next_is_coming:
                position += 1  # Somebody is computing more of this prompt: wait for it instead of doing it twice.
                continue
            if not self._room(sequence, match):
                break
            self.waiting.pop(position)
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
        insort(self.waiting, sequence, key=_rank)

    def _release(self, sequence: Sequence) -> None:
        self._pool.release(sequence.blocks)
        sequence.blocks, sequence.contents = [], []
        sequence.computed = sequence.reused = 0


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank
