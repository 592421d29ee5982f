"""Scores of reward models that are served as judges: one number for a conversation that ends with an answer.

A version is a reward model when its folder holds a value head. It is run beside the engines, one conversation at a
time, with the weights that its base's engine has in memory. Does not know how a reward model is trained, nor what its
score is used for.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tutee.conversation import merge_system_messages, parse_messages
from tutee.errors import InvalidInput
from tutee.model.lora import ADAPTER_CONFIG, Lora
from tutee.model.pretrained import Pretrained
from tutee.model.value_head import FILE, ValueHead, hidden_states
from tutee.serve.live import Live
from tutee.store.schema import ModelVersion


@dataclass(frozen=True, slots=True)
class Loaded:
    """A reward model in memory."""

    model: Pretrained
    lora: Lora | None
    head: ValueHead


class RewardScores:
    """Thread-safe."""

    def __init__(self, live: Live, home: Path) -> None:
        self._live = live
        self._home = home
        self._lock = threading.Lock()
        self._loaded: dict[str, Loaded] = {}

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
        with self._lock, torch.no_grad():
            loaded = self._load(version)
            prompt, answer = loaded.model.chat_format.render_answer(asked[:-1], asked[-1])
            tokens = [*prompt, *answer]
            most = loaded.model.config.max_position_embeddings
            if len(tokens) > most:
                message = f"The conversation has {len(tokens)} tokens; '{version.name}' reads {most}."
                raise InvalidInput(message, param="input", code="context_length_exceeded")
            _, hidden_LD = next(iter(hidden_states(loaded.model.decoder, [tokens], loaded.lora)))
            return float(loaded.head(hidden_LD[-1:])[0]), len(tokens)

    def _load(self, version: ModelVersion) -> Loaded:
        if version.id not in self._loaded:
            model = self._live.serve(self._live.root(version)).model
            folder = self._home / version.folder
            adapter = (folder / ADAPTER_CONFIG).is_file()
            lora = Lora.load(folder, model.config, model.weights_sha256) if adapter else None
            self._loaded[version.id] = Loaded(model, lora, ValueHead.load(folder, model.config.hidden_size))
        return self._loaded[version.id]
