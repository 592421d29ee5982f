"""Scores of reward models that are served as judges: one number for a conversation that ends with an answer.

A version is a reward model when its folder holds a value head. Its engine reads the conversation, in one batch with
whatever else runs there, and the head turns the last hidden state into the score. Does not know how a reward model is
trained, nor what its score is used for.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from tutee.conversation import merge_system_messages, parse_messages
from tutee.engine.readout import LastHidden
from tutee.engine.request import SamplingParams
from tutee.errors import InvalidInput, Unavailable
from tutee.model.value_head import FILE, ValueHead
from tutee.serve.live import Live
from tutee.serve.served import Prompt
from tutee.store.schema import ModelVersion

ONE = SamplingParams(max_tokens=1, temperature=0.0)
"""The engine always draws a token; nobody looks at this one."""


class RewardScores:
    """Thread-safe."""

    def __init__(self, live: Live, home: Path) -> None:
        self._live = live
        self._home = home
        self._lock = threading.Lock()
        self._heads: dict[str, ValueHead] = {}

    def is_one(self, version: ModelVersion) -> bool:
        """Whether the version is a reward model."""
        return version.kind != "upstream" and (self._home / version.folder / FILE).is_file()

    def score(self, version: ModelVersion, messages: Sequence[Mapping[str, str]]) -> tuple[float, int]:
        """(score in nats, tokens read) of a conversation whose last message is the assistant's.

        Raises:
            InvalidInput: it does not end with an answer, or has no room in the context.
        """
        asked = merge_system_messages(parse_messages(list(messages)))
        if len(asked) < 2 or asked[-1].role != "assistant":
            message = (
                f"'{version.name}' is a reward model: its input must end with the assistant's answer to be scored."
            )
            raise InvalidInput(message, param="input", code="invalid_value")
        served = self._live.serve(version)
        prompt, answer = served.model.chat_format.render_answer(asked[:-1], asked[-1])
        tokens, most = [*prompt, *answer], served.engine.context_length
        if len(tokens) >= most:
            message = f"The conversation has {len(tokens)} tokens; '{version.name}' reads fewer than {most}."
            raise InvalidInput(message, param="input", code="context_length_exceeded")
        readout = LastHidden(len(tokens))
        request = served.submit(Prompt(asked, tokens), ONE, readout=readout)
        request.result()
        if request.missing:
            raise Unavailable(f"'{version.name}' could not score it: {request.error or 'the server is going down'}.")
        with torch.no_grad():
            return float(self._head(version, served.model.config.hidden_size)(readout.hidden[None])[0]), len(tokens)

    def _head(self, version: ModelVersion, width: int) -> ValueHead:
        with self._lock:
            if version.id not in self._heads:
                self._heads[version.id] = ValueHead.load(self._home / version.folder, width)
            return self._heads[version.id]
