"""A version under examination: it can be asked for answers and for its opinion of given ones.

The only module here that touches a model. Knows nothing of what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tutee.conversation import Message
from tutee.engine.engine import Engine
from tutee.engine.request import Completion, SamplingParams
from tutee.errors import InvalidInput
from tutee.model.pretrained import Pretrained

Tick = Callable[[int, int], None]
"""Called with (done, total) while answers come in; what it raises stops the work."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One version on a base model.

    Args:
        model: the base (or the full model that the version is).
        engine: runs that model; `version` names the adapter in it, None is the base.
    """

    model: Pretrained
    engine: Engine
    version: str | None = None

    def answer(
        self, prompts: Sequence[Sequence[Message]], params: SamplingParams, tick: Tick | None = None
    ) -> list[Completion]:
        """One answer to each conversation, in order. With a seed, each draws from a seed of its own."""
        rendered = [self.model.chat_format.render(messages) for messages in prompts]
        each = [params.for_sample(i) for i in range(len(prompts))]
        groups = self.engine.generate(rendered, each, version=self.version, progress=tick)
        return [group[0] for group in groups]

    def score_answers(
        self, prompts: Sequence[Sequence[Message]], answers: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Log-probs of sampled tokens, given their prompts; of this version's own answers those that it reported."""
        rendered = [self.model.chat_format.render(messages) for messages in prompts]
        sequences = [[*prompt, *answer] for prompt, answer in zip(rendered, answers, strict=True)]
        return self.engine.score(sequences, version=self.version, first=[len(prompt) for prompt in rendered])

    def score_texts(self, conversations: Sequence[Sequence[Message]]) -> list[list[float]]:
        """Log-probs of the tokens that the counted assistant turns say, end of turn included."""
        rendered = [self.model.chat_format.render_training(messages) for messages in conversations]
        scored = self.engine.score([ids for ids, _ in rendered], version=self.version)
        return [
            [value for value, counts in zip(row, mask[1:], strict=True) if counts]
            for row, (_, mask) in zip(scored, rendered, strict=True)
        ]

    def fits(self, messages: Sequence[Message]) -> bool:
        """Whether the conversation can be rendered and leaves room in the context."""
        try:
            return len(self.model.chat_format.render(messages)) < self.engine.context_length
        except InvalidInput:
            return False
