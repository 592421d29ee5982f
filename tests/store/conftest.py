"""Every store test runs twice: on SQLite and on a PostgreSQL cluster that the session starts and stops."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import event

from tests.store import cluster
from tutee.store import Store, StoredConversation, StoredMessage
from tutee.store.schema import Actor, Base, Feedback, ModelVersion

SHA = "5" * 64
_numbers = itertools.count()


@dataclass(frozen=True)
class Place:
    """Where a store can be opened: nothing is there yet."""

    url: str
    home: Path


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL pattern of a running server; skips where PostgreSQL is not installed."""
    if cluster.binaries() is None:
        pytest.skip("PostgreSQL's server programs (initdb, postgres) are not installed")
    with cluster.running() as pattern:
        yield pattern


@contextmanager
def _database(pattern: str, template: str = "template1") -> Iterator[str]:
    """A database that is dropped afterwards; yields its URL."""
    name = f"test{next(_numbers)}"
    with psycopg.connect(pattern.format(name="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield pattern.format(name=name)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres_template(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Name of a migrated, empty database to copy."""
    with _database(postgres) as url:
        Store.open(url, tmp_path_factory.mktemp("template")).close()
        yield url.split("?")[0].rpartition("/")[2]


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database file to copy."""
    home = tmp_path_factory.mktemp("template")
    Store.open(f"sqlite:///{home}/tutee.db", home).close()
    return home / "tutee.db"


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A database without any table, and a home that is not there yet."""
    home = tmp_path / "home"
    if request.param == "sqlite":
        yield Place(f"sqlite:///{home}/tutee.db", home)
    else:
        with _database(request.getfixturevalue("postgres")) as url:
            yield Place(url, home)


@pytest.fixture(params=["sqlite", "postgres"])
def migrated(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A database with an up-to-date, empty schema."""
    home = tmp_path / "home"
    home.mkdir()
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), home / "tutee.db")
        yield Place(f"sqlite:///{home}/tutee.db", home)
    else:
        template = request.getfixturevalue("postgres_template")
        with _database(request.getfixturevalue("postgres"), template) as url:
            yield Place(url, home)


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest, migrated: Place, tmp_path: Path) -> Iterator[Place]:
    """An empty place on the same kind of database as `migrated`."""
    home = tmp_path / "elsewhere"
    if migrated.url.startswith("sqlite"):
        yield Place(f"sqlite:///{home}/tutee.db", home)
    else:
        with _database(request.getfixturevalue("postgres")) as url:
            yield Place(url, home)


@pytest.fixture
def store(migrated: Place) -> Iterator[Store]:
    with Store.open(migrated.url, migrated.home) as opened:
        yield opened


@pytest.fixture
def owner(store: Store) -> Actor:
    return store.actors.get_or_create("owner")


@pytest.fixture
def guest(store: Store) -> Actor:
    return store.actors.get_or_create("guest")


@pytest.fixture
def base(store: Store) -> ModelVersion:
    return store.versions.ensure_base("tiny", SHA, "models/tiny")


@pytest.fixture
def scene(store: Store, owner: Actor, base: ModelVersion) -> Scene:
    return Scene(store, owner, base)


@dataclass(frozen=True)
class Scene:
    """A talk with a model, in few words."""

    store: Store
    owner: Actor
    base: ModelVersion

    def conversation(self, actor: Actor | None = None) -> StoredConversation:
        return self.store.conversations.create((actor or self.owner).id)

    def ask(self, conversation: StoredConversation, text: str = "Hi?", parent: str | None = None) -> StoredMessage:
        return self.store.messages.add(conversation.id, parent, "user", text, conversation.actor_id)

    def begin(self, question: StoredMessage, version: ModelVersion | None = None) -> tuple[str, str]:
        """An answer that streams: its message id and generation id."""
        message = self.store.messages.add(question.conversation_id, question.id, "assistant", None, None, "streaming")
        generation = self.store.generations.start(
            message.id,
            (version or self.base).id,
            prompt_ids=[1, 2, 3],
            sampling={"temperature": 0.7},
            weights_sha256=SHA,
            tokenizer_sha256=SHA,
            template_sha256=SHA,
        )
        return message.id, generation

    def answer(
        self, question: StoredMessage, text: str = "Hello.", version: ModelVersion | None = None
    ) -> StoredMessage:
        _, generation = self.begin(question, version)
        self.store.generations.append(generation, text, [4, 5], [-0.5, -0.25])
        return self.store.generations.finish(generation, "stop")

    def turn(self, actor: Actor | None = None, text: str = "Hi?") -> StoredMessage:
        """A conversation of one question and its answer; returns the answer."""
        return self.answer(self.ask(self.conversation(actor), text))

    def compared(self, blind: bool = True) -> tuple[str, StoredMessage, StoredMessage]:
        """Two answers side by side: the presentation's id and both messages."""
        question = self.ask(self.conversation())
        answers = [self.answer(question, text) for text in ("One.", "Two.")]
        ids = [str(answer.generation_id) for answer in answers]
        shown = self.store.presentations.create(self.owner.id, ids, "side_by_side", blind=blind)
        return shown.id, self.again(answers[0]), self.again(answers[1])

    def again(self, message: StoredMessage) -> StoredMessage:
        return self.store.messages.get(message.id, self.owner.id)

    def thumb(self, message: StoredMessage, value: int = 1, actor: Actor | None = None) -> Feedback:
        return self.store.feedback.add(
            "thumb", (actor or self.owner).id, message_id=message.id, payload={"value": value}
        )

    def candidate(self, name: str = "tiny-v1", **fields: str) -> ModelVersion:
        return self.store.versions.add(
            name, "adapter", weights_sha256=SHA, folder=f"versions/{name}", parent_id=self.base.id, **fields
        )


class Queries:
    """Counts the statements that a block sends."""

    def __init__(self, store: Store) -> None:
        self.engine = store.database.engine
        self.statements: list[str] = []

    def _note(self, connection: object, cursor: object, statement: str, *rest: object) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA", "SET ")):
            self.statements.append(statement)

    def __enter__(self) -> Queries:
        event.listen(self.engine, "before_cursor_execute", self._note)
        return self

    def __exit__(self, *error: object) -> None:
        event.remove(self.engine, "before_cursor_execute", self._note)


def everything(store: Store) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table, sorted: two stores are equal when these are."""
    with store.database.read() as session:
        return {
            name: sorted((tuple(row) for row in session.execute(table.select())), key=repr)
            for name, table in Base.metadata.tables.items()
        }
