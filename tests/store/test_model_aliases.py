from __future__ import annotations

import pytest

from tutee.errors import InvalidInput, NotFound
from tutee.store import Store


@pytest.fixture
def small(store: Store) -> str:
    return store.versions.ensure_base("small", "0" * 64, "models/small").id


def test_a_real_name_then_the_exact_one_then_the_longest_pattern(store: Store, small: str) -> None:
    other = store.versions.add("other", "full", weights_sha256="1" * 64, folder="versions/other").id
    for pattern, target in (("gpt-*", "other"), ("gpt-4*", "chat"), ("gpt-4.1-nano", "other"), ("*", "small")):
        store.model_aliases.set(pattern, target)
    assert [row.pattern for row in store.model_aliases.list()] == ["gpt-4.1-nano", "gpt-4*", "gpt-*", "*"]
    answered = {name: store.model_aliases.version(name).id for name in ("gpt-4.1-nano", "gpt-4o", "gpt-5", "o3", "0")}
    assert answered == {"gpt-4.1-nano": other, "gpt-4o": small, "gpt-5": other, "o3": small, "0": small}
    assert store.model_aliases.version("other").id == other


def test_setting_again_moves_it_and_removing_forgets_it(store: Store, small: str) -> None:
    other = store.versions.add("other", "full", weights_sha256="1" * 64, folder="versions/other").id
    store.model_aliases.set("gpt-4o", "small")
    store.model_aliases.set("gpt-4o", "other")
    assert store.model_aliases.version("gpt-4o").id == other
    store.model_aliases.remove("gpt-4o")
    with pytest.raises(NotFound):
        store.model_aliases.version("gpt-4o")
    with pytest.raises(NotFound):
        store.model_aliases.remove("gpt-4o")


@pytest.mark.parametrize("pattern", ["", "a b", "g?t", "small", "chat", "x" * 201, "[a]"])
def test_what_cannot_be_an_alias(store: Store, small: str, pattern: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        store.model_aliases.set(pattern, "small")
    assert caught.value.param == "pattern"


def test_the_target_must_be_a_model_and_no_alias(store: Store, small: str) -> None:
    store.model_aliases.set("gpt-4o", "small")
    for target in ("nobody", "gpt-4o"):
        with pytest.raises(NotFound) as caught:
            store.model_aliases.set("gpt-5", target)
        assert caught.value.param == "target"


def test_a_pattern_full_of_stars_is_decided_at_once(store: Store, small: str) -> None:
    store.model_aliases.set("a*" * 50 + "b", "small")
    with pytest.raises(NotFound):
        store.model_aliases.version("a" * 5000)
