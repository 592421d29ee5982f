"""What scores an answer, and how sure it is: one interface over a trained reward model and the small-data head.

`judge(conversations)` gives each conversation, whose last message is the answer, a score in nats (a difference of 1 is
odds of e to 1 that people prefer it) and the standard deviation of that score. Two kinds:
  `RewardModel`: a value head on a network (`reward.py`), saved as a version's folder. Its uncertainty is the last
    layer's Laplace approximation (MacKay 1992; Daxberger et al. 2021, arXiv 2106.14806): with x the hidden state at the
    last token, centred, and Λ = (D + 1) I + Σ_pairs p (1 - p) (x_a - x_b)(x_a - x_b)ᵀ,   sd(x) = √(xᵀ Λ⁻¹ x).
    The prior is the head's own initialisation. An answer unlike all that were compared is scored with a large sd.
  `TasteReward`: the ridge Bayesian Bradley-Terry head on surface features (`preference_head.py`), for tens to hundreds
    of votes; the spread of its bootstrap ensemble says how sure it is.
Knows nothing of how rewards are mixed or used.

Axes: D hidden, P pairs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from tutee.conversation import Message
from tutee.errors import InvalidInput
from tutee.model.layout import Layout
from tutee.model.lora import ADAPTER_CONFIG, Lora
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.model.value_head import ValueHead, hidden_states
from tutee.model.weights import save_safetensors
from tutee.train.batch import Group, pack_groups, split_groups
from tutee.train.checkpoint import write_json
from tutee.train.encode import encode_answer
from tutee.train.features import feature_matrix
from tutee.train.lessons import describe_text
from tutee.train.preference_head import FOLDS, Labels, PreferenceHead, fit_head

ABOUT = "reward_model.json"
EVIDENCE = "reward_evidence.safetensors"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A score in nats and its standard deviation."""

    score: float
    sd: float

    def cautious(self, sds: float = 1.0) -> float:
        """The score less so many standard deviations: what may be optimised against when labels are few."""
        return self.score - sds * self.sd


class Reward(Protocol):
    """Anything that scores answers."""

    def judge(self, conversations: Sequence[Sequence[Message]]) -> list[Judgement]:
        """One judgement a conversation; its last message is the answer.

        Raises:
            InvalidInput: a conversation does not end with an assistant's message, or does not fit the model's context.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What the head was trained on, as far as certainty needs it."""

    mean_D: Tensor
    """Of the hidden states at last tokens."""
    covariance_DD: Tensor
    """Λ⁻¹, float32."""

    def sd(self, hidden_D: Tensor) -> float:
        x_D = hidden_D - self.mean_D
        return math.sqrt(max(0.0, float(x_D @ self.covariance_DD @ x_D)))


class RewardModel:
    """A network with a value head.

    Args:
        model: the base, or with `lora` None the fully trained network itself.
    """

    def __init__(self, model: Pretrained, lora: Lora | None, head: ValueHead, evidence: Evidence | None = None) -> None:
        self.model = model
        self.lora = lora
        self.head = head
        self.evidence = evidence

    def score(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """The score at the last token of each token sequence (prompt and answer with its end token)."""
        return [judgement.score for judgement in self.judge_tokens(sequences)]

    @torch.no_grad()
    def judge_tokens(self, sequences: Sequence[Sequence[int]]) -> list[Judgement]:
        """As `judge`, of tokens. Without evidence the sd is infinite: nothing is known of it."""
        out = [Judgement(0.0, math.inf)] * len(sequences)
        for i, hidden_LD in hidden_states(self.model.decoder, sequences, self.lora):
            last_D = hidden_LD[-1].float().cpu()
            sd = math.inf if self.evidence is None else self.evidence.sd(last_D)
            out[i] = Judgement(float(self.head(hidden_LD[-1:])[0]), sd)
        return out

    def judge(self, conversations: Sequence[Sequence[Message]]) -> list[Judgement]:
        """See `Reward.judge`."""
        return self.judge_tokens([_tokens(self.model, conversation, i) for i, conversation in enumerate(conversations)])

    def save(self, folder: Path, about: dict[str, Any] | None = None) -> None:
        """Add to a version's folder, as `Trainer.save` wrote it, what makes it a reward model that knows its limits.

        Args:
            about: JSON values to keep with it, such as its accuracy.
        """
        if self.evidence is not None:
            tensors = {"mean": self.evidence.mean_D, "covariance": self.evidence.covariance_DD}
            save_safetensors(tensors, folder / EVIDENCE)
        width = self.model.config.hidden_size
        template = self.model.chat_format.sha256
        write_json(folder / ABOUT, {**(about or {}), "kind": "reward_model", "width": width, "template": template})

    @classmethod
    def load(cls, folder: Path, base: Pretrained | None = None) -> RewardModel:
        """The reward model in a version's folder.

        Args:
            base: what its adapter belongs on; a fully trained one needs none, and takes no more of it than its
                precision.

        Raises:
            InvalidInput: no reward model there, no base for an adapter, another base, or another chat template.
        """
        adapter = (folder / ADAPTER_CONFIG).is_file()
        if adapter and base is None:
            raise InvalidInput(
                f"{folder} is an adapter; say which base model it belongs on.", param="model", code="missing_base"
            )
        dtype = "bfloat16" if base is None else str(base.dtype).removeprefix("torch.")
        model = base if adapter and base is not None else load_pretrained(folder, dtype)
        lora = Lora.load(folder, model.config, model.weights_sha256) if adapter else None
        head = ValueHead.load(folder, model.config.hidden_size)
        about = _about(folder)
        if about.get("template") not in (None, model.chat_format.sha256):
            raise InvalidInput(
                f"The reward model in {folder} was trained with another chat template than {model.name} has.",
                param="reward_model",
                code="wrong_template",
            )
        evidence = None
        if (folder / EVIDENCE).is_file():
            tensors = load_file(folder / EVIDENCE)
            evidence = Evidence(tensors["mean"], tensors["covariance"])
        return cls(model, lora, head, evidence)


@torch.no_grad()
def last_states(model: Pretrained, lora: Lora | None, groups: Sequence[Group], token_budget: int = 2048) -> Tensor:
    """Hidden states at the last token of every example, float32 [E, D] on the CPU; a group's common tokens are computed
    once."""
    device = model.decoder.head_weight.device
    found = []
    for part in split_groups(groups, token_budget, share_prompts=True):
        batch = pack_groups(part, share_prompts=True).to(device)
        layout = Layout.packed(batch.lengths, lora, device, batch.parents)
        found.append(model.decoder(batch.tokens_T, batch.positions_T, layout)[batch.last_E].float().cpu())
    return torch.cat(found)


def probe(model: Pretrained, head: ValueHead, groups: Sequence[Group], components: int = 64) -> None:
    """Start the head where the untrained network's own hidden states predict the pairs best (ridge chosen by
    cross-validation): training that begins there distorts what the network knows less than training that begins at
    random (Kumar et al. 2022, arXiv 2202.10054). Ties are left out; with fewer than five pairs nothing is changed.
    """
    states_ED = last_states(model, None, groups).double().numpy()
    batch = pack_groups(groups)
    pairs_P2 = batch.pairs_P2[batch.target_P == 1].numpy()
    if len(pairs_P2) < FOLDS:
        return
    basis_DK = np.linalg.svd(states_ED - states_ED.mean(0), full_matrices=False)[2][:components].T
    projected_EK = states_ED @ basis_DK
    chosen, rejected = projected_EK[pairs_P2[:, 0]], projected_EK[pairs_P2[:, 1]]
    fitted = fit_head(Labels.of_votes(chosen, rejected))
    slope_K = fitted.weights / fitted.std
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(basis_DK @ slope_K))
        head.bias.fill_(-float(fitted.mean @ slope_K))


