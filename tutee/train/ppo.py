"""PPO with a critic, as ChatGPT was made: a score at the end of an answer, a KL price on every token of it.

Schulman et al. 2017 (arXiv 1707.06347); for language models Ziegler et al. 2019 (1909.08593), Ouyang et al. 2022
(2203.02155), and the details that decide whether it works: Huang et al. 2024 (2403.17031). For an answer of score R:

    r_t = -β (log π_old(y_t) - log π_ref(y_t)) + [t is the last token] R            reward of a token
    A_t = Σ_{k≥t} (γλ)^{k-t} (r_k + γ V_{k+1} - V_k)                                advantage (`advantages.gae`)
    G_t = A_t + V_t                                                                 return, with A before whitening
    L_π = the clipped policy loss (`policy_loss.py`) of A, whitened over the step
    L_V = 1/2 Σ max((V_t - G_t)², (clip(V_t, V_old ± ε) - G_t)²) / tokens           critic, its own rate
    L   = L_π - γ_ptx Σ log π(pretraining or demonstrations) / tokens               PPO-ptx

The score stands on the last token that was sampled, its end token if it has one, so the rewards of an answer sum to
R - β KL exactly. V after the last token is 0: what an answer that was cut off is worth is the score's business
(`end_penalty`), and a forecast in its place would pay for length; `bootstrap_cut` puts V there all the same. β may be
moved so that the KL meets a target (Ziegler et al. 2019, section 2.2). Whitening is over all tokens of a step.

The critic is a value head with a LoRA of its own over the policy's base (or with all weights of its own), begun as the
reward model or fresh with a forecast of 0.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutee.model.value_head import ValueHead
from tutee.train.advantages import gae, whiten
from tutee.train.batch import Batch, Group, Totals, pack_groups
from tutee.train.metrics import Metrics
from tutee.train.options import require
from tutee.train.policy_loss import PolicyLossConfig, policy_loss
from tutee.train.reinforce import ReinforceConfig, update
from tutee.train.reward_model import RewardModel
from tutee.train.rollout import Reference, Rollout, answer_lengths, grouped, looked_at, sequence_kl, together
from tutee.train.trainer import Trainer, TrainerConfig

CRITIC = "critic."


@dataclass(frozen=True, slots=True)
class PpoConfig(PolicyLossConfig):
    """The policy loss (its own KL term stays 0 as a rule), and PPO's own settings."""

    clip_high: float = 0.2
    """A token may become likelier by this share before its gradient ends."""
    gamma: float = 1.0
    """Discount of later rewards; 1 in answers that end soon."""
    lam: float = 0.95
    """λ of GAE: 1 trusts rewards, 0 trusts the critic."""
    kl_price: float = 0.05
    """β of the KL in the reward."""
    kl_target: float | None = None
    """Nats an answer that β is moved towards; None: β stays."""
    kl_horizon: int = 1000
    """Answers over which β may grow or shrink by a fifth."""
    value_clip: float | None = 0.2
    """ε of the critic's loss; None: plain squared error."""
    critic_learning_rate: float | None = None
    """None: the policy's."""
    critic_warmup: int = 0
    """First steps in which only the critic learns."""
    whiten: bool = True
    """Scale a step's advantages to mean 0 and variance 1."""
    bootstrap_cut: bool = False
    """An answer that was cut off is worth the critic's forecast after it, not 0."""
    ptx: float = 0.0
    """γ_ptx."""
    ptx_rows: int = 8
    """Rows of pretraining data or demonstrations a step."""

    def __post_init__(self) -> None:
        PolicyLossConfig.__post_init__(self)
        require(0 <= self.gamma <= 1, "gamma", "'gamma' must be in [0, 1].")
        require(0 <= self.lam <= 1, "lam", "'lam' must be in [0, 1].")
        require(self.kl_price >= 0, "kl_price", "'kl_price' must not be negative.")
        require(self.kl_target is None or self.kl_target > 0, "kl_target", "'kl_target' must be above 0.")
        require(self.kl_target is None or self.kl_price > 0, "kl_price", "'kl_target' moves a 'kl_price' above 0.")
        require(self.kl_horizon >= 1, "kl_horizon", "'kl_horizon' must be at least 1.")
        require(self.value_clip is None or self.value_clip > 0, "value_clip", "'value_clip' must be above 0.")
        rate = self.critic_learning_rate
        require(rate is None or rate > 0, "critic_learning_rate", "'critic_learning_rate' must be above 0.")
        require(self.critic_warmup >= 0, "critic_warmup", "'critic_warmup' must not be negative.")
        require(self.ptx >= 0, "ptx", "'ptx' must not be negative.")
        require(self.ptx_rows >= 1, "ptx_rows", "'ptx_rows' must be at least 1.")


