"""A restored backup does not bring back what was erased after it was made."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from tests.data.homes import Home
from tutee.cli.root import app
from tutee.data.erased_again import erase_again, known_in
from tutee.store import Store
from tutee.store.backup import backup


def restored(home: Home, archive: Path) -> str:
    """What `tutee restore --force` says."""
    home.store.close()
    done = CliRunner().invoke(app, ["--home", str(home.store.home), "restore", str(archive), "--force"])
    assert done.exit_code == 0, done.output
    return done.output


def test_what_was_erased_since_the_backup_is_erased_again(home: Home) -> None:
    store = home.store
    before, withdrawn, kept = (home.thumb(home.answer(home.ask(q), "4"), 1) for q in ("1?", "2?", "3?"))
    store.feedback.erase(before.id, home.person())
    talk = home.ask("forget this talk").conversation_id
    home.ask("grace's words", "grace")
    grace = home.person("grace")
    archive = backup(store)
    home.ask("said after the backup")
    store.feedback.erase(withdrawn.id, home.person())
    store.conversations.delete(talk, home.person())
    store.persons.erase(grace)
    assert "Erasures since this backup, done again: 3." in restored(home, archive)
    with Store.open(store.database.url, store.home) as back:
        assert [event.id for event in back.feedback.live()] == [kept.id]
        assert len(back.conversations.list(home_owner(back))) == 3, "the talk is gone, the three questions are there"
        assert len(back.conversations.list(grace)) == 0
        assert back.actors.by_handle("grace") is None
        assert back.audit.verify() is None
        again = backup(back)
        assert erase_again(back, known_in(back.database.url)) == 0, "the backup knows of them now"
    assert "done again: 0." in restored(home, again)


def home_owner(store: Store) -> str:
    return store.actors.get_or_create("owner").id


def test_a_database_that_cannot_be_read_knows_of_nothing(tmp_path: Path) -> None:
    assert not known_in(f"sqlite:///{tmp_path / 'tutee.db'}").tombstones
    assert not (tmp_path / "tutee.db").exists()
    (tmp_path / "tutee.db").write_bytes(b"no database" * 100)
    assert not known_in(f"sqlite:///{tmp_path / 'tutee.db'}").tombstones
