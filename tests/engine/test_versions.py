from __future__ import annotations

import pytest

from tutee.engine.sequence import Version
from tutee.engine.versions import Versions
from tutee.errors import InvalidInput, NotFound
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained


@pytest.fixture
def adapter(tiny: Pretrained) -> Lora:
    return Lora(tiny.config)


def versions_of(most: int) -> Versions:
    return Versions(Version("base", None, -1), most)


def test_the_one_used_longest_ago_makes_room(adapter: Lora) -> None:
    versions = versions_of(2)
    versions.add(Version("a", adapter, -2))
    versions.add(Version("b", adapter, -3))
    versions.use("a")
    versions.add(Version("c", adapter, -4))
    assert versions.names == ("base", "a", "c")
    with pytest.raises(NotFound) as caught:
        versions.use("b")
    assert caught.value.code == "model_not_found"


def test_the_base_is_always_there(adapter: Lora) -> None:
    versions = versions_of(1)
    for i in range(5):
        versions.add(Version(f"v{i}", adapter, -2 - i))
    assert versions.use(None) is versions.use("base") is versions.base
    with pytest.raises(InvalidInput):
        versions.remove("base")
    with pytest.raises(InvalidInput):
        versions.add(Version("base", adapter, -9), replace=True)


def test_a_name_is_replaced_only_on_purpose(adapter: Lora) -> None:
    versions = versions_of(2)
    versions.add(Version("a", adapter, -2))
    with pytest.raises(InvalidInput):
        versions.add(Version("a", adapter, -3))
    versions.add(Version("a", adapter, -3), replace=True)
    assert versions.use("a").root == -3
    assert versions.names == ("base", "a")
