"""What graders may use on this server: the models that are served, and people's Python in its sandbox.

A grader's question goes through the same route as everybody's chat completions, so aliases, projects, limits and
structured answers are what they are there. Does not know what is graded, nor why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from tutee.errors import InvalidInput
from tutee.grade import ModelAnswer, ModelQuestion, RunPython, Tools, Usage
from tutee.serve.access.acting import Acting, acting
from tutee.serve.access.auth import Caller
from tutee.serve.graders.reward_scores import RewardScores
from tutee.serve.live import Live
from tutee.serve.own_requests import OwnRequests

CHAT = "/v1/chat/completions"
ANSWER_S = 300.0
"""How long a judging model may take for one answer."""
ANSWER_TOKENS = 512
"""Most tokens of a judge's answer when its grader does not say."""


@dataclass(frozen=True, slots=True)
class Judges:
    """What graders may use on this server."""

    own_requests: OwnRequests
    run_python: RunPython | None
    live: Live
    rewards: RewardScores

    def tools(self, caller: Caller) -> Tools:
        """The tools of graders that work for somebody."""
        return Tools(partial(self._ask, caller), self.run_python)

    def _ask(self, caller: Caller, question: ModelQuestion) -> ModelAnswer:
        charge = None if caller.account is None else caller.account.charge
        acting.set(Acting(caller.project_id, caller.priority, charge))
        version = self.live.find(question.model)
        if self.rewards.is_one(version):
            score, tokens = self.rewards.score(version, question.messages)
            return ModelAnswer("", Usage(tokens), version.name, score=score)
        body: dict[str, Any] = {
            "model": question.model,
            "messages": question.with_instruction(),
            "max_completion_tokens": ANSWER_TOKENS,
            **{_field(name): value for name, value in question.sampling.items()},
        }
        if question.schema is not None:
            schema = {"name": "grade", "schema": dict(question.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        try:
            return _read_answer(self.own_requests.post(CHAT, body, caller, ANSWER_S))
        except InvalidInput as error:
            if not (error.param or "").startswith("response_format"):
                raise
        # whoever runs this model cannot hold it to a form; it was told in words too
        body.pop("response_format")
        return _read_answer(self.own_requests.post(CHAT, body, caller, ANSWER_S))


def _field(name: str) -> str:
    return "max_completion_tokens" if name == "max_tokens" else name


def _read_answer(completion: Mapping[str, Any]) -> ModelAnswer:
    choice, usage = completion["choices"][0], completion["usage"]
    details = usage.get("completion_tokens_details") or {}
    counted = Usage(
        usage["prompt_tokens"],
        usage["completion_tokens"],
        (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        details.get("reasoning_tokens", 0),
    )
    message = choice["message"]
    return ModelAnswer(
        message.get("content") or "",
        counted,
        completion["model"],
        refusal=message.get("refusal"),
        truncated=choice["finish_reason"] == "length",
    )
