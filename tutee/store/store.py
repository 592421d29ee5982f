"""The store: one database and one home folder, opened once a process, its tables reached through named groups."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from tutee.errors import Unavailable
from tutee.store import migrate
from tutee.store.actors import Actors, Consents
from tutee.store.answers import Answers
from tutee.store.audit import AuditLog
from tutee.store.batches import Batches
from tutee.store.completions import Completions
from tutee.store.conversations import Conversations
from tutee.store.database import Database
from tutee.store.evals import EvalRuns, Evals, GateEvals
from tutee.store.evaluations import Evaluations, Gates
from tutee.store.feedback import FeedbackEvents
from tutee.store.files import Files
from tutee.store.generations import Generations
from tutee.store.jobs import Jobs
from tutee.store.keys import Keys
from tutee.store.messages import Messages
from tutee.store.model_aliases import ModelAliases
from tutee.store.openai_conversations import OpenAIConversations
from tutee.store.persons import Persons
from tutee.store.presentations import Presentations
from tutee.store.projects import Projects
from tutee.store.promotions import Promotions
from tutee.store.responses import Responses
from tutee.store.snapshots import Snapshots
from tutee.store.uploads import Uploads
from tutee.store.versions import Versions
from tutee.store.webhooks import Webhooks

UNFINISHED_RESTORE = "restore.unfinished"
"""A file of this name in the home says that a restore was killed while it swapped."""
FOLDERS = ("models", "versions", "files", "uploads", "jobs", "backups")


class Store:
    """Everything that must survive. Safe to share between threads; a forked process must open its own."""

    def __init__(self, database: Database, home: Path) -> None:
        """Use `Store.open`, which looks at the schema first."""
        self.database = database
        self.home = home
        self.actors = Actors(database)
        self.consents = Consents(database)
        self.projects = Projects(database)
        self.keys = Keys(database)
        self.conversations = Conversations(database)
        self.messages = Messages(database)
        self.answers = Answers(database)
        self.generations = Generations(database)
        self.presentations = Presentations(database)
        self.feedback = FeedbackEvents(database)
        self.versions = Versions(database)
        self.model_aliases = ModelAliases(database)
        self.jobs = Jobs(database)
        self.snapshots = Snapshots(database)
        self.evaluations = Evaluations(database)
        self.gates = Gates(database)
        self.evals = Evals(database)
        self.eval_runs = EvalRuns(database)
        self.gate_evals = GateEvals(database)
        self.promotions = Promotions(database)
        self.files = Files(database, home)
        self.uploads = Uploads(database, home, self.files)
        self.batches = Batches(database, self.files)
        self.webhooks = Webhooks(database)
        self.completions = Completions(database)
        self.responses = Responses(database)
        self.openai_conversations = OpenAIConversations(database)
        self.persons = Persons(database, home, self.files, self.jobs)
        self.audit = AuditLog(database)

    @classmethod
    def open(cls, url: str, home: Path, *, unsaved: bool = False) -> Self:
        """Open the store, making or migrating the schema when it is empty or older than this code.

        Args:
            url: an SQLAlchemy URL, SQLite on a file or Postgres.
            home: the home folder; made when it is not there.
            unsaved: migrate even when no backup can be made first (Postgres without `pg_dump`).

        Raises:
            Unavailable: the schema is newer than this code, half made, or not ours (codes schema_newer,
                schema_broken, schema_foreign); no backup could be made (backup_failed); a restore was interrupted
                (restore_unfinished); the folder cannot be written.
        """
        home = Path(home).expanduser().resolve()
        try:
            for folder in FOLDERS:
                (home / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"{home} cannot be used as home: {error.strerror}.", code="home_unwritable") from error
        if (home / UNFINISHED_RESTORE).exists():
            raise Unavailable(
                "A restore into this home was interrupted: run `tutee restore --force` with the same backup again.",
                code="restore_unfinished",
            )
        database = Database(url)
        try:
            migrate.bring_up(database, home, unsaved=unsaved)
        except BaseException:
            database.close()
            raise
        return cls(database, home)

    def close(self) -> None:
        """Give the connections back; the store cannot be used afterwards."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
