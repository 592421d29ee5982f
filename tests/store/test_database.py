from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from tests.store.conftest import Place, Scene, everything
from tutee.errors import InvalidInput, Unavailable
from tutee.store import Store
from tutee.store.database import Database, normalise, to_json


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/db", "", "sqlite:///"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        Database(url)


def test_every_way_to_write_postgres_means_psycopg_3() -> None:
    for url in ("postgres://u@h/d", "postgresql://u@h/d", "postgresql+psycopg://u@h/d"):
        assert normalise(url) == "postgresql+psycopg://u@h/d"


def test_json_has_no_nan() -> None:
    assert to_json({"a": [1.5, float("nan"), (float("inf"),)], "b": "x"}) == '{"a": [1.5, null, [null]], "b": "x"}'


def test_a_write_that_fails_leaves_nothing(store: Store, scene: Scene) -> None:
    def fail_halfway() -> None:
        with store.database.write() as session:
            session.execute(text("INSERT INTO alias VALUES ('x', :id, 0)"), {"id": scene.base.id})
            raise RuntimeError("stop")

    before = everything(store)
    with pytest.raises(RuntimeError, match="stop"):
        fail_halfway()
    assert everything(store) == before


def test_a_write_inside_a_write_is_a_bug_that_says_so(store: Store) -> None:
    with store.database.write(), pytest.raises(RuntimeError, match="inside"), store.database.write():
        pass
    store.audit.add("test", "still works")


def test_foreign_keys_are_on(store: Store) -> None:
    from sqlalchemy.exc import IntegrityError

    with pytest.raises(IntegrityError), store.database.write() as session:
        session.execute(text("INSERT INTO alias VALUES ('x', 'ver-none', 0)"))


def test_threads_that_write_and_read_at_once_lose_nothing(store: Store, scene: Scene) -> None:
    conversation = scene.conversation()
    errors: list[BaseException] = []

    def talk() -> None:
        try:
            for _ in range(5):
                scene.ask(conversation)
                store.messages.tree(conversation.id, scene.owner.id)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=talk) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    tree = store.messages.tree(conversation.id, scene.owner.id)
    assert sorted(message.sibling_index for message in tree) == list(range(60))
    assert {message.sibling_count for message in tree} == {60}


def test_readers_do_not_wait_for_a_writer(store: Store, scene: Scene) -> None:
    conversation = scene.conversation()
    found: list[str | None] = []

    def read() -> None:
        found.append(store.conversations.get(conversation.id, scene.owner.id).title)

    with store.database.write() as session:
        session.execute(text("UPDATE conversation SET title = 'half done'"))
        reader = threading.Thread(target=read)
        reader.start()
        reader.join(timeout=30)
    assert found == [None]
    assert store.conversations.get(conversation.id, scene.owner.id).title == "half done"


def test_a_database_that_somebody_holds_is_busy_and_not_broken(
    sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tutee.db").write_bytes(sqlite_template.read_bytes())
    monkeypatch.setattr("tutee.store.database.BUSY_TIMEOUT_MS", 50)
    with Store.open(f"sqlite:///{tmp_path}/tutee.db", tmp_path) as store:
        with sqlite3.connect(tmp_path / "tutee.db", isolation_level=None) as holder:
            holder.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable) as refused:
                store.audit.add("test", "x")
            assert refused.value.code == "database_busy"
            holder.execute("ROLLBACK")
        assert store.audit.add("test", "x").seq == 1


def _talk(url: str, home: Path, conversation_id: str, actor_id: str, count: int) -> None:
    with Store.open(url, home) as store:
        for i in range(count):
            store.messages.add(conversation_id, None, "user", f"{os.getpid()} {i}", actor_id)


def test_two_processes_write_to_one_conversation(store: Store, migrated: Place, scene: Scene) -> None:
    conversation = scene.conversation()
    spawn = multiprocessing.get_context("spawn")
    arguments = (migrated.url, migrated.home, conversation.id, scene.owner.id, 20)
    writers = [spawn.Process(target=_talk, args=arguments) for _ in range(2)]
    for writer in writers:
        writer.start()
    _talk(*arguments)
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    tree = store.messages.tree(conversation.id, scene.owner.id)
    assert sorted(message.sibling_index for message in tree) == list(range(60))
    assert len({message.content for message in tree}) == 60


