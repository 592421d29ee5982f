from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings

from tutee.engine.blocks import SCRATCH_BLOCK, BlockPool


def fill(pool: BlockPool, root: int, tokens: list[int]) -> list[int]:
    """Hold and fill blocks for `tokens` as a sequence would; returns them."""
    blocks = pool.allocate(pool.blocks_for(len(tokens)))
    parent = root
    for place in range(len(tokens) // pool.block_size):
        parent = pool.announce(blocks[place], parent, tokens, place * pool.block_size)
        pool.set_ready(blocks[place])
    return blocks


def test_a_prefix_is_found_in_full_blocks_only() -> None:
    pool = BlockPool(9, 4)
    root = pool.new_root()
    blocks = fill(pool, root, list(range(10)))
    assert pool.find(root, list(range(10))).blocks == blocks[:2]
    assert pool.find(root, list(range(8))).blocks == blocks[:2]
    assert pool.find(root, list(range(7))).blocks == blocks[:1]
    assert pool.find(root, [0, 1, 2, 3, 4, 5, 6, 99]).blocks == blocks[:1]
    assert pool.find(root, [1, 2, 3]).blocks == []


def test_equal_tokens_after_another_past_are_not_found() -> None:
    pool = BlockPool(9, 2)
    root = pool.new_root()
    fill(pool, root, [1, 1, 2, 2])
    assert pool.find(root, [2, 2]).blocks == []
    assert len(pool.find(root, [1, 1, 2, 2]).blocks) == 2


def test_versions_never_share() -> None:
    pool = BlockPool(9, 2)
    base, adapter = pool.new_root(), pool.new_root()
    fill(pool, base, [1, 2])
    assert pool.find(adapter, [1, 2]).blocks == []


def test_a_block_being_computed_is_coming_but_not_found() -> None:
    pool = BlockPool(9, 2)
    root = pool.new_root()
    (block,) = pool.allocate(1)
    pool.announce(block, root, [1, 2], 0)
    match = pool.find(root, [1, 2, 3])
    assert match.blocks == []
    assert match.next_is_coming
    pool.release([block])
    assert not pool.find(root, [1, 2, 3]).next_is_coming
    assert pool.available == pool.capacity


def test_a_child_of_an_evicted_block_is_not_found_under_its_successor() -> None:
    pool = BlockPool(4, 2)
    root = pool.new_root()
    first = fill(pool, root, [1, 1, 2, 2])
    pool.hold(first[1:])
    pool.release(first)
    others = pool.allocate(2)  # takes the never used one and evicts [1, 1]
    assert pool.find(root, [1, 1]).blocks == []
    pool.release(others)
    fill(pool, root, [1, 1])
    assert len(pool.find(root, [1, 1, 2, 2]).blocks) == 1


def test_the_end_of_a_chain_is_evicted_first_and_the_oldest_chain_before_it() -> None:
    pool = BlockPool(5, 2)
    root = pool.new_root()
    old, new = fill(pool, root, [1, 1, 2, 2]), fill(pool, root, [5, 5, 6, 6])
    pool.release(old)
    pool.release(new)
    pool.allocate(1)
    assert pool.find(root, [1, 1, 2, 2]).blocks == old[:1]
    pool.allocate(2)
    assert pool.find(root, [1, 1]).blocks == []
    assert pool.find(root, [5, 5, 6, 6]).blocks == new[:1]


def test_equal_content_computed_twice_is_kept_once() -> None:
    pool = BlockPool(9, 2)
    root = pool.new_root()
    first, second = fill(pool, root, [1, 2]), fill(pool, root, [1, 2])
    assert pool.find(root, [1, 2]).blocks == first
    pool.release(second)
    assert pool.find(root, [1, 2]).blocks == first
    assert pool.held == 1


def test_forget_all_leaves_holders_their_blocks() -> None:
    pool = BlockPool(9, 2)
    root = pool.new_root()
    held, idle = fill(pool, root, [1, 2]), fill(pool, root, [3, 4])
    pool.release(idle)
    pool.forget_all()
    assert pool.find(root, [1, 2]).blocks == pool.find(root, [3, 4]).blocks == []
    assert pool.held == 1
    pool.release(held)
    assert pool.available == pool.capacity


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 1), min_size=1, max_size=9)), max_size=60))
def test_no_block_is_lost_or_given_twice(moves: list[tuple[bool, list[int]]]) -> None:
    pool = BlockPool(12, 2)
    root = pool.new_root()
    holdings: list[list[int]] = []
    for take, tokens in moves:
        if take:
            match = pool.find(root, tokens)
            needed = pool.blocks_for(len(tokens)) - len(match.blocks)
            if needed > pool.available_beside(match.blocks):
                continue
            pool.hold(match.blocks)
            blocks = match.blocks + pool.allocate(needed)
            contents = match.contents
            for place in range(len(contents), len(tokens) // 2):
                contents.append(pool.announce(blocks[place], contents[-1] if place else root, tokens, place * 2))
                pool.set_ready(blocks[place])
            holdings.append(blocks)
        elif holdings:
            pool.release(holdings.pop(0))
        assert SCRATCH_BLOCK not in {block for blocks in holdings for block in blocks}
        assert pool.held == len({block for blocks in holdings for block in blocks})
    for blocks in holdings:
        pool.release(blocks)
    assert pool.available == pool.capacity
