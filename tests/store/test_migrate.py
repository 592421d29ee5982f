from __future__ import annotations

import shutil
import sqlite3
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from tests.store.conftest import Place
from tutee.errors import Unavailable
from tutee.store import Store, migrate
from tutee.store.database import Database
from tutee.store.schema import Base

NEXT = """
import sqlalchemy as sa
from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade():
    op.add_column("actor", sa.Column("colour", sa.Text()))
    op.execute("{statement}")
"""


def newer(tmp_path: Path, statement: str = "UPDATE actor SET colour = 'red'") -> Path:
    """The migrations of a tutee to come: one more column."""
    scripts = tmp_path / "migrations"
    shutil.copytree(migrate.MIGRATIONS, scripts)
    (scripts / "versions" / "9999_colour.py").write_text(
        NEXT.format(statement=statement, head=migrate.head()), encoding="utf-8"
    )
    return scripts


def execute(place: Place, statement: str) -> None:
    database = Database(place.url)
    with database.write() as session:
        session.execute(text(statement))
    database.close()


def columns(place: Place, table: str) -> set[str]:
    database = Database(place.url)
    with database.read() as session:
        found = {column["name"] for column in inspect(session.connection()).get_columns(table)}
    database.close()
    return found


def test_the_migrations_make_exactly_the_schema_that_the_code_declares(store: Store) -> None:
    with store.database.read() as session:
        context = MigrationContext.configure(session.connection(), opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_an_empty_database_is_made_and_opening_again_changes_nothing(place: Place) -> None:
    for _ in range(2):
        with Store.open(place.url, place.home) as store:
            store.actors.get_or_create("owner")
            assert len(store.actors.list()) == 1
    assert list((place.home / "backups").iterdir()) == []


def test_many_can_open_an_empty_home_at_once(place: Place) -> None:
    errors: list[BaseException] = []

    def start() -> None:
        try:
            Store.open(place.url, place.home).close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_an_older_database_is_copied_and_then_migrated(migrated: Place, tmp_path: Path) -> None:
    with Store.open(migrated.url, migrated.home) as store:
        store.actors.get_or_create("owner")
        migrate.bring_up(store.database, migrated.home, scripts=newer(tmp_path))
    assert "colour" in columns(migrated, "actor")
    [copy] = (migrated.home / "backups").iterdir()
    assert f"schema-{migrate.head()}" in copy.name
    if migrated.url.startswith("sqlite"):
        with sqlite3.connect(copy) as connection:
            assert connection.execute("SELECT handle FROM actor").fetchall() == [("owner",)]
            assert "colour" not in [row[1] for row in connection.execute("PRAGMA table_info(actor)")]
    else:
        assert copy.read_bytes().startswith(b"PGDMP")


def test_a_migration_that_fails_leaves_the_old_schema_whole(migrated: Place, tmp_path: Path) -> None:
    with Store.open(migrated.url, migrated.home) as store:
        store.actors.get_or_create("owner")
        with pytest.raises(Exception, match="nowhere"):
            migrate.bring_up(store.database, migrated.home, scripts=newer(tmp_path, "UPDATE nowhere SET x = 1"))
    assert "colour" not in columns(migrated, "actor")
    with Store.open(migrated.url, migrated.home) as store:
        assert [actor.handle for actor in store.actors.list()] == ["owner"]


def test_a_newer_database_is_refused_with_what_to_do(migrated: Place, tmp_path: Path) -> None:
    with Store.open(migrated.url, migrated.home) as store:
        migrate.bring_up(store.database, migrated.home, scripts=newer(tmp_path))
    with pytest.raises(Unavailable, match="newer tutee") as refused:
        Store.open(migrated.url, migrated.home)
    assert refused.value.code == "schema_newer"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DROP TABLE review", "table review missing"),
        ("ALTER TABLE actor DROP COLUMN cohort", "column actor.cohort missing"),
        ("DELETE FROM alembic_version", "no single schema version"),
        ("INSERT INTO alembic_version VALUES ('0000')", "no single schema version"),
        ("CREATE TABLE _alembic_tmp_actor (id INTEGER)", "_alembic_tmp_actor left over"),
    ],
)
def test_a_half_migrated_database_is_refused_with_what_to_do(migrated: Place, damage: str, said: str) -> None:
    execute(migrated, damage)
    with pytest.raises(Unavailable, match="tutee restore") as refused:
        Store.open(migrated.url, migrated.home)
    assert refused.value.code == "schema_broken"
    assert said in refused.value.message


def test_a_database_of_somebody_else_is_left_alone(place: Place) -> None:
    place.home.mkdir()
    execute(place, "CREATE TABLE holiday (id INTEGER)")
    with pytest.raises(Unavailable, match="holiday") as refused:
        Store.open(place.url, place.home)
    assert refused.value.code == "schema_foreign"


def test_without_a_backup_nothing_is_migrated_unless_told(
    migrated: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = newer(tmp_path)
    if migrated.url.startswith("sqlite"):
        shutil.rmtree(migrated.home / "backups", ignore_errors=True)
        (migrated.home / "backups").symlink_to(tmp_path / "nowhere" / "at all")
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    database = Database(migrated.url)
    try:
        with pytest.raises(Unavailable, match="nothing was changed") as refused:
            migrate.bring_up(database, migrated.home, scripts=scripts)
        assert refused.value.code == "backup_failed"
        assert "colour" not in columns(migrated, "actor")
        migrate.bring_up(database, migrated.home, scripts=scripts, unsaved=True)
        assert "colour" in columns(migrated, "actor")
    finally:
        database.close()
