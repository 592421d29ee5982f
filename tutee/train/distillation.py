"""On-policy distillation: a student answers, a larger teacher says how likely each of its tokens was.

The reverse KL on the student's own samples (Agarwal et al. 2024, GKD, arXiv 2306.13649; Gu et al. 2024, MiniLLM,
2306.08543; Lu 2025, "On-policy distillation"), minimised as a policy gradient with the teacher as a dense reward:

    r_t = log π_teacher(y_t | y_<t, x) - log π_old(y_t | y_<t, x)
    A_t = Σ_{k≥t} discount^{k-t} r_k

and the policy loss of `policy_loss.py`. With discount 1 this is the exact gradient of -KL(π ‖ π_teacher) over whole
answers; with discount 0 (the default) every token answers for itself alone, which has far less variance and the same
optimum, for a student that can match the teacher's next-token distributions everywhere. The teacher must share the
student's tokenizer: tokens are compared id by id. (Off-policy distillation, from the teacher's own answers or its
soft targets, is supervised training: see SFT.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tutee.errors import InvalidInput
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained
from tutee.train.advantages import gae
from tutee.train.batch import Batch, Group, Totals
from tutee.train.metrics import Metrics
from tutee.train.options import require
from tutee.train.policy_loss import PolicyLossConfig, policy_loss
from tutee.train.reinforce import ReinforceConfig, update
from tutee.train.rollout import Rollout, answer_logprobs, grouped, sequence_kl
from tutee.train.trainer import Trainer


@dataclass(frozen=True, slots=True)
class DistillationConfig(PolicyLossConfig):
    """The policy loss, and how far ahead a token looks."""

    discount: float = 0.0
    """How far a token answers for those after it: 0 for itself alone, 1 for all of them."""
    most_nats: float = 5.0
    """A token's reward is cut to ± this, so that one absurd token does not decide a step."""

    def __post_init__(self) -> None:
        PolicyLossConfig.__post_init__(self)
        require(0 <= self.discount <= 1, "discount", "'discount' must be in [0, 1].")
        require(self.most_nats > 0, "most_nats", "'most_nats' must be above 0.")


def teacher_advantages(logprob_T: Tensor, teacher_T: Tensor, config: DistillationConfig) -> Tensor:
    """A_t of one answer [T] from its log-probs under the student that drew it and under the teacher."""
    reward_T = (teacher_T - logprob_T).clamp(-config.most_nats, config.most_nats)
    return gae(reward_T, torch.zeros_like(reward_T), gamma=config.discount, lam=1.0)


def make_groups(rollouts: Sequence[Rollout], teacher: Sequence[Tensor], config: DistillationConfig) -> list[Group]:
    """One group a prompt; the teacher's log-probs stand as the reference."""
    examples = []
    for rollout, teacher_T in zip(rollouts, teacher, strict=True):
        advantage_T = teacher_advantages(torch.tensor(rollout.logprobs), teacher_T, config)
        examples.append(rollout.example(advantages=advantage_T, reference_logprobs=teacher_T))
    return grouped(rollouts, examples)


def require_same_tokenizer(teacher: Pretrained, student: Pretrained) -> None:
    """Refuse a teacher that knows nothing of the student's tokens (`wrong_tokenizer`)."""
    if teacher.tokenizer.sha256 != student.tokenizer.sha256:
        raise InvalidInput(
            f"The teacher {teacher.name} has another tokenizer than {student.name}, so it knows nothing of its tokens. "
            "Train on the teacher's answers with sft instead.",
            param="settings.teacher",
            code="wrong_tokenizer",
        )


class Teacher:
    """A model that is asked how likely answers are. Raises like `require_same_tokenizer`."""

    def __init__(self, model: Pretrained, student: Pretrained, lora: Lora | None = None) -> None:
        require_same_tokenizer(model, student)
        self.weights_sha256 = model.weights_sha256
        self._model = model
        self._student = student
        self._lora = lora

    def score(self, rollouts: Sequence[Rollout]) -> list[Tensor]:
        """Log-probs of each answer's tokens [T] after the prompt as the teacher's own template renders it."""
        if self._model.chat_format.sha256 != self._student.chat_format.sha256:
            rollouts = [self._asked_anew(rollout) for rollout in rollouts]
        return answer_logprobs(self._model.decoder, self._lora, rollouts)

    def _asked_anew(self, rollout: Rollout) -> Rollout:
        prompt_ids = tuple(self._model.chat_format.render(rollout.answer.question.messages))
        return replace(rollout, answer=replace(rollout.answer, prompt_ids=prompt_ids))


class Distillation:
    """On-policy distillation at work: a `reinforce.Learner`. Rewards are only watched."""

    def __init__(self, trainer: Trainer, teacher: Teacher, config: DistillationConfig) -> None:
        require(
            trainer.config.temperature == 1.0, "temperature", "The teacher is compared at temperature 1: sample there."
        )
        self.trainer = trainer
        self._teacher = teacher
        self._config = config

    def learn(
        self, rollouts: Sequence[Rollout], step: int, learning_rate: float, config: ReinforceConfig
    ) -> dict[str, float]:
        """Ask the teacher, then the clipped updates. `teacher_kl` is KL(student ‖ teacher), nats an answer."""
        teacher = self._teacher.score(rollouts)
        groups = make_groups(rollouts, teacher, self._config)

        def loss(logprob_N: Tensor, batch: Batch, totals: Totals) -> tuple[Tensor, Metrics]:
            return policy_loss(logprob_N, batch, totals, self._config, unmoved=config.updates == 1)

        values = update(self.trainer, groups, loss, step, learning_rate, config)
        return values | {"teacher_kl": sequence_kl(rollouts, teacher)}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Nothing beyond the policy."""
        return {}, {}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Nothing to load."""

    def settings(self) -> dict[str, Any]:
        """The loss, and who the teacher is."""
        return {"method": "distillation", **asdict(self._config), "teacher": self._teacher.weights_sha256}
