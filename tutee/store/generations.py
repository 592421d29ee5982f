"""Generations: what a model sampled, from the first token to the last, so that it can be trained on token for token.

While an answer streams its pieces are appended as rows. The end compiles them: arrays into the generation, text into
the message, and the pieces are dropped in the same transaction. After that nothing changes a generation any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, delete, select
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store import blobs
from tutee.store.database import Database
from tutee.store.message_rows import load
from tutee.store.messages import require_message
from tutee.store.records import StoredGeneration, StoredMessage
from tutee.store.schema import Blob, Conversation, Generation, GenerationChunk, Message, ModelVersion, now

STATES = {"stop": "complete", "length": "complete", "tool_calls": "complete", "abort": "stopped", "error": "error"}
"""Finish reason → state of the message; `interrupted` is set by `interrupted()` alone."""


class Generations:
    """All answers that models gave."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def start(
        self,
        message_id: str,
        version_id: str,
        *,
        prompt_ids: Sequence[int] | NDArray[np.int32],
        sampling: Mapping[str, Any],
        weights_sha256: str,
        tokenizer_sha256: str,
        template_sha256: str,
        propensity: float = 1.0,
        arm: str | None = None,
        experiment_id: str | None = None,
    ) -> str:
        """Begin the generation of a streaming message and return its id.

        Args:
            propensity: P(this arm | context) when it was chosen, in (0, 1].

        Raises:
            NotFound: no such message or version.
            InvalidInput: the message is not streaming or has its generation already; a propensity out of range.
        """
        if not 0 < propensity <= 1:
            raise InvalidInput("'propensity' must be above 0 and at most 1.", param="propensity", code="invalid_value")
        with self._database.write() as session:
            message = require_message(session, message_id, None)
            if message.state != "streaming" or message.generation_id is not None:
                raise InvalidInput(f"Message {message_id} is not waiting for an answer.", param="message_id")
            if session.get(ModelVersion, version_id) is None:
                raise NotFound(f"There is no version {version_id!r}.", param="version_id", code="model_not_found")
            generation = Generation(
                id=new_id("gen"),
                message_id=message_id,
                version_id=version_id,
                weights_sha256=weights_sha256,
                tokenizer_sha256=tokenizer_sha256,
                template_sha256=template_sha256,
                prompt_sha=blobs.put(session, pack_ids(prompt_ids)),
                sampling=dict(sampling),
                arm=arm,
                experiment_id=experiment_id,
                propensity=propensity,
            )
            session.add(generation)
            message.generation_id = generation.id
            return generation.id

    def append(self, id: str, text: str, token_ids: Sequence[int], logprobs: Sequence[float]) -> bool:
        """Add what was just sampled. Cheap: it does not wait for the disk (see `store.database`).

        Returns:
            False when the generation has ended already (somebody stopped it); nothing is added then.

        Raises:
            NotFound: no such generation.
            InvalidInput: not one log-probability a token.
        """
        if len(token_ids) != len(logprobs):
            raise InvalidInput(
                f"{len(token_ids)} tokens came with {len(logprobs)} log-probabilities.", param="logprobs"
            )
        with self._database.write(durable=False) as session:
            if _lock(session, id).finished_at is not None:
                return False
            session.add(
                GenerationChunk(
                    generation_id=id,
                    text=text.encode("utf-8", "replace"),
                    token_ids=pack_ids(token_ids),
                    logprobs=np.asarray(logprobs, dtype="<f4").tobytes(),
                )
            )
            return True

    def text(self, id: str) -> str:
        """The answer so far, or all of it.

        Raises:
            NotFound: no such generation.
        """
        with self._database.read() as session:
            message_id = session.scalar(select(Generation.message_id).where(Generation.id == id))
            if message_id is None:
                raise _not_found(id)
            return load(session, Message.id == message_id, None)[0].content

    def finish(
        self, id: str, finish_reason: str, *, ttft_s: float | None = None, tokens_per_s: float | None = None
    ) -> StoredMessage:
        """End the generation and complete its message. When it has ended already, nothing changes.

        Args:
            finish_reason: stop, length or tool_calls (the message is complete), abort (stopped), error (error).
            ttft_s: seconds to the first token.

        Raises:
            NotFound: no such generation.
            InvalidInput: an unknown finish reason.
        """
        if finish_reason not in STATES:
            raise InvalidInput(f"'finish_reason' must be one of {', '.join(STATES)}.", param="finish_reason")
        with self._database.write() as session:
            generation = _lock(session, id)
            if generation.finished_at is None:
                generation.ttft_s = ttft_s
                generation.tokens_per_s = tokens_per_s
                _compile(session, generation, finish_reason, STATES[finish_reason])
                session.flush()
            owner = select(Conversation.actor_id).join(Message).where(Message.id == generation.message_id)
            return load(session, Message.id == generation.message_id, session.scalar(owner))[0]

    def interrupted(self) -> list[str]:
        """Mark every message that still streams as interrupted, keeping what was said; for a server that starts.

        Returns:
            The ids of those messages.
        """
        with self._database.write() as session:
            messages = list(session.scalars(select(Message).where(Message.state == "streaming")))
            for message in messages:
                generation = session.scalar(select(Generation).where(Generation.message_id == message.id))
                if generation is None:  # killed before the generation began
                    message.state = "interrupted"
                    message.blob_sha = blobs.put_text(session, "")
                else:
                    _compile(session, generation, "interrupted", "interrupted")
            return [message.id for message in messages]

    def get(self, id: str, actor_id: str | None = None) -> StoredGeneration:
        """The generation, with the tokens so far when it still streams.

        Raises:
            NotFound: no such generation, or in somebody else's conversation.
        """
        statement = _with_prompt().where(Generation.id == id)
        if actor_id is not None:
            statement = statement.join(Message, Message.id == Generation.message_id)
            statement = statement.join(Conversation, Conversation.id == Message.conversation_id)
            statement = statement.where(Conversation.actor_id == actor_id)
        with self._database.read() as session:
            row = session.execute(statement).first()
            if row is None:
                raise _not_found(id)
            generation, prompt = row
            if generation.finished_at is not None:
                return _record(generation, prompt)
            return _record(generation, prompt, _chunks(session, id))

    def get_many(self, ids: Iterable[str]) -> dict[str, StoredGeneration]:
        """Those of `ids` that exist; no owner check. One that still streams comes without its tokens."""
        found = {}
        with self._database.read() as session:
            for batch in blobs.batched(dict.fromkeys(ids)):
                for generation, prompt in session.execute(_with_prompt().where(Generation.id.in_(batch))):
                    found[generation.id] = _record(generation, prompt)
        return found


