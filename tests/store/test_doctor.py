from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sqlalchemy import text

from tests.store.conftest import Place, Scene
from tutee.model.weights import weights_sha256
from tutee.store import Store, migrate
from tutee.store.doctor import Finding, examine
from tutee.store.store import UNFINISHED_RESTORE


@pytest.fixture
def healthy(store: Store, scene: Scene) -> Scene:
    """A home in which all is well: a base and an adapter on disk, a talk, a file."""
    for folder in (store.home / "models" / "tiny", store.home / "versions" / "a"):
        folder.mkdir(parents=True)
        save_file({"x": torch.ones(4)}, folder / "model.safetensors")
    sha = weights_sha256(store.home / "versions" / "a")
    with store.database.write() as session:
        session.execute(text("UPDATE model_version SET weights_sha256 = :sha"), {"sha": sha})
    store.versions.add("a", "adapter", weights_sha256=sha, folder="versions/a", parent_id=scene.base.id)
    store.files.add(b"line\n", "x.jsonl", "fine-tune", scene.owner.id)
    scene.thumb(scene.turn())
    return scene


def bad(store: Store) -> list[Finding]:
    return [f for f in examine(store.database.url, store.home) if f.level != "ok" and f.check != "disk"]


def test_a_healthy_home_has_nothing_to_say(healthy: Scene) -> None:
    assert bad(healthy.store) == []
    checks = {finding.check for finding in examine(healthy.store.database.url, healthy.store.home)}
    assert checks >= {"disk", "database", "schema", "content", "versions", "files", "audit"}


@pytest.mark.parametrize(
    ("harm", "check", "level", "said"),
    [
        ("UPDATE blob SET data = '\\x00'", "content", "error", "not what was stored"),
        ("UPDATE message SET generation_id = 'gen-none' WHERE role = 'assistant'", "references", "error", "msg-"),
        ("UPDATE conversation SET head_message_id = 'msg-none'", "references", "error", "conv-"),
        ("UPDATE file SET sha256 = 'gone'", "files", "error", "x.jsonl"),
        ("UPDATE message SET state = 'streaming', created_at = 0", "messages", "warn", "never ended"),
        ("UPDATE model_version SET weights_sha256 = 'x'", "versions", "error", "not those it was made with"),
        ("UPDATE model_version SET folder = 'versions/none' WHERE number = 1", "versions", "error", "not there"),
        ("UPDATE model_version SET folder = 'models/none' WHERE number = 0", "versions", "warn", "not there"),
        ("INSERT INTO alembic_version VALUES ('9999')", "database", "error", "half migrated"),
        ("UPDATE alembic_version SET version_num = '9999'", "database", "error", "newer"),
    ],
)
def test_each_harm_in_the_database_is_found(healthy: Scene, harm: str, check: str, level: str, said: str) -> None:
    with healthy.store.database.write() as session:
        session.execute(text(harm.replace("\\x00", "\\000")))
    found = bad(healthy.store)
    assert [(f.check, f.level) for f in found if said in f.message][:1] == [(check, level)], found


def test_each_harm_on_the_disk_is_found(healthy: Scene) -> None:
    store = healthy.store
    (store.home / "files" / "stray").write_bytes(b"stray")
    (store.home / "versions" / "stray").mkdir()
    next(path for path in (store.home / "files").iterdir() if path.name != "stray").write_bytes(b"lime\n")
    weights = store.home / "versions" / "a" / "model.safetensors"
    times = weights.stat()
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    import os

    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))  # silent damage: same size, same time
    (store.home / UNFINISHED_RESTORE).write_text("")
    assert sorted((f.check, f.level) for f in bad(store)) == [
        ("files", "error"),
        ("files", "warn"),
        ("restore", "error"),
        ("versions", "error"),
        ("versions", "warn"),
    ]


def test_a_version_that_came_with_an_archive_has_no_weights_to_miss(healthy: Scene) -> None:
    versions = healthy.store.versions
    noted = versions.add("imported/x", "full", weights_sha256="9" * 64, folder="", card={"imported_name": "x"})
    versions.set_state(noted.id, "archived")
    assert bad(healthy.store) == []


def test_stuck_jobs_are_found(healthy: Scene) -> None:
    for _ in range(2):
        healthy.store.jobs.add("improve", "chat", {})
    healthy.store.jobs.lease("dead", 60)
    with healthy.store.database.write() as session:
        session.execute(text("UPDATE job SET created_at = 0, lease_expires = lease_expires * 0"))
    assert [(f.check, f.level) for f in bad(healthy.store)] == [("jobs", "warn"), ("jobs", "warn")]


def test_a_tampered_audit_log_is_found(healthy: Scene) -> None:
    sqlite = healthy.store.database.is_sqlite
    healthy.store.audit.add("test", "something")
    with healthy.store.database.write() as session:
        session.execute(text(f"DROP TRIGGER audit_append_only{'_update' if sqlite else ' ON audit'}"))
        session.execute(text("UPDATE audit SET object = 'nothing' WHERE seq = 1"))
    assert [(f.check, f.level) for f in bad(healthy.store)] == [("audit", "error")]


def test_a_damaged_sqlite_file_is_found(sqlite_template: Path, tmp_path: Path) -> None:
    raw = bytearray(sqlite_template.read_bytes())
    raw[8192:16384] = bytes(8192)
    (tmp_path / "tutee.db").write_bytes(raw)
    found = examine(f"sqlite:///{tmp_path}/tutee.db", tmp_path)
    assert "error" in {finding.level for finding in found if finding.check == "database"}


def test_homes_that_would_not_open_are_examined_and_not_changed(place: Place) -> None:
    assert [(f.check, f.level) for f in examine(place.url, place.home)] == [("home", "error")]
    place.home.mkdir()
    found = {(f.check, f.level) for f in examine(place.url, place.home) if f.check not in ("disk", "database")}
    assert found == (set() if place.url.startswith("sqlite") else {("schema", "warn")})
    assert list(place.home.iterdir()) == []
    assert examine("postgresql://nobody@127.0.0.1:1/none", place.home)[-1].level == "error"


def test_an_older_schema_is_a_warning(healthy: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "head", lambda *_: "9999")
    assert ("schema", "warn") in [(f.check, f.level) for f in bad(healthy.store)]
