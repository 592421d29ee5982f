"""Packing keeps every item, obeys the budget, and wastes little."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tutee.data.packing import pack
from tutee.errors import InvalidInput


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(50, 120))
def test_every_item_is_in_one_bin_and_no_bin_is_over_budget(lengths: list[int], budget: int) -> None:
    bins = pack(lengths, budget)
    assert sorted(i for one in bins for i in one) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in one) <= budget for one in bins)
    assert bins == pack(lengths, budget)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(50, 120))
def test_at_most_one_bin_is_half_empty(lengths: list[int], budget: int) -> None:
    sums = [sum(lengths[i] for i in one) for one in pack(lengths, budget)]
    assert sum(2 * total <= budget for total in sums) <= 1


def test_bins_keep_the_order_of_the_items() -> None:
    assert pack([3, 7, 3, 4], 10) == [[0, 1], [2, 3]]


def test_an_item_over_budget_is_named() -> None:
    with pytest.raises(InvalidInput, match="Item 1 has 11 tokens") as error:
        pack([3, 11], 10)
    assert error.value.param == "lengths[1]"
