"""Where a command works: the settings that its options gave, and the store in its home."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from tutee.settings import Settings
from tutee.store import Store
from tutee.store.schema import ModelVersion


def settings_of(context: typer.Context) -> Settings:
    """The settings that the root command made."""
    settings = context.find_root().obj
    assert isinstance(settings, Settings)
    return settings


@contextmanager
def open_store(settings: Settings) -> Iterator[Store]:
    """The home's store, closed afterwards."""
    settings.home.mkdir(parents=True, exist_ok=True)
    store = Store.open(settings.url, settings.home)
    try:
        yield store
    finally:
        store.close()


def find_version(store: Store, name: str) -> ModelVersion:
    """A version by id, number, name or alias."""
    if name in store.versions.aliases():
        return store.versions.alias(name)
    return store.versions.get(name)
