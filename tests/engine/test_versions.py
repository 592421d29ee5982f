from __future__ import annotations

from collections.abc import Callable

import pytest

from tutee.engine.sequence import Version
from tutee.engine.versions import Versions
from tutee.errors import InvalidInput, NotFound
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained


@pytest.fixture
def adapter(tiny: Pretrained) -> Lora:
    return Lora(tiny.config)


@pytest.fixture
def load(tiny: Pretrained) -> Callable[[], Lora]:
    return lambda: Lora(tiny.config)


def versions_of(most: int) -> Versions:
    return Versions(Version("base", None, -1), most)


def test_what_was_used_longest_ago_is_dropped_and_loaded_again(load: Callable[[], Lora]) -> None:
    versions = versions_of(2)
    for root, name in enumerate("abc"):
        versions.add(name, load, root)
    first = versions.use("a").lora
    versions.use("b")
    assert versions.use("a").lora is first
    versions.use("c")
    assert versions.loaded == ("a", "c")
    assert versions.names == ("base", "a", "b", "c")
    versions.use("b")
    assert versions.loaded == ("c", "b")
    assert versions.use("a").lora is not first


def test_a_version_in_use_is_the_same_object_after_being_dropped(load: Callable[[], Lora]) -> None:
    versions = versions_of(1)
    versions.add("a", load, 0)
    versions.add("b", load, 1)
    held = versions.use("a")
    versions.use("b")
    assert versions.loaded == ("b",)
    assert versions.use("a") is held


def test_an_adapter_given_as_it_is_stays(adapter: Lora, load: Callable[[], Lora]) -> None:
    versions = versions_of(1)
    versions.add("given", adapter, 0)
    for i in range(3):
        versions.add(f"stored {i}", load, 1 + i)
        versions.use(f"stored {i}")
    assert versions.use("given").lora is adapter
    assert versions.use("given") is versions.use("given")


def test_the_base_is_always_there(adapter: Lora) -> None:
    versions = versions_of(1)
    assert versions.use(None) is versions.use("base") is versions.base
    with pytest.raises(InvalidInput):
        versions.remove("base")
    with pytest.raises(InvalidInput):
        versions.add("base", adapter, 0, replace=True)


def test_a_name_is_replaced_only_on_purpose(adapter: Lora, load: Callable[[], Lora]) -> None:
    versions = versions_of(2)
    versions.add("a", load, 0)
    versions.use("a")
    with pytest.raises(InvalidInput):
        versions.add("a", adapter, 1)
    versions.add("a", adapter, 1, replace=True)
    assert (versions.use("a").root, versions.use("a").lora) == (1, adapter)
    assert versions.loaded == ()


def test_a_removed_version_is_not_found(load: Callable[[], Lora]) -> None:
    versions = versions_of(2)
    versions.add("a", load, 0)
    versions.use("a")
    versions.remove("a")
    assert (versions.names, versions.loaded) == (("base",), ())
    with pytest.raises(NotFound) as caught:
        versions.use("a")
    assert caught.value.code == "model_not_found"