def pack_ids(ids: Sequence[int] | NDArray[np.int32]) -> bytes:
    """Token ids as little-endian int32."""
    return np.asarray(ids, dtype="<i4").tobytes()


def _with_prompt() -> Select[Generation, bytes]:
    return select(Generation, Blob.data).join(Blob, Blob.sha256 == Generation.prompt_sha)


def _lock(session: Session, id: str) -> Generation:
    generation = session.scalar(select(Generation).where(Generation.id == id).with_for_update())
    if generation is None:
        raise _not_found(id)
    return generation


def _not_found(id: str) -> NotFound:
    return NotFound(f"There is no generation {id!r}.", param="generation_id", code="generation_not_found")


def _chunks(session: Session, id: str) -> list[GenerationChunk]:
    statement = select(GenerationChunk).where(GenerationChunk.generation_id == id).order_by(GenerationChunk.seq)
    return list(session.scalars(statement))


def _compile(session: Session, generation: Generation, finish_reason: str, state: str) -> None:
    chunks = _chunks(session, generation.id)
    logprobs = b"".join(chunk.logprobs for chunk in chunks)
    generation.token_ids = b"".join(chunk.token_ids for chunk in chunks)
    generation.logprobs = logprobs
    generation.n_tokens = len(logprobs) // 4
    generation.seq_logprob = float(np.frombuffer(logprobs, dtype="<f4").sum(dtype=np.float64))
    generation.finish_reason = finish_reason
    generation.finished_at = now()
    message = session.get_one(Message, generation.message_id)
    message.blob_sha = blobs.put(session, b"".join(chunk.text for chunk in chunks))
    message.state = state
    session.execute(delete(GenerationChunk).where(GenerationChunk.generation_id == generation.id))


def _record(generation: Generation, prompt: bytes, chunks: Sequence[GenerationChunk] = ()) -> StoredGeneration:
    token_ids = generation.token_ids or b"".join(chunk.token_ids for chunk in chunks)
    logprobs = generation.logprobs or b"".join(chunk.logprobs for chunk in chunks)
    return StoredGeneration(
        id=generation.id,
        message_id=generation.message_id,
        version_id=generation.version_id,
        weights_sha256=generation.weights_sha256,
        tokenizer_sha256=generation.tokenizer_sha256,
        template_sha256=generation.template_sha256,
        prompt_ids=np.frombuffer(prompt, dtype="<i4"),
        token_ids=np.frombuffer(token_ids, dtype="<i4"),
        logprobs=np.frombuffer(logprobs, dtype="<f4"),
        sampling=generation.sampling,
        arm=generation.arm,
        experiment_id=generation.experiment_id,
        propensity=generation.propensity,
        finish_reason=generation.finish_reason,
        ttft_s=generation.ttft_s,
        tokens_per_s=generation.tokens_per_s,
        created_at=generation.created_at,
        finished_at=generation.finished_at,
    )
