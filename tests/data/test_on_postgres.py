"""The whole way from feedback to an archive also goes on PostgreSQL."""

from __future__ import annotations

import io
from pathlib import Path

import psycopg
import pytest

from tests.data.homes import open_home, open_store
from tests.data.test_archive import contents, exported, talk
from tests.store import cluster
from tutee.data.archive import import_archive
from tutee.data.from_feedback import collect
from tutee.data.snapshot import freeze, load


@pytest.mark.skipif(cluster.binaries() is None, reason="PostgreSQL's server programs are not installed")
def test_freeze_erase_export_and_import(tmp_path: Path) -> None:
    with cluster.running() as pattern:
        with psycopg.connect(pattern.format(name="postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE data_layer")
        with open_store(pattern.format(name="data_layer"), tmp_path / "large") as home:
            talk(home)
            frozen = freeze(home.store, collect(home.store))
            assert load(home.store, frozen.sha) == frozen
            assert freeze(home.store, collect(home.store)).sha == frozen.sha
            stream = exported(home)
            with open_home(tmp_path / "small") as small:
                import_archive(small.store, stream, small.person("ada"))
                before, after = contents(stream), contents(exported(small))
                assert {**after, "archive.json": ""} == {**before, "archive.json": ""}
                back = io.BytesIO(exported(small).getvalue())
            assert import_archive(home.store, back, home.person("carol"))["feedback"] == 5
            ada = home.person("ada")
            first = home.store.conversations.list(ada).data[-1]
            home.store.conversations.delete(first.id, ada)
            left = load(home.store, frozen.sha)
            assert left.rows == ()
            assert first.id not in {prompt.conversation_id for prompt in left.prompts}
            assert len(left.prompts) < len(frozen.prompts)