@torch.no_grad()
def gather_evidence(model: Pretrained, lora: Lora | None, head: ValueHead, groups: Sequence[Group]) -> Evidence:
    """What the ranked groups that the head was trained on say of its certainty: one pass over them."""
    last_ED = last_states(model, lora, groups)
    batch = pack_groups(groups)
    score_P2 = head(last_ED.to(head.weight.device)).cpu()[batch.pairs_P2]
    p_P = (score_P2[:, 0] - score_P2[:, 1]).sigmoid()
    difference_PD = (last_ED[batch.pairs_P2[:, 0]] - last_ED[batch.pairs_P2[:, 1]]).double()
    weight_P = (batch.pair_weight_P * p_P * (1 - p_P)).double()
    width = last_ED.shape[1]
    precision_DD = (width + 1) * torch.eye(width, dtype=torch.float64)
    precision_DD += difference_PD.T @ (weight_P[:, None] * difference_PD)
    return Evidence(last_ED.mean(0), torch.cholesky_inverse(torch.linalg.cholesky(precision_DD)).float())


class TasteReward:
    """The small-data head as a reward: surface features of the text, no network."""

    def __init__(self, head: PreferenceHead) -> None:
        self.head = head

    @classmethod
    def load(cls, path: Path) -> TasteReward:
        """The head in a JSON file (a small-data job's `head.json`).

        Raises:
            InvalidInput: it cannot be read, or it could not tell its votes from chance (code `untrusted_reward`).
        """
        try:
            head = PreferenceHead.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInput(
                f"{path} holds no preference head ({error}).", param="reward_model", code="not_a_reward_model"
            ) from None
        if not head.trusted:
            raise InvalidInput(
                f"Nothing may be optimised against {path}: it cannot tell its votes from chance. {head.sentence()}",
                param="reward_model",
                code="untrusted_reward",
            )
        return cls(head)

    def judge(self, conversations: Sequence[Sequence[Message]]) -> list[Judgement]:
        """See `Reward.judge`."""
        for i, conversation in enumerate(conversations):
            _answer_of(conversation, i)
        features = feature_matrix([describe_text(c[:-1], c[-1].content) for c in conversations])
        scores, spread = self.head.score(features), self.head.ensemble_scores(features)
        return [Judgement(float(s), float(sd)) for s, sd in zip(scores, np.std(spread, axis=1), strict=True)]


def _tokens(model: Pretrained, conversation: Sequence[Message], i: int) -> tuple[int, ...]:
    answer = _answer_of(conversation, i)
    example = encode_answer(model, conversation[:-1], answer)
    if example is None:
        length = model.config.max_position_embeddings
        message = f"Conversation {i + 1} does not fit the reward model's context of {length} tokens."
        raise InvalidInput(message, param=f"conversations[{i}]", code="context_length_exceeded")
    return example.tokens


def _answer_of(conversation: Sequence[Message], i: int) -> Message:
    if len(conversation) < 2 or conversation[-1].role != "assistant":
        message = f"Conversation {i + 1} must be a prompt and, last, the assistant's answer."
        raise InvalidInput(message, param=f"conversations[{i}]", code="invalid_value")
    return conversation[-1]


def _about(folder: Path) -> dict[str, Any]:
    try:
        raw = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}
