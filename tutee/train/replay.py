"""Replay: what the base already does, imitated again, so that learning a taste does not cost skills.

A model that learns from tens of labels forgets first how to give a short, exact answer: asked for a sum, it answers in
the new style and gets it wrong. InstructGPT mixed pretraining text into PPO against this ("PPO-ptx", Ouyang et al.
2022); here the base answers a few short questions greedily, and those answers are among the rows to imitate. Long
answers are left out: there the new style is what people asked for. Knows no probe: `evaluate/` asks other questions.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from tutee.conversation import Message
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Group
from tutee.train.candidates import Candidate
from tutee.train.encode import encode_tokens

LONGEST_ANSWER = 48
"""Tokens; an answer that does not end by then is not replayed."""

_ASKED = (
    "What is the capital of {Norway|Portugal|Turkey|Peru|Canada|Austria|Poland|Cuba}?",
    "What is the opposite of {big|fast|happy|old|early|full|strong|wet}?",
    "Is {a whale a fish|the sun a star|ice cold|a spider an insect|gold a metal|bread made from flour}?",
    "Can {a snake walk|a penguin fly|a horse run|people live without water|a dog climb a tree}?",
    "Name {three|four|five} {flowers|drinks|rivers|instruments|birds|languages|desserts|planets}.",
    "Give me a list of {three|four|five} {kinds of tree|school subjects|pets|things in a kitchen|jobs}.",
    "Repeat this word: {table|mountain|orange|letter|summer|button|horse|cloud}.",
    "Which animal gives us {milk|eggs|wool}?",
    "How many {legs does a spider have|days are in a week|months are in a year|wheels does a bicycle have}?",
    "What comes after {Friday|June|nine|the letter C}?",
)


def replay_prompts(count: int, seed: int) -> list[tuple[Message, ...]]:
    """`count` short questions, one after the other from every kind; a third of them are sums."""
    dice = random.Random(f"replay-{seed}")
    asked: dict[str, None] = {}
    while len(asked) < count:
        kind = len(asked)
        text = _sum(dice) if kind % 3 == 0 else _fill(_ASKED[(kind - kind // 3) % len(_ASKED)], dice)
        asked[text if text not in asked else _sum(dice)] = None
    return [(Message("user", text),) for text in asked]


def replay_groups(model: Pretrained, answers: Iterable[Candidate]) -> list[Group]:
    """Rows to imitate: those of the base's answers that ended by themselves."""
    examples = [encode_tokens(model, a.prompt_ids, a.token_ids, a.logprobs) for a in answers if a.finished]
    return [Group((example,)) for example in examples if example is not None]


def _sum(dice: random.Random) -> str:
    a, b = dice.randint(1, 20), dice.randint(1, 20)
    phrase = dice.choice(("How much is {a} plus {b}?", "Calculate {c} minus {b}.", "Add {a} and {b}.", "{a} + {b} = ?"))
    return phrase.format(a=a, b=b, c=a + b)


def _fill(text: str, dice: random.Random) -> str:
    """Choose one of every `{this|that}`."""
    while "{" in text:
        start, end = text.index("{"), text.index("}")
        text = text[:start] + dice.choice(text[start + 1 : end].split("|")) + text[end + 1 :]
    return text
