"""Conversations, ratings and comparisons of a ChatGPT export as rows of one person.

Every row gets an id made from the one that it has in the export, so bringing the same export in again adds nothing and
a newer one adds what is new. Answers that were compared get a generation of a version that stands for OpenAI's model:
archived, without weights, token ids or log-probs. Whether any of it may be learned from is the person's consent, as
with everything that they said here. Does not know files.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from tutee.data.openai_export.authors import author
from tutee.data.openai_export.chats import BadRow, Chat, Comparison, Rating, Turn
from tutee.data.openai_export.report import Report, id_here
from tutee.ids import new_id
from tutee.store import Store, blobs
from tutee.store.schema import (
    Conversation,
    Feedback,
    Generation,
    Message,
    Presentation,
    PresentationItem,
    now,
)

CLIENT = "chatgpt-export"
UNKNOWN_MODEL = "chatgpt"


class ChatRows:
    """Writes into the store what `chats.py` read, each conversation and each judgement in a transaction of its own."""

    def __init__(self, store: Store, actor_id: str, report: Report) -> None:
        self._database = store.database
        self._actor_id = actor_id
        self._report = report
        self._models: dict[str, str] = {}
        """Message here → what wrote it, for this export's answers."""

    def add(self, chat: Chat) -> None:
        """A conversation; of one that is here already, the turns that are new."""
        self._report.skipped += chat.skipped
        if not chat.turns:
            self._report.skipped["empty conversations"] += 1
            return
        id = self._id("conv", chat.id)
        self._models |= {self._id("msg", turn.id): turn.model for turn in chat.turns if turn.model}
        with self._database.write() as session:
            row = session.get(Conversation, id)
            if row is None:
                row = Conversation(id=id, actor_id=self._actor_id, title=chat.title, created_at=chat.created or now())
                row.system_sha = None if chat.system is None else blobs.put_text(session, chat.system)
                session.add(row)
                self._count("conversations", new=True)
            else:
                self._count("conversations", new=False)
            row.updated_at = chat.updated or now()
            session.flush()
            self._turns(session, row, chat.turns)
            if chat.head is not None:
                row.head_message_id = self._id("msg", chat.head)

    def _turns(self, session: Session, conversation: Conversation, turns: Sequence[Turn]) -> None:
        counted = select(Message.parent_id, func.count()).where(Message.conversation_id == conversation.id)
        siblings = {row[0]: int(row[1]) for row in session.execute(counted.group_by(Message.parent_id))}
        here = set(session.scalars(select(Message.id).where(Message.conversation_id == conversation.id)))
        for turn in turns:
            id = self._id("msg", turn.id)
            self._count("messages", new=id not in here)
            if id in here:
                continue
            parent = None if turn.parent is None else self._id("msg", turn.parent)
            session.add(
                Message(
                    id=id,
                    conversation_id=conversation.id,
                    parent_id=parent,
                    role=turn.role,
                    blob_sha=blobs.put_text(session, turn.text),
                    state="complete",
                    sibling_index=siblings.get(parent, 0),
                    author_actor_id=self._actor_id if turn.role == "user" else None,
                    created_at=turn.created,
                )
            )
            session.flush()  # the parent before the child
            siblings[parent] = siblings.get(parent, 0) + 1

    def rate(self, rating: Rating) -> None:
        """A thumb. Raises BadRow: the answer is not among the conversations."""
        with self._database.write() as session:
            message = self._answer(session, [rating.message])
            feedback = self._feedback(rating, "thumb", message.id, {"value": rating.value})
            feedback.message_id, feedback.conversation_id = message.id, message.conversation_id
            feedback.reasons = list(rating.reasons)
            self._keep(session, feedback)

    def compare(self, comparison: Comparison) -> None:
        """A choice. Raises BadRow: an answer is not among the conversations, or both are the same one."""
        with self._database.write() as session:
            answers = [self._answer(session, ids) for ids in (comparison.a, comparison.b)]
            if answers[0].id == answers[1].id:
                raise BadRow("compares an answer with itself.")
            shown = id_here("pres", self._actor_id, comparison.id)
            feedback = self._feedback(comparison, "compare", shown, {"winner": comparison.winner})
            feedback.presentation_id, feedback.conversation_id = shown, answers[0].conversation_id
            if session.get(Feedback, feedback.id) is None:
                session.add(
                    Presentation(
                        id=shown,
                        actor_id=self._actor_id,
                        layout="side_by_side",
                        blind=False,
                        selection_policy=CLIENT,
                        selection_prob=1.0,
                        order_seed=0,
                        created_at=feedback.created_at,
                    )
                )
                ids = [self._generation(session, answer) for answer in answers]
                session.flush()
                session.add_all(
                    PresentationItem(presentation_id=shown, position=i, generation_id=id) for i, id in enumerate(ids)
                )
            self._keep(session, feedback)

    def _answer(self, session: Session, theirs: Sequence[str]) -> Message:
        """The first of these messages that is an answer here; the last part of an answer with tools is its text."""
        for id in reversed(theirs):
            message = session.get(Message, self._id("msg", id))
            if message is not None and message.role == "assistant":
                return message
        raise BadRow(f"the answer {theirs[0]} is not among the conversations.")

    def _feedback(self, said: Rating | Comparison, kind: str, target: str, payload: dict[str, object]) -> Feedback:
        return Feedback(
            id=id_here("fb", self._actor_id, said.id),
            kind=kind,
            actor_id=self._actor_id,
            target_id=target,
            payload=payload,
            reasons=[],
            comment=said.comment,
            client=CLIENT,
            created_at=said.created or now(),
        )

    def _keep(self, session: Session, feedback: Feedback) -> None:
        new = session.get(Feedback, feedback.id) is None
        self._count("feedback", new=new)
        if new:
            session.add(feedback)

    def _generation(self, session: Session, answer: Message) -> str:
        """The generation behind an answer: known by its text and its model's name, and by nothing else."""
        if answer.generation_id is not None:
            return answer.generation_id
        version = author(session, self._models.get(answer.id, UNKNOWN_MODEL))
        generation = Generation(
            id=new_id("gen"),
            message_id=answer.id,
            version_id=version.id,
            weights_sha256=version.weights_sha256,
            tokenizer_sha256="",
            template_sha256="",
            prompt_sha=blobs.put(session, b""),
            sampling={},
            propensity=1.0,
            token_ids=b"",
            logprobs=b"",
            n_tokens=0,
            finish_reason="stop",
            created_at=answer.created_at,
            finished_at=answer.created_at,
        )
        session.add(generation)
        session.flush()
        answer.generation_id = generation.id
        return generation.id

    def _id(self, prefix: str, theirs: str) -> str:
        return id_here(prefix, self._actor_id, f"{prefix} {theirs}")

    def _count(self, what: str, *, new: bool) -> None:
        (self._report.added if new else self._report.known)[what] += 1
