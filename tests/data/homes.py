"""A home with a real SQLite store, and short ways to make people talk and judge in it."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tutee.store import Store
from tutee.store.records import StoredMessage
from tutee.store.schema import Feedback


@dataclass
class Home:
    """One store with a base version, spoken to as one person would."""

    store: Store
    version_id: str

    def person(self, handle: str = "owner", train: bool | None = None) -> str:
        """The actor's id; `train` records a consent."""
        actor = self.store.actors.get_or_create(handle)
        if train is not None:
            self.store.consents.set(actor.id, "train", train)
        return actor.id

    def ask(
        self, text: str, handle: str = "owner", system: str | None = None, after: StoredMessage | None = None
    ) -> StoredMessage:
        """A user turn: in a conversation of its own, or after an answer."""
        actor = self.person(handle)
        conversation = after.conversation_id if after else self.store.conversations.create(actor, system=system).id
        return self.store.messages.add(conversation, after.id if after else None, "user", text, actor)

    def answer(self, question: StoredMessage, text: str, finish: str | None = "stop") -> StoredMessage:
        """A sampled answer of one token a character; `finish` None leaves it streaming."""
        message = self.store.messages.add(
            question.conversation_id, question.id, "assistant", None, None, state="streaming"
        )
        generation = self.store.generations.start(
            message.id,
            self.version_id,
            prompt_ids=[ord(c) % 250 for c in question.content],
            sampling={"temperature": 0.9},
            weights_sha256="w" * 64,
            tokenizer_sha256="k" * 64,
            template_sha256="t" * 64,
        )
        ids = [ord(c) % 250 for c in text]
        self.store.generations.append(generation, text, ids, [-0.1 * (i % 7) for i in ids])
        if finish is not None:
            self.store.generations.finish(generation, finish)
        return self.store.messages.get(message.id, None)

    def owner_of(self, message: StoredMessage) -> str:
        return self.store.conversations.get(message.conversation_id, None).actor_id

    def thumb(self, message: StoredMessage, value: int) -> Feedback:
        return self.store.feedback.add("thumb", self.owner_of(message), message_id=message.id, payload={"value": value})

    def edit(self, message: StoredMessage, content: str) -> Feedback:
        return self.store.feedback.add(
            "edit", self.owner_of(message), message_id=message.id, payload={"content": content}
        )

    def demo(self, question: StoredMessage, content: str) -> Feedback:
        owner = self.owner_of(question)
        written = self.store.messages.add(question.conversation_id, question.id, "assistant", content, owner)
        return self.store.feedback.add("demo", owner, message_id=written.id)

    def compare(
        self, a: StoredMessage, b: StoredMessage, winner: str, strength: int | None = None, **payload: Any
    ) -> Feedback:
        owner = self.owner_of(a)
        assert a.generation_id
        assert b.generation_id
        shown = self.store.presentations.create(owner, [a.generation_id, b.generation_id], "side_by_side", blind=True)
        return self.store.feedback.add(
            "compare", owner, presentation_id=shown.id, payload={"winner": winner, **payload}, strength=strength
        )


@contextmanager
def open_home(folder: Path) -> Iterator[Home]:
    """A fresh home in `folder`, on SQLite."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_migrated(), folder / "tutee.db")
    with open_store(f"sqlite:///{folder / 'tutee.db'}", folder) as home:
        yield home


@contextmanager
def open_store(url: str, folder: Path) -> Iterator[Home]:
    """The home at this URL, with its base version."""
    with Store.open(url, folder) as store:
        yield Home(store, store.versions.ensure_base("tiny", "w" * 64, "models/tiny").id)


@cache
def _migrated() -> Path:
    """A migrated, empty database file to copy."""
    folder = Path(tempfile.mkdtemp(prefix="tutee-data-tests-"))
    atexit.register(shutil.rmtree, folder, True)
    Store.open(f"sqlite:///{folder / 'tutee.db'}", folder).close()
    return folder / "tutee.db"