def _talk_aloud(url: str, home: Path, conversation_id: str, actor_id: str, said: object) -> None:
    with Store.open(url, home) as store:
        while True:
            said.send(store.messages.add(conversation_id, None, "user", "x", actor_id).id)  # type: ignore[attr-defined]


def test_what_was_acknowledged_survives_kill_9(store: Store, migrated: Place, scene: Scene) -> None:
    conversation = scene.conversation()
    spawn = multiprocessing.get_context("spawn")
    hear, say = spawn.Pipe(duplex=False)
    writer = spawn.Process(target=_talk_aloud, args=(migrated.url, migrated.home, conversation.id, scene.owner.id, say))
    writer.start()
    say.close()
    heard = [hear.recv()]
    time.sleep(0.2)
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    try:
        while True:
            heard.append(hear.recv())
    except EOFError:
        pass
    kept = {message.id for message in store.messages.tree(conversation.id, scene.owner.id)}
    assert set(heard) <= kept
    assert len(kept) - len(heard) <= 1


def test_a_full_disk_is_an_error_to_read_and_loses_nothing(sqlite_template: Path, tmp_path: Path) -> None:
    (tmp_path / "tutee.db").write_bytes(sqlite_template.read_bytes())
    with Store.open(f"sqlite:///{tmp_path}/tutee.db", tmp_path) as store:
        owner = store.actors.get_or_create("owner")
        conversation = store.conversations.create(owner.id)
        kept = store.messages.add(conversation.id, None, "user", "kept", owner.id)
        with store.database.read() as session:
            pages = session.scalar(text("PRAGMA page_count"))
        store.database.engine.dispose()
        _limit_pages(store, int(pages or 0) + 4)
        said = [kept.id]

        def talk() -> None:
            for _ in range(100):
                said.append(store.messages.add(conversation.id, kept.id, "user", os.urandom(2000).hex(), owner.id).id)

        with pytest.raises(Unavailable) as refused:
            talk()
        assert refused.value.code == "disk_full"
        assert "disk is full" in refused.value.message
        tree = store.messages.tree(conversation.id, owner.id)
        assert [message.id for message in tree] == said
        assert store.conversations.get(conversation.id, owner.id).head_message_id == said[-1]
        assert len(everything(store)["blob"]) == len(said)

        _limit_pages(store, 10_000)
        assert store.messages.add(conversation.id, kept.id, "user", "space again", owner.id)
    with sqlite3.connect(tmp_path / "tutee.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _limit_pages(store: Store, pages: int) -> None:
    """The pragma holds for a connection, so every connection that the pool will make gets it."""
    from sqlalchemy import event

    store.database.engine.dispose()

    @event.listens_for(store.database.engine, "connect")
    def _limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")


def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / "tutee.db").write_bytes(b"this is no database, it only looks like a file" * 100)
    with pytest.raises(Unavailable) as refused:
        Store.open(f"sqlite:///{tmp_path}/tutee.db", tmp_path)
    assert refused.value.code == "database_damaged"


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as refused:
        Store.open("postgresql://nobody@127.0.0.1:1/none", tmp_path)
    assert refused.value.code == "database_unavailable"


def test_an_sqlite_home_uses_the_log_and_waits_for_the_disk_where_it_matters(
    sqlite_template: Path, tmp_path: Path
) -> None:
    (tmp_path / "tutee.db").write_bytes(sqlite_template.read_bytes())
    with Store.open(f"sqlite:///{tmp_path}/tutee.db", tmp_path) as store:
        for durable, level in ((True, 2), (False, 1), (True, 2)):
            with store.database.write(durable=durable) as session:
                assert session.scalar(text("PRAGMA journal_mode")) == "wal"
                assert session.scalar(text("PRAGMA synchronous")) == level


def test_a_disk_that_refuses_is_named_with_what_to_do(store: Store) -> None:
    with pytest.raises(Unavailable, match="tutee doctor") as refused, store.database.read():
        raise OperationalError("SELECT 1", {}, sqlite3.OperationalError("disk I/O error"))
    assert refused.value.code == "disk_error"
