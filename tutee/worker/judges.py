"""The models that a job's grader asks, in the worker's own process: versions of this home, and its reward models.

A judge over the job's own base shares its weights, unless training changes all of them; any other model is loaded for
the job. Judges on other servers are not asked from here: a run would hang on somebody else's availability. Knows
engines and versions; nothing of grading.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tutee.conversation import parse_messages
from tutee.engine.engine import Engine
from tutee.engine.grammar import json_grammar
from tutee.engine.request import SamplingParams
from tutee.errors import InvalidInput
from tutee.grade import Failure, ModelAnswer, ModelQuestion, Usage
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.train.reward_model import ABOUT, RewardModel

if TYPE_CHECKING:
    from tutee.improve import Workplace
    from tutee.store.schema import ModelVersion

MOST_TOKENS = 512
"""Of a judge's answer, unless the grader says otherwise."""
CACHE_TOKENS = 16384
MOST_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Judge:
    """A version that can be asked: by its engine, or as a reward model."""

    version: ModelVersion
    model: Pretrained
    engine: Engine | None = None
    reward: RewardModel | None = None


class Judges:
    """A grader's `Ask`. Thread-safe once `load` was called."""

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._open = ExitStack()
        self._judges: dict[str, Judge] = {}
        self._engines: dict[str, tuple[Pretrained, Engine]] = {}
        self._scoring = threading.Lock()

    def close(self) -> None:
        """End every engine."""
        self._open.close()

    def load(self, names: Iterable[str]) -> None:
        """Make the models of these names ready.

        Raises:
            InvalidInput: param `model`; there is no such model, or another server has it.
        """
        for name in sorted(names):
            self._judges[name] = self._load(name)

    def __call__(self, question: ModelQuestion) -> ModelAnswer:
        """Ask. Raises Failure."""
        judge = self._judges[question.model]
        if judge.reward is not None:
            conversation = parse_messages([dict(message) for message in question.messages], "messages")
            with self._scoring:
                judgement = judge.reward.judge([conversation])[0]
            return ModelAnswer("", Usage(), judge.version.name, score=judgement.score)
        assert judge.engine is not None
        messages = parse_messages(question.with_instruction(), "messages")
        ids = judge.model.chat_format.render(messages)
        if len(ids) >= judge.engine.context_length:
            raise Failure("truncated_observation_error", f"The question is too long for '{question.model}'.")
        [[said]] = judge.engine.generate([ids], params_of(question), version=judge.version.id)
        usage = Usage(len(ids), len(said.token_ids))
        return ModelAnswer(said.text, usage, judge.version.name, truncated=said.finish_reason == "length")

    def _load(self, name: str) -> Judge:
        store, home = self._place.store, self._place.home
        version = store.model_aliases.version(name)
        root = version
        while root.kind == "adapter" and root.parent_id is not None:
            root = store.versions.get(root.parent_id)
        if root.kind == "upstream":
            raise InvalidInput(f"'{name}' is on another server; a job's grader asks models of this one.", param="model")
        folder = home / version.folder
        model, engine = self._engine(root)
        if (folder / ABOUT).is_file():
            return Judge(version, model, reward=RewardModel.load(folder, model))
        if version.kind == "adapter":
            engine.add_version(version.id, Lora.load(folder, model.config, model.weights_sha256))
        return Judge(version, model, engine)

    def _engine(self, root: ModelVersion) -> tuple[Pretrained, Engine]:
        place = self._place
        if root.id not in self._engines:
            shared = root.id == place.base.id and not place.job.config.get("settings", {}).get("full", False)
            model = place.model
            if not shared:
                model = load_pretrained(place.home / root.folder, place.settings.dtype, name=root.name)
            engine = Engine(model, max_batch=MOST_AT_ONCE, cache_tokens=CACHE_TOKENS, version=root.id)
            self._open.callback(engine.close)
            self._engines[root.id] = (model, engine)
        return self._engines[root.id]


def params_of(question: ModelQuestion) -> SamplingParams:
    """How the judge's answer is drawn; greedily unless the grader says otherwise, so that a run can be repeated."""
    asked = question.sampling
    grammar = None if question.schema is None else json_grammar(question.schema, strict=False, param="grader")
    return SamplingParams(
        temperature=float(asked.get("temperature", 0.0)),
        top_p=float(asked.get("top_p", 1.0)),
        seed=asked.get("seed", 0),
        max_tokens=int(asked.get("max_tokens", MOST_TOKENS)),
        grammar=grammar,
    )