def ppo_loss(
    logprob_N: Tensor, batch: Batch, totals: Totals, *, config: PpoConfig, unmoved: bool = False
) -> tuple[Tensor, Metrics]:
    """The policy's part: the clipped loss over rollouts (`unmoved` as there), and PPO-ptx over examples to imitate."""
    loss, metrics = policy_loss(logprob_N, batch, totals, config, unmoved=unmoved)
    if config.ptx and totals.imitated_tokens > 0:
        imitated_N = torch.isin(batch.example_N, batch.singles_S)
        weight_N = batch.mask_N * batch.weight_E[batch.example_N] * imitated_N
        nll = -(weight_N * logprob_N).sum()
        loss = loss + config.ptx * nll / totals.imitated_tokens
        metrics += Metrics.ratio("ptx_loss", nll.detach(), weight_N.sum())
    return loss, metrics


def value_loss(value_T: Tensor, batch: Batch, totals: Totals, *, clip: float | None) -> tuple[Tensor, Metrics]:
    """The critic's part: half the squared error against the returns, a token.

    Args:
        value_T: the critic's head on every row. `batch.value_N` is what it said when the answers were drawn.
        clip: how far it may move from that before a token's gradient is cut off; None: as far as it likes.
    """
    rollout_N = ~torch.isnan(batch.return_N)
    weight_N = batch.mask_N * batch.weight_E[batch.example_N] * rollout_N
    value_N, return_N = value_T[batch.sources_N], batch.return_N.nan_to_num()
    error_N = (value_N - return_N) ** 2
    if clip is not None:
        old_N = batch.value_N.nan_to_num()
        near_N = old_N + (value_N - old_N).clamp(-clip, clip)
        error_N = torch.maximum(error_N, (near_N - return_N) ** 2)
    total = (weight_N * error_N).sum() / 2
    return total / totals.rollout_tokens, Metrics.ratio("value_loss", total.detach(), weight_N.sum())


def token_rewards(rollout: Rollout, reference_T: Tensor, beta: float) -> Tensor:
    """r_t of one answer [T]: the price of KL on every token, the score on the last one."""
    reward_T = -beta * (torch.tensor(rollout.logprobs) - reference_T)
    reward_T[-1] += rollout.reward
    return reward_T


def make_groups(
    rollouts: Sequence[Rollout],
    values: Sequence[Tensor],
    after: Sequence[float],
    reference: Sequence[Tensor],
    config: PpoConfig,
    beta: float,
) -> list[Group]:
    """One group a prompt, its answers with advantages, values and returns.

    Args:
        values: the critic's forecast before each token of each answer [T]. after: the one after the last token.
        reference: log-probs of the answers' tokens under the reference.
        beta: the price of KL now.
    """
    raw, returns = [], []
    for rollout, value_T, last, reference_T in zip(rollouts, values, after, reference, strict=True):
        bootstrap = last if config.bootstrap_cut and not rollout.answer.finished else 0.0
        reward_T = token_rewards(rollout, reference_T, beta)
        raw.append(gae(reward_T, value_T, config.gamma, config.lam, bootstrap))
        returns.append(raw[-1] + value_T)
    learned = torch.split(whiten(torch.cat(raw)), [len(a) for a in raw]) if config.whiten else raw
    streams = zip(rollouts, reference, learned, values, returns, strict=True)
    examples = [
        rollout.example(reference_logprobs=ref_T, advantages=a_T, values=v_T, returns=g_T)
        for rollout, ref_T, a_T, v_T, g_T in streams
    ]
    return grouped(rollouts, examples)


