from __future__ import annotations

import fcntl
import os
import sqlite3
import tarfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.store.conftest import Place, Scene, everything
from tutee.errors import InvalidInput, Unavailable
from tutee.store import Store, migrate
from tutee.store.backup import backup, restore
from tutee.store.store import UNFINISHED_RESTORE


@pytest.fixture
def lived_in(store: Store, scene: Scene) -> Store:
    """A home with a bit of everything."""
    scene.thumb(scene.turn())
    store.files.add(b"line\n", "x.jsonl", "fine-tune", scene.owner.id)
    for name in (
        "versions/tiny-v1/adapter_model.safetensors",
        "jobs/ftjob-1/checkpoint/state.pt",
        "models/tiny/model.bin",
    ):
        (store.home / name).parent.mkdir(parents=True)
        (store.home / name).write_bytes(os.urandom(5000))
    scene.candidate()
    return store


def contents(home: Path) -> dict[str, bytes]:
    return {
        path.relative_to(home).as_posix(): path.read_bytes()
        for folder in ("versions", "files", "jobs")
        for path in (home / folder).rglob("*")
        if path.is_file()
    }


def test_a_whole_home_comes_back_in_another_place(lived_in: Store, elsewhere: Place) -> None:
    archive = backup(lived_in)
    assert archive.parent == lived_in.home / "backups"
    assert archive.stat().st_mode & 0o777 == 0o600

    restore(archive, elsewhere.home, url=elsewhere.url)

    with Store.open(elsewhere.url, elsewhere.home) as copy:
        assert everything(copy) == everything(lived_in)
        assert contents(copy.home) == contents(lived_in.home)
        assert not (copy.home / "models" / "tiny").exists()
        assert copy.audit.verify() is None
        copy.actors.get_or_create("somebody new")


def test_a_home_that_holds_something_is_replaced_only_by_force_and_kept_aside(lived_in: Store) -> None:
    archive, before = backup(lived_in), everything(lived_in)
    url, home = lived_in.database.url, lived_in.home
    lived_in.actors.get_or_create("later")
    (home / "files" / "later").write_bytes(b"later")
    lived_in.close()
    with pytest.raises(InvalidInput) as refused:
        restore(archive, home, url=url)
    assert refused.value.code == "home_not_empty"

    restore(archive, home, url=url, force=True)

    with Store.open(url, home) as store:
        assert everything(store) == before
    [aside] = (home / "backups").glob("replaced-*")
    assert (aside / "files" / "later").read_bytes() == b"later"
    if url.startswith("sqlite"):
        with Store.open(f"sqlite:///{aside}/tutee.db", aside) as old:
            assert old.actors.by_handle("later")
    else:
        assert list((home / "backups").glob("*.dump"))
    assert not [path for path in (home / "backups").iterdir() if path.name.startswith(".")]


def test_the_copy_made_before_a_migration_brings_the_database_back_and_leaves_the_files(lived_in: Store) -> None:
    before, files = everything(lived_in), contents(lived_in.home)
    copy = migrate.save_copy(lived_in.database, lived_in.home, "schema-0001")
    assert copy is not None
    lived_in.actors.get_or_create("later")
    url, home = lived_in.database.url, lived_in.home
    lived_in.close()
    with pytest.raises(InvalidInput, match="--force"):
        restore(copy, home, url=url)
    restore(copy, home, url=url, force=True)
    assert contents(home) == files
    with Store.open(url, home) as old:
        assert everything(old) == before


