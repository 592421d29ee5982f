"""Generations: what a model sampled, from the first token to the last, so that it can be trained on token for token.

How an answer is written while it streams: `answers.py`. Here: one at a time, and reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from tutee.errors import InvalidInput, NotFound
from tutee.ids import new_id
from tutee.store import blobs
from tutee.store.answers import Answers, compile_pieces, insert_generation, require_version
from tutee.store.database import Database
from tutee.store.message_rows import ONE, load, load_owned
from tutee.store.messages import require_message
from tutee.store.records import End, Piece, Start, StoredGeneration, StoredMessage
from tutee.store.schema import Blob, Conversation, Generation, GenerationChunk, Message


class Generations:
    """All answers that models gave."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._answers = Answers(database)

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
        start = Start(
            version_id,
            prompt_ids,
            sampling,
            weights_sha256,
            tokenizer_sha256,
            template_sha256,
            propensity,
            arm,
            experiment_id,
        )
        with self._database.write() as session:
            message = require_message(session, message_id, None)
            if message.state != "streaming" or message.generation_id is not None:
                raise InvalidInput(f"Message {message_id} is not waiting for an answer.", param="message_id")
            require_version(session, version_id)
            message.generation_id = new_id("gen")
            insert_generation(session, message.generation_id, message_id, start)
            return message.generation_id

    def append(self, id: str, text: str, token_ids: Sequence[int], logprobs: Sequence[float]) -> bool:
        """Add what was just sampled. Cheap: it does not wait for the disk (see `store.database`).

        Returns:
            False when the generation has ended already (somebody stopped it); nothing is added then.

        Raises:
            NotFound: no such generation.
            InvalidInput: not one log-probability a token.
        """
        if self._answers.save([Piece(id, text, token_ids, logprobs)]):
            raise _not_found(id)
        return self.get(id).finished_at is None

    def text(self, id: str) -> str:
        """The answer so far, or all of it.

        Raises:
            NotFound: no such generation.
        """
        with self._database.read() as session:
            return load(session, ONE, self._message_of(session, id), None)[0].content

    @staticmethod
    def _message_of(session: Session, id: str) -> str:
        message_id = session.scalar(select(Generation.message_id).where(Generation.id == id))
        if message_id is None:
            raise _not_found(id)
        return message_id

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
        if self._answers.save([Piece(id, end=End(finish_reason, ttft_s, tokens_per_s))]):
            raise _not_found(id)
        with self._database.read() as session:
            message_id = self._message_of(session, id)
            _, owner_id = load_owned(session, ONE, message_id, None)[0]
            return load(session, ONE, message_id, owner_id)[0]

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
                    compile_pieces(session, generation.id, message.id, End("interrupted"), "interrupted")
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


def _with_prompt() -> Select[Generation, bytes]:
    return select(Generation, Blob.data).join(Blob, Blob.sha256 == Generation.prompt_sha)


def _not_found(id: str) -> NotFound:
    return NotFound(f"There is no generation {id!r}.", param="generation_id", code="generation_not_found")


def _chunks(session: Session, id: str) -> list[GenerationChunk]:
    statement = select(GenerationChunk).where(GenerationChunk.generation_id == id).order_by(GenerationChunk.seq)
    return list(session.scalars(statement))


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
