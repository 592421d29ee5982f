"""Answers on their way into the store: begun together in one transaction, then saved in pieces, many at a time.

The pieces of an answer that streams are rows of their own. Its end compiles them: arrays into the generation, text into
the message, and the pieces are dropped in the same transaction. After that nothing changes a generation any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store import blobs, messages, presentations
from tutee.store.database import Database
from tutee.store.records import End, Piece, Showing, Start, StoredMessage, VersionRef
from tutee.store.schema import Generation, GenerationChunk, Message, ModelVersion, now, table

STATES = {"stop": "complete", "length": "complete", "tool_calls": "complete", "abort": "stopped", "error": "error"}
"""Finish reason → state of the message; `interrupted` is set by `Generations.interrupted` alone."""

_VERSION = select(ModelVersion.id, ModelVersion.number, ModelVersion.name).where(ModelVersion.id == bindparam("id"))
_INSERT = table(Generation).insert()
_INSERT_PIECE = table(GenerationChunk).insert()
_STREAMING = (
    select(Generation.id, Generation.message_id, Generation.finished_at)
    .where(Generation.id.in_(bindparam("ids", expanding=True)))
    .with_for_update()
)
_PIECES = (
    select(GenerationChunk.text, GenerationChunk.token_ids, GenerationChunk.logprobs)
    .where(GenerationChunk.generation_id == bindparam("id"))
    .order_by(GenerationChunk.seq)
)
_DROP_PIECES = table(GenerationChunk).delete().where(table(GenerationChunk).c.generation_id == bindparam("id"))
_END = update(table(Generation)).where(table(Generation).c.id == bindparam("key"))
_END_MESSAGE = update(table(Message)).where(table(Message).c.id == bindparam("key"))


class Answers:
    """Answers that are being written."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(
        self, conversation_id: str, parent_id: str, actor_id: str, starts: Sequence[Start], showing: Showing
    ) -> tuple[str, list[StoredMessage]]:
        """Add empty messages that stream, with their generations and what is shown of them, all or nothing.

        The first one becomes the conversation's head. A single answer beside earlier ones counts as asked for again
        (selection policy `regenerate`).

        Returns:
            The presentation's id, and the messages in the order of `starts`.

        Raises:
            NotFound: no such conversation or not the actor's; no such parent in it, or no such version.
            InvalidInput: a layout that does not fit the number of answers.
        """
        presentations.check_showing(showing, len(starts))
        with self._database.write(lock=f"conversation:{conversation_id}") as session:
            place = messages.find_place(session, conversation_id, parent_id, actor_id)
            if showing.layout == "single" and place.siblings:
                showing = replace(showing, selection_policy="regenerate")
            begun = []
            for nth, start in enumerate(starts):
                version = require_version(session, start.version_id)
                message = place.message("assistant", "", "streaming", by_person=False, nth=nth)
                message = replace(message, generation_id=new_id("gen"), version=None if showing.blind else version)
                messages.insert(session, message, None)
                insert_generation(session, str(message.generation_id), message.id, start)
                begun.append(message)
            shown = presentations.insert(session, actor_id, [str(m.generation_id) for m in begun], showing)
            messages.touch(session, begun[0], head=True)
        count = begun[-1].sibling_count
        return shown, [replace(m, presentation_id=shown, blind=showing.blind, sibling_count=count) for m in begun]

    def save(self, pieces: Sequence[Piece]) -> list[str]:
        """Add what was just sampled, and end what has ended, in one transaction. What ended before does not change.

        Waits for the disk only if something ends (see `store.database`).

        Returns:
            The ids of the generations that are not there any more: their conversations were deleted.

        Raises:
            InvalidInput: not one log-probability a token, or an unknown finish reason.
        """
        for piece in pieces:
            _check(piece)
        with self._database.write(durable=any(piece.end for piece in pieces)) as session:
            rows = session.execute(_STREAMING, {"ids": [piece.generation_id for piece in pieces]})
            found = {row.id: row for row in rows}
            for piece in pieces:
                row = found.get(piece.generation_id)
                if row is None or row.finished_at is not None:
                    continue
                if piece.token_ids or piece.text:
                    session.execute(_INSERT_PIECE, _packed(piece))
                if piece.end is not None:
                    compile_pieces(session, row.id, row.message_id, piece.end, STATES[piece.end.finish_reason])
            return [piece.generation_id for piece in pieces if piece.generation_id not in found]


def require_version(session: Session, id: str) -> VersionRef:
    """The version, or NotFound."""
    row = session.execute(_VERSION, {"id": id}).first()
    if row is None:
        raise NotFound(f"There is no version {id!r}.", param="version_id", code="model_not_found")
    return VersionRef(row.id, row.number, row.name)


def insert_generation(session: Session, id: str, message_id: str, start: Start) -> None:
    """Add the row of a generation that begins."""
    if not 0 < start.propensity <= 1:
        raise InvalidInput("'propensity' must be above 0 and at most 1.", param="propensity", code="invalid_value")
    fields = ("version_id", "weights_sha256", "tokenizer_sha256", "template_sha256", "propensity")
    row = {name: getattr(start, name) for name in (*fields, "arm", "experiment_id")}
    prompt_sha = blobs.put(session, pack_ids(start.prompt_ids))
    row |= {"id": id, "message_id": message_id, "prompt_sha": prompt_sha, "sampling": dict(start.sampling)}
    session.execute(_INSERT, row)


def compile_pieces(session: Session, id: str, message_id: str, end: End, state: str) -> None:
    """End a generation: its pieces become its arrays and its message's text."""
    pieces = session.execute(_PIECES, {"id": id}).all()
    logprobs = b"".join(piece.logprobs for piece in pieces)
    facts: dict[str, Any] = {
        "token_ids": b"".join(piece.token_ids for piece in pieces),
        "logprobs": logprobs,
        "n_tokens": len(logprobs) // 4,
        "seq_logprob": float(np.frombuffer(logprobs, dtype="<f4").sum(dtype=np.float64)),
        "finish_reason": end.finish_reason,
        "finished_at": now(),
        "ttft_s": end.ttft_s,
        "tokens_per_s": end.tokens_per_s,
    }
    session.execute(_END, facts | {"key": id})
    sha = blobs.put(session, b"".join(piece.text for piece in pieces))
    session.execute(_END_MESSAGE, {"key": message_id, "blob_sha": sha, "state": state})
    session.execute(_DROP_PIECES, {"id": id})


def pack_ids(ids: Sequence[int] | NDArray[np.int32]) -> bytes:
    """Token ids as little-endian int32."""
    return np.asarray(ids, dtype="<i4").tobytes()


def _packed(piece: Piece) -> dict[str, Any]:
    return {
        "generation_id": piece.generation_id,
        "text": piece.text.encode("utf-8", "replace"),
        "token_ids": pack_ids(piece.token_ids),
        "logprobs": np.asarray(piece.logprobs, dtype="<f4").tobytes(),
    }


def _check(piece: Piece) -> None:
    if len(piece.token_ids) != len(piece.logprobs):
        raise InvalidInput(
            f"{len(piece.token_ids)} tokens came with {len(piece.logprobs)} log-probabilities.", param="logprobs"
        )
    if piece.end is not None and piece.end.finish_reason not in STATES:
        raise InvalidInput(f"'finish_reason' must be one of {', '.join(STATES)}.", param="finish_reason")