@pytest.mark.parametrize("harm", ["cut", "flip", "newer", "foreign"])
def test_a_damaged_copy_changes_nothing(lived_in: Store, tmp_path: Path, harm: str) -> None:
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(copy)) as made:
        made.execute("CREATE TABLE alembic_version (version_num TEXT)" if harm != "foreign" else "CREATE TABLE x (a)")
        if harm != "foreign":
            made.execute("INSERT INTO alembic_version VALUES (?)", ["9999" if harm == "newer" else "0001"])
            made.execute("CREATE TABLE words AS SELECT randomblob(20000) AS word")
        made.commit()
    raw = copy.read_bytes()
    if harm == "cut":
        copy.write_bytes(raw[: len(raw) // 2])
    elif harm == "flip":
        copy.write_bytes(raw[:100] + b"\xff" * 200 + raw[300:])
    before = everything(lived_in)
    with pytest.raises(InvalidInput):
        restore(copy, lived_in.home, url=lived_in.database.url, force=True)
    assert everything(lived_in) == before


@pytest.mark.parametrize("harm", ["cut", "flip", "missing", "foreign", "newer"])
def test_a_damaged_archive_changes_nothing(
    lived_in: Store, tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = backup(lived_in, tmp_path / "all.tar")
    raw = archive.read_bytes()
    if harm == "cut":
        archive.write_bytes(raw[: len(raw) // 2])
    elif harm == "flip":
        with tarfile.open(archive) as tar:
            member = next(m for m in tar if m.name.endswith("safetensors"))
        archive.write_bytes(raw[: member.offset_data + 9] + b"#!" + raw[member.offset_data + 11 :])
    elif harm == "missing":
        archive.unlink()
    elif harm == "foreign":
        archive.write_bytes(b"PK\x03\x04 something else")
    else:
        monkeypatch.setattr(migrate, "head", lambda *_: "0000")
    before, files = everything(lived_in), contents(lived_in.home)
    with pytest.raises(InvalidInput):
        restore(archive, lived_in.home, url=lived_in.database.url, force=True)
    monkeypatch.undo()
    assert everything(lived_in) == before
    assert contents(lived_in.home) == files
    assert not (lived_in.home / UNFINISHED_RESTORE).exists()


def test_an_archive_of_the_other_kind_of_database_is_refused(lived_in: Store, tmp_path: Path) -> None:
    archive = backup(lived_in, tmp_path / "all.tar")
    other = (
        "postgresql://nobody@127.0.0.1:1/none" if lived_in.database.is_sqlite else f"sqlite:///{tmp_path}/h/tutee.db"
    )
    with pytest.raises(InvalidInput):
        restore(archive, tmp_path / "h", url=other, force=True)


def test_nothing_is_restored_under_a_running_server(lived_in: Store, tmp_path: Path) -> None:
    archive = backup(lived_in, tmp_path / "all.tar")
    with (lived_in.home / "worker.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Unavailable) as refused:
            restore(archive, lived_in.home, url=lived_in.database.url, force=True)
    assert refused.value.code == "home_in_use"


def test_a_restore_that_was_killed_is_noticed_and_can_be_redone(
    lived_in: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, before = backup(lived_in, tmp_path / "all.tar"), everything(lived_in)
    url, home = lived_in.database.url, lived_in.home
    lived_in.close()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    name = "shutil.move" if url.startswith("sqlite") else "postgres_tool"
    target = "tutee.store.backup.shutil.move" if name == "shutil.move" else "tutee.store.migrate.postgres_tool"
    monkeypatch.setattr(target, die)
    with pytest.raises(KeyboardInterrupt):
        restore(archive, home, url=url, force=True)
    monkeypatch.undo()
    with pytest.raises(Unavailable) as refused:
        Store.open(url, home)
    assert refused.value.code == "restore_unfinished"
    restore(archive, home, url=url, force=True)
    with Store.open(url, home) as store:
        assert everything(store) == before


def test_a_backup_taken_while_people_talk_is_whole(
    lived_in: Store, scene: Scene, elsewhere: Place, tmp_path: Path
) -> None:
    stop = threading.Event()

    def talk() -> None:
        while not stop.is_set():
            scene.thumb(scene.turn())

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        archive = backup(lived_in, tmp_path / "all.tar")
    finally:
        stop.set()
        talker.join()
    restore(archive, elsewhere.home, url=elsewhere.url)
    with Store.open(elsewhere.url, elsewhere.home) as copy:
        assert copy.audit.verify() is None
        assert {m.state for c in copy.conversations.list(scene.owner.id) for m in copy.messages.tree(c.id)} <= {
            "complete",
            "streaming",
        }


def test_an_archive_is_never_overwritten_or_half_there(lived_in: Store, tmp_path: Path) -> None:
    (tmp_path / "all.tar").write_bytes(b"mine")
    with pytest.raises(InvalidInput):
        backup(lived_in, tmp_path / "all.tar")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable):
        backup(lived_in, tmp_path / "file" / "all.tar")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["all.tar", "file"]
