"""The reinforcement loop on a tiny model: it learns, it resumes bit for bit, weights reach the sampler, it stops."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tutee.errors import InvalidInput
from tutee.train.checkpoint import latest_checkpoint, read_checkpoint
from tutee.train.grpo import GrpoConfig
from tutee.train.health import Tripped
from tutee.train.progress import Progress
from tutee.train.reinforce import ReinforceConfig, reinforce
from tutee.train.rewards import FunctionReward, RewardFailing, Rewards
from tutee.train.rollout import RolloutConfig

from .tiny_reinforcement import (
    NO_LIMITS,
    ROLLOUT,
    RUN,
    collector_for,
    grpo_learner,
    learner_for,
    six_steps,
)

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.row(32)
@pytest.mark.parametrize("method", ["grpo", "grpo-lora", "ppo", "ppo-lora"])
def test_six_steps_equal_three_a_kill_and_three_bit_for_bit(method: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = six_steps(learner_for(method), tmp_path / "unbroken")
    command = [sys.executable, "-m", "tests.train.tiny_reinforcement", method, str(tmp_path / "killed"), "4"]
    killed = subprocess.run(command, check=False, timeout=600, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert latest_checkpoint(tmp_path / "killed").name == "step-000003"
    steps: list[int] = []
    resumed = six_steps(learner_for(method), tmp_path / "killed", lambda progress: steps.append(progress.step))
    assert steps == [4, 5, 6]
    assert resumed == whole  # every metric of every step, and where the questions are
    ours, theirs = (read_checkpoint(tmp_path / name / "step-000006") for name in ("unbroken", "killed"))
    assert ours[1] == theirs[1]
    assert ours[0].keys() == theirs[0].keys()
    assert all(torch.equal(ours[0][name], theirs[0][name]) for name in ours[0])  # moments and critic too


@pytest.mark.row(34)
@pytest.mark.parametrize("seed", [0, 1])
def test_it_learns_and_the_first_step_is_exactly_on_policy(tmp_path: Path, seed: int) -> None:
    run = ReinforceConfig(steps=24, learning_rate=1e-2, seed=seed)
    learner = grpo_learner(GrpoConfig())
    collector = collector_for(learner.trainer, RolloutConfig(prompts=4, group=8, max_tokens=6, seed=seed))
    history = reinforce(learner, collector, run, tmp_path, limits=NO_LIMITS).history
    assert history[0]["reward"] < 0.4
    assert history[-1]["reward"] > 0.85
    for values in history:  # one update a step: sampler and trainer are the same numbers, so every ratio is 1
        assert values["ratio"] == pytest.approx(1, abs=1e-5)
        assert values["sampler_gap"] < 1e-6
        assert abs(values["loss"]) < 0.2  # about 0 by construction …
        assert values["grad_norm"] > 0.01  # … while the gradient is not
    assert {"entropy", "length", "clip_fraction", "zero_variance_groups", "skipped_steps", "kl"} <= history[0].keys()


@pytest.mark.row(10)
@pytest.mark.row(11)
@pytest.mark.parametrize("method", ["grpo", "grpo-lora"])
def test_the_first_kl_is_exactly_zero(method: str, tmp_path: Path) -> None:
    learner = learner_for(method)
    run = replace(RUN, steps=1, epochs=1, minibatches=1)
    values = reinforce(learner, collector_for(learner.trainer), run, tmp_path, limits=NO_LIMITS).history[0]
    assert (values["kl"], values["kl_k1"], values["kl_k3"], values["kl_to_old"]) == (0.0, 0.0, 0.0, 0.0)
    assert (values["ratio"], values["sampler_gap"]) == (1.0, 0.0)


@pytest.mark.row(30)
@pytest.mark.row(31)
@pytest.mark.parametrize("method", ["grpo", "grpo-lora"])
def test_every_step_samples_from_the_newest_weights(method: str, tmp_path: Path) -> None:
    """The log-probs a step's answers were drawn with are the trainer's of that moment, step after step."""
    learner = learner_for(method)
    collector = collector_for(learner.trainer)
    moved = []
    for step in range(3):
        rollouts = collector.collect(step, 3 * step).rollouts
        assert {rollout.version for rollout in rollouts} == {step}
        scored = learner.trainer.score([rollout.tokens for rollout in rollouts])
        for rollout, logprob_T in zip(rollouts, scored, strict=True):
            own = logprob_T[len(rollout.answer.prompt_ids) - 1 :]
            torch.testing.assert_close(own, torch.tensor(rollout.logprobs), atol=1e-6, rtol=0)
        learner.learn(rollouts, step, 1e-2, RUN)
        after = learner.trainer.score([rollouts[0].tokens])[0]
        moved.append((after - scored[0]).abs().max().item())
    assert min(moved) > 1e-3


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    six_steps(grpo_learner(), tmp_path)
    with pytest.raises(InvalidInput, match="another run"):
        six_steps(grpo_learner(GrpoConfig(kl=0.02)), tmp_path)
    longer = six_steps(grpo_learner(), tmp_path, run=replace(RUN, steps=7))  # but a run may be prolonged
    assert longer.steps == 7


def test_transcripts_show_the_best_and_the_worst(tmp_path: Path) -> None:
    six_steps(grpo_learner(), tmp_path)
    shown = json.loads((tmp_path / "transcripts" / "step-000001.json").read_text())
    rewards = [row["reward"] for row in shown]
    assert len(shown) == 4
    assert rewards == sorted(rewards)
    assert shown[0]["messages"][0]["role"] == "user"


def test_a_broken_reward_pauses_the_run_and_a_repaired_one_goes_on(tmp_path: Path) -> None:
    asked = []

    def breaks(sample, item):  # type: ignore[no-untyped-def]
        asked.append(item)
        if len(asked) > 2 * 12:
            raise RuntimeError("the judge is away")
        return float(len(sample["output_text"]))

    learner = grpo_learner()
    collector = collector_for(learner.trainer, rewards=Rewards([(1.0, FunctionReward(breaks))]))
    with pytest.raises(RewardFailing, match="the judge is away"):
        reinforce(learner, collector, RUN, tmp_path, limits=NO_LIMITS)
    assert latest_checkpoint(tmp_path).name == "step-000002"
    asked.clear()
    learner = grpo_learner()
    repaired = Rewards([(1.0, FunctionReward(lambda sample, item: float(len(sample["output_text"]))))])
    collector = collector_for(learner.trainer, rewards=repaired)
    steps: list[int] = []
    reinforce(learner, collector, RUN, tmp_path, limits=NO_LIMITS, report=lambda p: steps.append(p.step))
    assert steps == [3, 4, 5, 6]


def test_a_few_failures_are_left_out_and_counted(tmp_path: Path) -> None:
    asked = []

    def sometimes(sample, item):  # type: ignore[no-untyped-def]
        asked.append(item)
        if len(asked) in (5, 13):  # the fifth answer, and again when it is asked anew after the others
            raise RuntimeError("busy")
        return float(len(sample["output_text"]))

    learner = grpo_learner()
    collector = collector_for(learner.trainer, rewards=Rewards([(1.0, FunctionReward(sometimes))]))
    collected = collector.collect(0, 0)
    assert len(collected.rollouts) == 11
    assert collected.metrics["reward_failures"] == 2
    assert learner.learn(collected.rollouts, 0, 1e-3, RUN)["grad_norm"] > 0


def test_a_step_without_a_single_reward_pauses_however_many_may_fail() -> None:
    def breaks(sample, item):  # type: ignore[no-untyped-def]
        raise RuntimeError("the judge is away")

    trainer = grpo_learner().trainer
    config = replace(ROLLOUT, most_failed=1.0)
    with pytest.raises(RewardFailing, match="12 of 12 answers got no reward"):
        collector_for(trainer, config, Rewards([(1.0, FunctionReward(breaks))])).collect(0, 0)


@pytest.mark.row(27)
def test_a_tripwire_stops_the_run_and_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    learner = grpo_learner(GrpoConfig(kl=1e-6))
    limits = replace(NO_LIMITS, kl=(0.5, 2.0))
    seen: list[Progress] = []
    with pytest.raises(Tripped, match="nats an answer away"):
        reinforce(
            learner, collector_for(learner.trainer), replace(RUN, steps=40), tmp_path, limits=limits, report=seen.append
        )
    assert seen[-1].step < 40
    assert "nats an answer" in seen[-1].health
    _, state = read_checkpoint(latest_checkpoint(tmp_path))
    assert state["step"] == seen[-1].step - 1


@pytest.mark.row(1)
@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_one_temperature_in_sampler_policy_and_reference(temperature: float) -> None:
    """Log-probs are those of the tempered distribution, so frequencies in 4,000 draws are what they say."""
    from tests.train.tiny_training import tiny_model
    from tutee.train.trainer import Trainer, TrainerConfig

    trainer = Trainer(tiny_model(), TrainerConfig(full=True, temperature=temperature))
    config = RolloutConfig(prompts=1, group=4000, max_tokens=1, temperature=temperature)
    rollouts = collector_for(trainer, config).collect(0, 0).rollouts
    counts: dict[int, int] = {}
    said: dict[int, float] = {}
    for rollout in rollouts:
        token = rollout.answer.token_ids[0]
        counts[token] = counts.get(token, 0) + 1
        said[token] = 2.718281828 ** rollout.logprobs[0]
    likely = sorted(said, key=said.__getitem__)[-60:]
    chi2 = sum((counts[t] - 4000 * said[t]) ** 2 / (4000 * said[t]) for t in likely)
    assert chi2 < 60 + 4 * 120**0.5
    wrong = RolloutConfig(temperature=1.0)
    with pytest.raises(InvalidInput, match="temperature"):
        collector_for(trainer, wrong)


@pytest.mark.row(2)
def test_truncated_sampling_is_no_setting() -> None:
    from tutee.train.options import read_options

    for name in ("top_p", "top_k", "min_p", "repetition_penalty"):
        with pytest.raises(InvalidInput, match="not a setting"):
            read_options(RolloutConfig, {name: 0.9})


def test_prompts_that_leave_no_room_are_passed_over_and_counted() -> None:
    learner = grpo_learner()
    collector = collector_for(learner.trainer, replace(ROLLOUT, max_tokens=250))
    with pytest.raises(InvalidInput) as caught:
        collector.collect(0, 0)
    assert caught.value.code == "context_length_exceeded"


def test_dynamic_sampling_replaces_groups_that_say_nothing() -> None:
    """DAPO: questions with even numbers always earn 1, so fresh ones are drawn until three groups say something."""
    learner = grpo_learner()

    def grade(sample, item):  # type: ignore[no-untyped-def]
        return 1.0 if item["index"] % 2 == 0 else float(len(sample["output_text"]))

    def collect(resample: int):  # type: ignore[no-untyped-def]
        rewards = Rewards([(1.0, FunctionReward(grade))])
        return collector_for(learner.trainer, replace(ROLLOUT, resample=resample), rewards).collect(0, 0)

    plain, resampled = collect(0), collect(5)
    assert sorted({rollout.index for rollout in plain.rollouts}) == [0, 1, 2]
    assert sorted({rollout.index for rollout in resampled.rollouts}) == [1, 3, 5]
    assert resampled.next_question == 6
    assert resampled.metrics["zero_variance_groups"] == 0.5  # of all that were drawn
