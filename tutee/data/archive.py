"""One person's data as one zip of JSON Lines: written, and read into another home.

    archive.json          format and whose it was
    consents.jsonl        every decision
    conversations.jsonl   with their system prompts
    messages.jsonl        the trees, parents before children
    generations.jsonl     what made each answer: version, sampling, token ids, log-probabilities
    presentations.jsonl   what was shown, in which order
    feedback.jsonl        every event, superseded ones too

Reading gives everything new ids and keeps the times; exporting again gives the same archive but for the ids. Answers
that are still being written are left out. Consents are only read in where the person has not decided anything yet. A
version that this home does not have is registered, archived, by the hash of its weights: its answers stay what they
are. Does not know what a trainer makes of all this.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, NoReturn

import numpy as np
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tutee.data.archive_tables import CONSENT, CONVERSATION, FEEDBACK, GENERATION, MESSAGE, PRESENTATION, Table
from tutee.errors import InvalidInput, NotFound, TooLarge
from tutee.ids import new_id
from tutee.json_lines import json_line
from tutee.store import Store, blobs
from tutee.store.feedback import check, derive
from tutee.store.schema import (
    Blob,
    Consent,
    Conversation,
    Feedback,
    Generation,
    Message,
    ModelVersion,
    Presentation,
    PresentationItem,
)

FORMAT = "tutee-archive-1"
MAX_BYTES = 4 * 1024**3
MAX_LINE_BYTES = 64 * 1024**2
"""Most bytes that an archive may unpack to, and one line of it: a zip of a megabyte can claim petabytes."""

Json = dict[str, Any]


def export_actor(store: Store, actor_id: str, stream: BinaryIO) -> None:
    """Write everything of one person to `stream` (seekable or not); the same data gives the same bytes.

    Raises:
        NotFound: no such actor.
    """
    actor = store.actors.get(actor_id)
    head = {"format": FORMAT, "actor": {"handle": actor.handle, "kind": actor.kind, "created_at": actor.created_at}}
    with store.database.read() as session, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        _put(archive, "archive.json", [head])
        for table, rows in _tables(session, actor_id):
            _put(archive, table.file, rows)


def import_archive(store: Store, stream: BinaryIO, actor_id: str) -> dict[str, int]:
    """Read an archive into an actor, under new ids, all of it or nothing.

    Returns:
        How many conversations, messages, generations, presentations, pieces of feedback and consents were added.

    Raises:
        NotFound: no such actor.
        InvalidInput: not an archive of ours, or one that does not fit together, with the file and line.
        TooLarge: it unpacks to more than `MAX_BYTES`.
    """
    store.actors.get(actor_id)
    try:
        with zipfile.ZipFile(stream) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise TooLarge(f"The archive unpacks to more than {MAX_BYTES // 1024**3} GiB.", param="archive")
            _check_head(next(iter(_lines(archive, "archive.json")), (0, {}))[1])
            # rows go in a table at a time: everybody else waits to write meanwhile
            with store.database.write(lock="versions") as session, session.no_autoflush:
                return _Reader(session, archive, actor_id).read()
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError, RuntimeError) as error:
        raise InvalidInput(f"This is not an archive of tutee: {error}", param="archive", code="bad_archive") from None
    except IntegrityError:
        raise InvalidInput("The archive does not fit together.", param="archive", code="bad_archive") from None


# --- writing


def _tables(session: Session, actor_id: str) -> Iterator[tuple[Table, Iterable[Json]]]:
    """Each table with its rows as JSON, in the order in which they must be read again."""
    consents = session.scalars(select(Consent).where(Consent.actor_id == actor_id))
    yield CONSENT, [CONSENT.to_json(row) for row in _by_time(consents)]
    conversations = _by_time(session.scalars(select(Conversation).where(Conversation.actor_id == actor_id)))
    ids = [row.id for row in conversations]
    messages: list[Message] = []
    for batch in blobs.batched(ids):
        messages += session.scalars(
            select(Message).where(Message.conversation_id.in_(batch), Message.state != "streaming")
        )
    messages = _parents_first(_by_time(messages))
    inside = {message.id for message in messages}
    yield CONVERSATION, (_conversation(session, row, inside) for row in conversations)
    yield MESSAGE, (_message(session, row) for row in messages)
    generations: list[Generation] = []
    for batch in blobs.batched(inside):
        generations += session.scalars(select(Generation).where(Generation.message_id.in_(batch)))
    yield GENERATION, (_generation(session, row) for row in _by_time(generations))
    finished = {row.id for row in generations}
    shown = _by_time(session.scalars(select(Presentation).where(Presentation.actor_id == actor_id)))
    presentations = [_presentation(session, row) for row in shown]
    whole = [row for row in presentations if finished.issuperset(row["generation_ids"])]
    yield PRESENTATION, whole
    there = {None, *inside, *(row["id"] for row in whole)}
    given = _by_time(session.scalars(select(Feedback).where(Feedback.actor_id == actor_id)))
    yield FEEDBACK, (FEEDBACK.to_json(row) for row in given if {row.message_id, row.presentation_id} <= there)


def _conversation(session: Session, row: Conversation, inside: set[str]) -> Json:
    head = row.head_message_id if row.head_message_id in inside else None
    return CONVERSATION.to_json(row) | {"system": _text(session, row.system_sha), "head_message_id": head}


def _message(session: Session, row: Message) -> Json:
    extra = {"content": _text(session, row.blob_sha) or "", "by_person": row.author_actor_id is not None}
    return MESSAGE.to_json(row) | extra


def _generation(session: Session, row: Generation) -> Json:
    version = session.get_one(ModelVersion, row.version_id)
    return GENERATION.to_json(row) | {
        "version": version.card.get("imported_name", version.name),
        "prompt_ids": np.frombuffer(session.get_one(Blob, row.prompt_sha).data, "<i4").tolist(),
        "token_ids": np.frombuffer(row.token_ids or b"", "<i4").tolist(),
        "logprobs": np.frombuffer(row.logprobs or b"", "<f4").tolist(),
    }


def _presentation(session: Session, row: Presentation) -> Json:
    items = select(PresentationItem.generation_id).where(PresentationItem.presentation_id == row.id)
    return PRESENTATION.to_json(row) | {
        "generation_ids": list(session.scalars(items.order_by(PresentationItem.position)))
    }


def _by_time(rows: Iterable[Any]) -> list[Any]:
    return sorted(rows, key=lambda row: (row.created_at, row.id))


def _parents_first(messages: list[Message]) -> list[Message]:
    """Creation order already is parents first, unless a clock was set back."""
    placed: dict[str, Message] = {}
    waiting = messages
    while waiting:
        later = []
        for message in waiting:
            if message.parent_id is None or message.parent_id in placed:
                placed[message.id] = message
            else:
                later.append(message)
        if len(later) == len(waiting):
            break  # what hangs on an answer that is still being written
        waiting = later
    return list(placed.values())


def _text(session: Session, sha: str | None) -> str | None:
    return None if sha is None else session.get_one(Blob, sha).data.decode("utf-8", "replace")


def _put(archive: zipfile.ZipFile, name: str, rows: Iterable[Json]) -> None:
    entry = zipfile.ZipInfo(name)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o600 << 16
    with archive.open(entry, "w", force_zip64=True) as file:
        for row in rows:
            file.write(json_line(row))


# --- reading


class _Reader:
    """Reads the tables in order, each row's references turned into the new ids of rows read before."""

    def __init__(self, session: Session, archive: zipfile.ZipFile, actor_id: str) -> None:
        self._session = session
        self._archive = archive
        self._actor_id = actor_id
        self._new: dict[str, str] = {}
        self._messages: dict[str, Message] = {}
        self._heads: dict[str, Any] = {}
        self._versions: dict[tuple[str, str], str] = {}

    def read(self) -> dict[str, int]:
        decided = self._session.scalar(select(Consent.id).where(Consent.actor_id == self._actor_id).limit(1))
        counts = {
            "conversations": self._each(CONVERSATION, self._conversation),
            "messages": self._each(MESSAGE, self._message),
            "generations": self._each(GENERATION, self._generation),
            "presentations": self._each(PRESENTATION, self._presentation),
            "feedback": self._each(FEEDBACK, self._feedback),
            "consents": 0 if decided else self._each(CONSENT, self._consent),
        }
        self._set_heads()
        return counts

    def _each(self, table: Table, make: Any) -> int:
        count = 0
        for line, raw in _lines(self._archive, table.file):
            try:
                if not isinstance(raw, dict) or not isinstance(raw.get("id"), str):
                    raise ValueError("has no 'id'")
                make(table.from_json(raw, self._new), raw)
            except KeyError as error:
                _refuse(f"{table.file} line {line}: {error.args[0]!r} is missing or unknown.")
            except (InvalidInput, NotFound) as error:
                _refuse(f"{table.file} line {line}: {error.message}")
            except (AttributeError, TypeError, ValueError, OverflowError) as error:
                _refuse(f"{table.file} line {line}: {error}.")
            count += 1
        self._session.flush()
        return count

    def _conversation(self, row: Conversation, raw: Json) -> None:
        row.actor_id = self._actor_id
        self._heads[row.id] = raw.get("head_message_id")
        row.system_sha = None if raw["system"] is None else blobs.put_text(self._session, raw["system"])
        self._session.add(row)

    def _message(self, row: Message, raw: Json) -> None:
        row.blob_sha = blobs.put_text(self._session, raw["content"])
        row.author_actor_id = self._actor_id if raw["by_person"] else None
        for other in {row.parent_id, row.edited_from} - {None}:
            if self._messages[str(other)].conversation_id != row.conversation_id:
                raise ValueError("hangs on a message of another conversation")
        self._session.add(row)
        self._messages[row.id] = row

    def _generation(self, row: Generation, raw: Json) -> None:
        row.version_id = self._version(raw["version"], row.weights_sha256)
        row.prompt_sha = blobs.put(self._session, _packed(raw["prompt_ids"], "<i4"))
        row.token_ids = _packed(raw["token_ids"], "<i4")
        row.logprobs = _packed(raw["logprobs"], "<f4")
        if len(row.token_ids) != len(row.logprobs):
            raise ValueError("does not have one log-probability a token")
        answer = self._messages[row.message_id]
        if answer.role != "assistant" or answer.generation_id is not None:
            raise ValueError("does not belong to an answer of its own")
        self._session.add(row)
        answer.generation_id = row.id

    def _presentation(self, row: Presentation, raw: Json) -> None:
        ids = [self._new[id] for id in raw["generation_ids"]]
        if not ids or (row.layout == "side_by_side" and len(ids) != 2):
            raise ValueError(f"has {len(ids)} answers")
        row.actor_id = self._actor_id
        self._session.add(row)
        items = enumerate(ids)
        self._session.add_all(PresentationItem(presentation_id=row.id, position=i, generation_id=id) for i, id in items)

    def _feedback(self, row: Feedback, raw: Json) -> None:
        row.actor_id = self._actor_id
        row.payload = _renamed(row.payload, self._new)
        check(row.kind, row.payload, row.message_id, row.presentation_id, row.strength, row.reasons)
        derive(self._session, row)
        self._session.add(row)

    def _consent(self, row: Consent, raw: Json) -> None:
        row.actor_id = self._actor_id
        self._session.add(row)

    def _set_heads(self) -> None:
        """A conversation's head is a message, which is read after it."""
        for id, head in self._heads.items():
            if head is not None:
                message = self._messages.get(self._new.get(str(head), ""))
                if message is None or message.conversation_id != id:
                    _refuse(f"{CONVERSATION.file}: head_message_id is {head!r:.60}, which is no message of it.")
                self._session.get_one(Conversation, id).head_message_id = message.id

    def _version(self, name: str, weights_sha256: str) -> str:
        """The version with these weights, or a note that there was one."""
        key = (name, weights_sha256)
        if key not in self._versions:
            known = self._session.scalars(select(ModelVersion).where(ModelVersion.weights_sha256 == weights_sha256))
            same = {version.card.get("imported_name", version.name): version for version in known}
            found = same.get(name) or next(iter(same.values()), None) or self._note(name, weights_sha256)
            self._versions[key] = found.id
        return self._versions[key]

    def _note(self, name: str, weights_sha256: str) -> ModelVersion:
        last = self._session.scalar(select(ModelVersion.number).order_by(ModelVersion.number.desc()).limit(1))
        version = ModelVersion(
            id=new_id("ver"),
            number=0 if last is None else last + 1,
            name=f"imported/{weights_sha256[:12]}/{name}",
            kind="full",
            state="archived",
            weights_sha256=weights_sha256,
            folder="",
            card={"imported_name": name},
        )
        self._session.add(version)
        self._session.flush()
        return version


def _packed(numbers: Any, kind: str) -> bytes:
    """A list of token ids or log-probabilities as it is stored."""
    with np.errstate(over="ignore"):
        packed = np.asarray(numbers, kind)
    if packed.ndim != 1 or not np.isfinite(packed).all() or (kind == "<i4" and (packed < 0).any()):
        raise ValueError("has token ids or log-probabilities that are none")
    return packed.tobytes()


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The JSON value with every old id in it replaced."""
    if isinstance(value, dict):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def _lines(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[int, Any]]:
    with archive.open(name) as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > MAX_LINE_BYTES:
                _refuse(f"{name} line {number} is longer than {MAX_LINE_BYTES // 1024**2} MiB.")
            try:
                yield number, json.loads(raw)
            except (ValueError, RecursionError):
                _refuse(f"{name} line {number} is not JSON.")


def _check_head(head: Any) -> None:
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        _refuse(f"archive.json does not say format {FORMAT}.")


def _refuse(what: str) -> NoReturn:
    raise InvalidInput(what, param="archive", code="bad_archive")
