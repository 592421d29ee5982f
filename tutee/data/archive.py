"""One person's data as one zip: written, and read into another home."""

from __future__ import annotations

from typing import BinaryIO

from tutee.store import Store


def export_actor(store: Store, actor_id: str, stream: BinaryIO) -> None:
    """Write everything of one person (conversation trees, generations, feedback, consents) to a zip."""
    raise NotImplementedError


def import_archive(store: Store, stream: BinaryIO, actor_id: str) -> dict[str, int]:
    """Read an archive into an actor, under new ids; how many of each were added."""
    raise NotImplementedError
