from __future__ import annotations

from tutee.engine.shares import Shares


def test_owners_are_charged_and_compared() -> None:
    shares = Shares()
    shares.join("a")
    shares.join("b")
    shares.charge("a", 5)
    assert (shares.served("a"), shares.served("b")) == (5, 0)


def test_idle_time_is_not_saved_up() -> None:
    shares = Shares()
    shares.join("busy")
    shares.charge("busy", 100)
    shares.join("late")
    assert shares.served("late") == 100


def test_a_debt_is_not_forgotten_by_leaving() -> None:
    shares = Shares()
    for owner in ("greedy", "modest"):
        shares.join(owner)
    shares.charge("greedy", 50)
    shares.leave("greedy")
    shares.join("greedy")
    assert (shares.served("greedy"), shares.served("modest")) == (50, 0)


def test_nothing_is_kept_of_who_owes_nothing() -> None:
    shares = Shares()
    for i in range(1000):
        shares.join(f"owner {i}")
        shares.charge(f"owner {i}", i)
        shares.leave(f"owner {i}")
    assert shares._served == {}
    assert not shares._present
    shares.join("stays")
    shares.charge("stays", 10)
    for i in range(1000):
        shares.join(f"owner {i}")
        shares.leave(f"owner {i}")
    assert set(shares._served) == {"stays"}


def test_several_requests_are_one_owner() -> None:
    shares = Shares()
    shares.join("a")
    shares.join("a")
    shares.charge("a", 3)
    shares.leave("a")
    assert shares.served("a") == 3