@dataclass(slots=True)
class KlPrice:
    """β, and the rule that moves it: β ← β (1 + clip(KL / target - 1, ±0.2) n / horizon)."""

    beta: float
    target: float | None = None
    horizon: int = 1000

    def observe(self, kl: float, answers: int) -> None:
        """The KL of `answers` answers, nats an answer, was seen."""
        if self.target is not None:
            error = max(-0.2, min(0.2, kl / self.target - 1))
            self.beta *= 1 + error * min(1.0, answers / self.horizon)


def make_critic(policy: Trainer, config: TrainerConfig, judge: RewardModel | None = None) -> Trainer:
    """A critic for a policy: over its base, which then is in memory once, or of its own where one of them moves it.

    Args:
        judge: a reward model, an adapter on that base or a network of its own as `config.full` says, of which a copy
            is trained; None: a fresh critic that forecasts 0.
    """
    model = policy.model
    if policy.lora is None or config.full:
        decoder = policy.answering().decoder if judge is None or judge.lora is not None else judge.model.decoder
        model = replace(model, decoder=copy.deepcopy(decoder).requires_grad_(False))
    if judge is not None:
        return Trainer(model, config, judge.lora, copy.deepcopy(judge.head))
    head = ValueHead(model.config.hidden_size)
    with torch.no_grad():
        head.weight.zero_()
    return Trainer(model, config, head=head)


def forecasts(critic: Trainer, rollouts: Sequence[Rollout], token_budget: int) -> tuple[list[Tensor], list[float]]:
    """(V before each token of each answer [T], V after its last token), without a gradient."""
    heads: list[Tensor] = []

    def keep(value_T: Tensor, batch: Batch, totals: Totals) -> tuple[Tensor, Metrics]:
        heads.append(value_T)
        return value_T.sum(), Metrics()

    def look(batch: Batch) -> Sequence[Tensor]:
        critic.forward(batch, keep, Totals(1.0, 1.0))
        answers = torch.split(batch.sources_N, answer_lengths(batch))
        lasts = torch.split(batch.last_E, 1)
        rows = [torch.cat((sources_T, last)) for sources_T, last in zip(answers, lasts, strict=True)]
        value_T = heads.pop()
        return torch.split(value_T[torch.cat(rows).to(value_T.device)], [len(places) for places in rows])

    seen = looked_at(rollouts, token_budget, look)
    return [values[:-1] for values in seen], [float(values[-1]) for values in seen]


