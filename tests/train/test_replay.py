from dataclasses import replace

from tutee.evaluate.probes import capability_items
from tutee.model.pretrained import Pretrained
from tutee.train.candidates import Candidate
from tutee.train.replay import replay_groups, replay_prompts


def test_prompts_come_from_the_seed_and_do_not_repeat() -> None:
    first = [message.content for (message,) in replay_prompts(36, seed=0)]
    assert first == [message.content for (message,) in replay_prompts(36, seed=0)]
    assert first != [message.content for (message,) in replay_prompts(36, seed=1)]
    assert len(set(first)) == 36
    assert not any(mark in text for text in first for mark in "{}|")
    assert len(replay_prompts(100, seed=2)) == 100


def test_the_examination_asks_other_questions() -> None:
    asked = {message.content for seed in range(20) for (message,) in replay_prompts(100, seed)}
    examined = {item.question for seed in range(20) for item in capability_items(seed, 128)}
    assert not asked & examined


def test_only_answers_that_ended_by_themselves_are_imitated(model: Pretrained) -> None:
    whole = Candidate((1, 2), (3, 257), (-0.1, -0.2), "x", finished=True)
    groups = replay_groups(model, [whole, replace(whole, finished=False)])
    assert [example.tokens for group in groups for example in group.examples] == [(1, 2, 3, 257)]
    assert groups[0].examples[0].mask == (0.0, 0.0, 1.0, 1.0)
