"""Blocks of the paged cache: which are free, who holds them, and which prefixes they already contain.

A block is room for `block_size` tokens' keys and values; this module only knows block numbers, never the tensors. Full
blocks stay findable after their sequence ended, until the room is needed (least recently used first). A block is
found by the pair (its predecessor's content, its own tokens), compared token by token, so a hash collision cannot
hand out another prompt's keys; the first predecessor of every chain is the version, so versions never share. Block 0
is never handed out: what must be computed but not kept is written there.
"""

from __future__ import annotations

import itertools
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

SCRATCH_BLOCK = 0
Key = tuple[int, bytes]


@dataclass(slots=True)
class _Block:
    holders: int = 0
    key: Key | None = None
    content: int = 0
    """Number of this content: unique for ever, so a child of an evicted block can never be found under its
    successor."""
    ready: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """The longest cached prefix: its blocks, their contents, and whether the next block is being computed right now."""

    blocks: list[int]
    contents: list[int]
    next_is_coming: bool


class BlockPool:
    """All blocks of one cache. Not thread-safe: belongs to whoever steps the engine."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        """`num_blocks` counts the scratch block, which is never handed out."""
        self.block_size = block_size
        self.capacity = num_blocks - 1
        self._blocks = [_Block() for _ in range(num_blocks)]
        self._empty = list(range(num_blocks - 1, SCRATCH_BLOCK, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._by_key: dict[Key, int] = {}
        self._contents = 0
        self._roots = itertools.count(-1, -1)  # Never the number of a content.

    @property
    def available(self) -> int:
        """Blocks that can be handed out now, those with idle cached content included."""
        return len(self._empty) + len(self._idle)

    def available_beside(self, blocks: Sequence[int]) -> int:
        """What `available` would be if `blocks` were held."""
        return self.available - sum(number in self._idle for number in blocks)

    @property
    def held(self) -> int:
        """Blocks in use by sequences."""
        return self.capacity - self.available

    @property
    def cached(self) -> int:
        """Blocks whose content can be found."""
        return len(self._by_key)

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def new_root(self) -> int:
        """The predecessor of all first blocks of one version. May be called from any thread."""
        return next(self._roots)

    def find(self, root: int, tokens: Sequence[int]) -> Match:
        """The longest chain of ready blocks that holds a prefix of `tokens` (full blocks only). Takes no hold."""
        match = Match([], [], next_is_coming=False)
        parent = root
        for start in range(0, len(tokens) - self.block_size + 1, self.block_size):
            number = self._by_key.get(self._key(parent, tokens, start))
            if number is None:
                return match
            block = self._blocks[number]
            if not block.ready:
                return Match(match.blocks, match.contents, next_is_coming=True)
            match.blocks.append(number)
            match.contents.append(parent := block.content)
        return match

    def hold(self, blocks: Sequence[int]) -> None:
        """One more holder for blocks that `find` returned."""
        for number in blocks:
            if self._blocks[number].holders == 0:
                del self._idle[number]
            self._blocks[number].holders += 1

    def allocate(self, count: int) -> list[int]:
        """`count` blocks with one holder and no content. The caller has checked `available`."""
        numbers = []
        for _ in range(count):
            if self._empty:
                number = self._empty.pop()
            else:
                number, _ = self._idle.popitem(last=False)
                self._forget(number)
            self._blocks[number].holders = 1
            numbers.append(number)
        return numbers

    def release(self, blocks: Sequence[int]) -> None:
        """One holder less. The end of a chain becomes idle first, so that it is evicted before what it builds on."""
        for number in reversed(blocks):
            block = self._blocks[number]
            block.holders -= 1
            if block.holders > 0:
                continue
            if block.key is not None and not block.ready:
                self._forget(number)
            if block.key is None:
                self._empty.append(number)
            else:
                self._idle[number] = None

    def announce(self, number: int, parent: int, tokens: Sequence[int], start: int) -> int:
        """Say that a held block will contain `tokens[start : start + block_size]`; returns the content's number.

        If another block already does, that one stays the findable one, and its content number is returned.
        """
        key = self._key(parent, tokens, start)
        other = self._by_key.get(key)
        if other is not None:
            return self._blocks[other].content
        self._contents += 1
        block = self._blocks[number]
        block.key, block.content, block.ready = key, self._contents, False
        self._by_key[key] = number
        return block.content

    def set_ready(self, number: int) -> None:
        """The announced content is written: from now on `find` may return this block."""
        self._blocks[number].ready = True

    def forget_all(self) -> None:
        """No content can be found any more; holders keep their blocks."""
        for number in list(self._by_key.values()):
            self._forget(number)
        self._empty.extend(self._idle)
        self._idle.clear()

    def _forget(self, number: int) -> None:
        block = self._blocks[number]
        if block.key is not None:
            del self._by_key[block.key]
        block.key, block.content, block.ready = None, 0, False

    def _key(self, parent: int, tokens: Sequence[int], start: int) -> Key:
        return parent, array("q", tokens[start : start + self.block_size]).tobytes()