class Ppo:
    """PPO at work on a policy and its critic: a `reinforce.Learner`.

    Args:
        reference: what KL is measured to, usually the policy that the run starts from.
        ptx: rows to imitate, from which `config.ptx_rows` are drawn each step.
    """

    def __init__(
        self, trainer: Trainer, critic: Trainer, config: PpoConfig, reference: Reference, ptx: Sequence[Group] = ()
    ) -> None:
        require(critic.head is not None, "critic", "A critic needs a value head.")
        require(config.ptx == 0 or len(ptx) > 0, "ptx", "PPO-ptx needs rows to imitate.")
        self.trainer = trainer
        self.critic = critic
        self._config = config
        self._reference = reference
        self._ptx = ptx
        self._price = KlPrice(config.kl_price, config.kl_target, config.kl_horizon)

    def learn(
        self, rollouts: Sequence[Rollout], step: int, learning_rate: float, config: ReinforceConfig
    ) -> dict[str, float]:
        """Forecast, price, estimate advantages; then policy and critic learn from the same tokens."""
        own, rollouts = self._config, together(rollouts)
        reference = self._reference.score(rollouts)
        rate = learning_rate * (own.critic_learning_rate or config.learning_rate) / config.learning_rate
        learned: dict[str, float] | None = None
        if config.updates == 1 and not own.bootstrap_cut:
            values, learned = self._forecast_and_learn(rollouts, reference, step, rate, config)
            after = [0.0] * len(rollouts)
        else:
            values, after = forecasts(self.critic, rollouts, config.token_budget)
        groups = make_groups(rollouts, values, after, reference, own, self._price.beta)
        report = self._describe(groups, rollouts, reference)
        if step >= own.critic_warmup:

            def policy(logprob_N: Tensor, batch: Batch, totals: Totals) -> tuple[Tensor, Metrics]:
                return ppo_loss(logprob_N, batch, totals, config=own, unmoved=config.updates == 1)

            mixed = [*groups, *self._ptx_rows(step, config.seed)]
            report |= update(self.trainer, mixed, policy, step, learning_rate, config)
            self._price.observe(report["kl"], len(rollouts))

        if learned is None:

            def critic(value_T: Tensor, batch: Batch, totals: Totals) -> tuple[Tensor, Metrics]:
                return value_loss(value_T, batch, totals, clip=own.value_clip)

            learned = update(self.critic, groups, critic, step, rate, config)
        return report | {"value_loss": learned["value_loss"], "critic_grad_norm": learned["grad_norm"]}

    def _forecast_and_learn(
        self,
        rollouts: Sequence[Rollout],
        reference: Sequence[Tensor],
        step: int,
        rate: float,
        config: ReinforceConfig,
    ) -> tuple[list[Tensor], dict[str, float]]:
        """The critic's only update of a step in the pass that makes its forecasts: one forward pass fewer.

        An answer's returns need nothing but its own forecasts, so they are known before the backward pass begins.
        """
        own = self._config
        seen: list[Tensor] = []

        def loss(value_T: Tensor, batch: Batch, totals: Totals) -> tuple[Tensor, Metrics]:
            value_N = value_T.detach()[batch.sources_N]
            seen.append(value_N)
            raw_N = gae(batch.advantage_N, value_N, own.gamma, own.lam, answer_N=batch.example_N)
            known = replace(batch, value_N=value_N, return_N=raw_N + value_N)
            return value_loss(value_T, known, totals, clip=own.value_clip)

        priced = zip(rollouts, reference, strict=True)
        rewards = [token_rewards(rollout, ref_T, self._price.beta) for rollout, ref_T in priced]
        # What a token earned stands where its advantage will be.
        earned = [rollout.example(advantages=r_T) for rollout, r_T in zip(rollouts, rewards, strict=True)]
        groups = grouped(rollouts, earned)
        learned = update(self.critic, groups, loss, step, rate, config)
        mine = self.critic.ranks.share(groups)
        lengths = [example.counted for group in mine for example in group.examples]
        # A rank may have looked at more than its share, to keep the others company; that came last.
        values = iter(torch.split(torch.cat(seen).cpu()[: sum(lengths)], lengths))
        shares = self.critic.ranks.gather([[next(values) for _ in group.examples] for group in mine])
        return [value_T for share in shares for value_T in share], learned

    def _describe(
        self, groups: Sequence[Group], rollouts: Sequence[Rollout], reference: Sequence[Tensor]
    ) -> dict[str, float]:
        batch = pack_groups(groups)
        spread = batch.return_N.var(correction=0)  # of one token alone too
        explained = 1 - float((batch.return_N - batch.value_N).var(correction=0) / spread) if spread > 0 else 0.0
        kl = sequence_kl(rollouts, reference)
        return {"explained_variance": explained, "kl": kl, "kl_price": self._price.beta}

    def _ptx_rows(self, step: int, seed: int) -> list[Group]:
        if not self._config.ptx:
            return []
        dice = np.random.default_rng([seed, step, 1])
        chosen = dice.choice(len(self._ptx), min(self._config.ptx_rows, len(self._ptx)), replace=False)
        return [self._ptx[i] for i in chosen]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The critic, its moments, and β."""
        tensors, counters = self.critic.state()
        return {f"{CRITIC}{name}": tensor for name, tensor in tensors.items()}, {
            "critic": counters,
            "beta": self._price.beta,
        }

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take up where `state()` was taken."""
        own = {name.removeprefix(CRITIC): tensor for name, tensor in tensors.items() if name.startswith(CRITIC)}
        self.critic.load(own, state["critic"])
        self._price.beta = state["beta"]

    def settings(self) -> dict[str, Any]:
        """The losses, the critic, and how many rows are mixed in."""
        return {
            "method": "ppo",
            **asdict(self._config),
            "critic": asdict(self.critic.config),
            "ptx_available": len(self._ptx),
        }
