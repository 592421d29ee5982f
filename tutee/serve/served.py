"""A version that is ready to answer, whoever computes it: our engine, or another server.

What asks by messages (chat, comparisons) works with both. What needs token ids or log-probs says `engine` or `model`,
and gets an error that a person can read where there are none. Does not know how versions are found (`live.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tutee.conversation import Function, Message
from tutee.engine.engine import Engine
from tutee.engine.readout import Readout
from tutee.engine.request import Chunk, Request, SamplingParams
from tutee.engine.upstream import Upstream
from tutee.errors import InvalidInput
from tutee.model.pretrained import Pretrained
from tutee.model.said import WORDS_ALONE, Form
from tutee.model.tool_format import in_turns
from tutee.serve.access.acting import acting
from tutee.store.schema import ModelVersion


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked: the messages, and their token ids where the model is ours; and how to read the answer."""

    messages: Sequence[Message]
    ids: Sequence[int]
    form: Form = WORDS_ALONE


@dataclass(frozen=True, slots=True)
class Served:
    """A version that is ready to answer: `submit(prompt(messages), …)`.

    `engine`, `model` and whatever needs token ids raise InvalidInput (code `upstream_cannot`, param `model`) when
    another server answers for this version.
    """

    version: ModelVersion
    source: Engine | Upstream
    weights: Pretrained | None
    lease: object = None
    """Keeps the engine open for as long as somebody may still ask it."""

    @property
    def upstream(self) -> bool:
        """Whether another server answers: text alone, no token ids, no log-probs."""
        return self.weights is None

    @property
    def engine(self) -> Engine:
        """Our engine that runs it."""
        if isinstance(self.source, Upstream):
            raise self._refusal()
        return self.source

    @property
    def model(self) -> Pretrained:
        """Our copy of it."""
        if self.weights is None:
            raise self._refusal()
        return self.weights

    @property
    def context_length(self) -> int | None:
        """Most tokens of prompt and answer together; None where only the upstream knows."""
        return self.source.context_length

    @property
    def fingerprint(self) -> str:
        """Changes whenever the weights do; of an upstream only the name is known."""
        return self.version.weights_sha256 if self.upstream else self.version.weights_sha256[:12]

    @property
    def tokenizer_sha256(self) -> str:
        """Empty for an upstream."""
        return "" if self.weights is None else self.weights.tokenizer.sha256

    @property
    def template_sha256(self) -> str:
        """Empty for an upstream."""
        return "" if self.weights is None else self.weights.chat_format.sha256

    def prompt(
        self, messages: Sequence[Message], functions: Sequence[Function] = (), effort: str | None = None
    ) -> Prompt:
        """The messages as this version reads them, with the functions that it may call.

        Args:
            effort: how much it should think; only for a chat format that `takes_effort`.
        """
        names = tuple(function.name for function in functions)
        if self.weights is None:
            return Prompt(in_turns(messages, functions), (), Form(functions=names))
        chat = self.weights.chat_format
        ids = chat.render(messages, functions=functions, effort=effort)
        return Prompt(messages, ids, Form(chat.thinks, chat.ends_thinking(ids), names, chat.dialect))

    def submit(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        priority: int = 0,
        owner: str | None = None,
        on_chunk: Callable[[Chunk], None] | None = None,
        readout: Readout | None = None,
    ) -> Request:
        """`Engine.submit` or `Upstream.submit`, whichever answers; a `readout` needs a model of ours.

        Whoever this is done for (`acting`) may lower the priority, and is charged the tokens.
        """
        name = self.version.id
        work = acting.get()
        priority = max(priority, work.priority)
        on_chunk = work.metered(len(prompt.ids), on_chunk)
        if readout is not None:
            return self.engine.submit(
                prompt.ids, params, version=name, priority=priority, owner=owner, on_chunk=on_chunk, readout=readout
            )
        if isinstance(self.source, Upstream):
            return self.source.submit(
                prompt.messages, params, version=name, priority=priority, owner=owner, on_chunk=on_chunk
            )
        return self.source.submit(prompt.ids, params, version=name, priority=priority, owner=owner, on_chunk=on_chunk)

    def _refusal(self) -> InvalidInput:
        message = f"Another server runs '{self.version.name}': there are no token ids and no log-probs of it here."
        return InvalidInput(message, param="model", code="upstream_cannot")
