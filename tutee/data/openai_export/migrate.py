"""`migrate`: goes through an export, decides what each file is, and hands its rows to who understands them.

- `conversations.json`, or `conversations-000.json` and so on, become conversations;
- `message_feedback.json` and `model_comparisons.json` become feedback on their answers;
- `.json` and `.jsonl` of API objects (a list, a page of one, one object, one a line), told by their `object`, become
  files, jobs with events and checkpoints, stored completions with the feedback in their metadata, evals with runs and
  output items;
- any other `.jsonl`, and what a `file` object names (by id or file name), become files, with the purpose that their
  first line shows;
- a zip of these, in a folder, is looked into.

Owners come before what they own, whatever the files are called. Every row that cannot be taken is reported with file
and line, and the rest goes on; a second run adds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any

from tutee.data.openai_export.bundle import BadValue, Entry, entries, lines, values
from tutee.data.openai_export.chat_rows import ChatRows
from tutee.data.openai_export.chats import BadRow, read_chat, read_comparison, read_rating
from tutee.data.openai_export.platform import PlatformRows
from tutee.data.openai_export.report import Report
from tutee.errors import InvalidInput, TuteeError
from tutee.store import Store

CONVERSATIONS = re.compile(r"conversations(-\d+)?\.json")
RATINGS, COMPARISONS = "message_feedback.json", "model_comparisons.json"
NOT_OURS = frozenset(
    (
        "ads.json",
        "chat.html",
        "conversation_asset_file_names.json",
        "export_manifest.json",
        "group_chats.json",
        "library_files.json",
        "shared_conversations.json",
        "user.json",
        "user_settings.json",
    )
)
"""What else a ChatGPT export holds: the account, links, a page to look at."""
PURPOSES = {"custom_id": "batch", "item": "evals", **dict.fromkeys(("messages", "input", "prompt"), "fine-tune")}
"""The first field that the first line of a data file has, and what such a file is for."""


def migrate(store: Store, source: Path, actor_id: str, progress: Callable[[str], None] = lambda name: None) -> Report:
    """Bring an export into one person's data.

    Args:
        source: a folder, or a zip.
        progress: called with the name of each file as it is begun.

    Raises:
        InvalidInput: no folder and no zip, or one that reaches outside itself (code unsafe_archive).
        TooLarge: a zip bomb. NotFound: no such actor.
    """
    store.actors.get(actor_id)
    report = Report()
    with ExitStack() as opened:
        files = list(_all(source, opened, report))
        _Migration(store, actor_id, report, files, progress).run()
    return report


def _all(source: Path, opened: ExitStack, report: Report) -> Iterator[Entry]:
    """Every file of the export; a zip beside others is looked into, once: not a zip in a zip."""
    for entry in entries(source, opened):
        if not entry.name.endswith(".zip"):
            yield entry
        elif source.is_dir():
            yield from entries(source / entry.name, opened)
        else:
            report.refuse(entry.name, 0, "a zip within a zip is not looked into.")


class _Migration:
    """One pass over the files of an export for each kind of thing in it."""

    def __init__(
        self, store: Store, actor_id: str, report: Report, files: list[Entry], progress: Callable[[str], None]
    ) -> None:
        self._report = report
        self._files = files
        self._progress = progress
        self._chats = ChatRows(store, actor_id, report)
        self._platform = PlatformRows(store, actor_id, report)

    def run(self) -> None:
        chats = [entry for entry in self._files if CONVERSATIONS.fullmatch(entry.base)]
        for entry in chats:
            self._each(entry, values, lambda raw: self._chats.add(read_chat(raw)))
        for name, take in ((RATINGS, self._rate), (COMPARISONS, self._compare)):
            for entry in self._files:
                if entry.base == name:
                    self._each(entry, values, take)
        known = {*NOT_OURS, RATINGS, COMPARISONS}
        rest = [entry for entry in self._files if entry not in chats and entry.base not in known]
        self._report.skipped["files about the account"] += sum(entry.base in NOT_OURS for entry in self._files)
        self._api([entry for entry in rest if entry.base.endswith((".json", ".jsonl"))], rest)

    def _rate(self, raw: Any) -> None:
        self._chats.rate(read_rating(raw))

    def _compare(self, raw: Any) -> None:
        self._chats.compare(read_comparison(raw))

    def _api(self, candidates: list[Entry], rest: list[Entry]) -> None:
        """The API's objects in the order of who owns whom, then the files that they or nobody spoke of."""
        kinds = {entry.name: found for entry in candidates if (found := _objects_in(entry))}
        named: dict[str, dict[str, Any]] = {}
        self._take(candidates, kinds, "file", lambda raw: named.update({raw["id"]: dict(raw)}))
        data = [entry for entry in rest if entry.name not in kinds]
        used = {name for entry in data if (name := self._data(entry, named))}
        for kind in self._platform.order:
            self._take(candidates, kinds, kind, self._platform.add)
        self._take(candidates, kinds, "chat.completion", self._platform.judge)  # one may speak of another
        for id, facts in named.items():
            if id not in used:
                self._report.refuse(str(facts.get("filename") or id), 0, f"the content of {id} is not in the export.")

    def _take(
        self, candidates: Iterable[Entry], kinds: Mapping[str, set[str]], kind: str, take: Callable[[Any], None]
    ) -> None:
        for entry in candidates:
            if kind in kinds.get(entry.name, ()):
                self._each(entry, _objects, take, kind)

    def _each(
        self,
        entry: Entry,
        read: Callable[[Entry], Iterator[tuple[int, Any]]],
        take: Callable[[Any], None],
        kind: str | None = None,
    ) -> None:
        """Hand over each row (of one kind); what is wrong with one is noted and the next one follows."""
        self._progress(entry.name)
        try:
            for line, raw in read(entry):
                if kind is not None and (not isinstance(raw, dict) or raw.get("object") != kind):
                    continue
                try:
                    take(raw)
                except BadRow as error:
                    self._report.refuse(entry.name, line, str(error))
                except TuteeError as error:
                    self._report.refuse(entry.name, line, error.message)
        except BadValue as error:
            self._report.refuse(entry.name, error.line, str(error))

    def _data(self, entry: Entry, named: Mapping[str, Mapping[str, Any]]) -> str | None:
        """Keep a file that is data; the id under which it was named, if it was."""
        stem = PurePosixPath(entry.base).stem
        facts = next((f for id, f in named.items() if stem == id or entry.base in (id, f.get("filename"))), None)
        purpose = str(facts.get("purpose")) if facts else _purpose(entry)
        if purpose is None:
            self._report.refuse(entry.name, 0, "is nothing that OpenAI exports.")
            return None
        self._progress(entry.name)
        try:
            self._platform.file(entry, facts or {}, purpose)
        except (BadRow, InvalidInput) as error:
            self._report.refuse(entry.name, 0, str(error))
        else:
            self._bad_lines(entry)
        return None if facts is None else str(facts["id"])

    def _bad_lines(self, entry: Entry) -> None:
        """The file is kept byte for byte; lines that no job will take are named now, not when one fails."""
        if entry.base.endswith(".jsonl"):
            for line, value in lines(entry):
                if isinstance(value, BadValue):
                    self._report.refuse(entry.name, line, f"{value} (kept as it is)")
                elif not isinstance(value, dict):
                    self._report.refuse(entry.name, line, "is no JSON object (kept as it is)")


def _objects(entry: Entry) -> Iterator[tuple[int, Any]]:
    """(line, object) of what a file of the API's objects holds; pages are opened."""
    for line, value in lines(entry) if entry.base.endswith(".jsonl") else values(entry):
        if isinstance(value, dict) and value.get("object") == "list" and isinstance(value.get("data"), list):
            yield from ((line, inner) for inner in value["data"])
        elif isinstance(value, list):
            yield from ((line, inner) for inner in value)
        else:
            yield line, value


def _objects_in(entry: Entry) -> set[str]:
    """Which of the API's objects are in a file: the words after `object`. Nothing for a file that is damaged."""
    found: set[str] = set()
    try:
        for _, value in _objects(entry):
            if isinstance(value, dict) and isinstance(value.get("object"), str):
                found.add(value["object"])
    except BadValue:
        pass  # said when its rows are read, or when it is taken for data
    return found


def _purpose(entry: Entry) -> str | None:
    """What a data file is for, by its first line; None for what is no such file."""
    if not entry.base.endswith(".jsonl"):
        return None
    first = next((value for _, value in lines(entry) if isinstance(value, dict)), {})
    return next((purpose for field, purpose in PURPOSES.items() if field in first), None)
