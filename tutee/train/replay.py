"""Replay: what the base already does, imitated again, so that learning a taste does not cost skills.

A model that learns from tens of labels forgets first how to give a short, exact answer: asked for a sum, it answers in
the new style and gets it wrong. InstructGPT mixed pretraining text into PPO against this ("PPO-ptx", Ouyang et al.
2022); here the base answers a few short questions greedily, and those answers are among the rows to imitate. Long
answers are left out: there the new style is what people asked for. Knows no probe: `evaluate/` asks other questions.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

from tutee.conversation import Message
from tutee.model.pretrained import Pretrained
from tutee.train.batch import Group
from tutee.train.candidates import Candidate
from tutee.train.encode import encode_tokens

LONGEST_ANSWER = 48
"""Tokens; an answer that does not end by then is not replayed."""

_SHORT = (
    "What is the capital of {Norway|Portugal|Turkey|Peru|Canada|Austria|Poland|Cuba|Sweden|Hungary|Chile|Kenya}?",
    "What is the opposite of {big|fast|happy|old|early|full|strong|wet|rich|loud|heavy|open}?",
    "Repeat this word: {table|mountain|orange|letter|summer|button|horse|cloud|ladder|mirror|carpet|engine}.",
    "Write a sentence about {a train|the sea|a chair|a doctor|the wind|a mouse|a lamp|the night|a bridge|a boat}.",
    "Which animal gives us {milk|eggs|wool}?",
    "How many {legs does a spider have|days are in a week|months are in a year|wheels does a bicycle have}?",
    "What comes after {Friday|June|nine|the letter C}?",
)
_YES_NO = (
    "{#}?",
    "{#}? Say yes or no.",
    "Yes or no: {#}?",
)
_CLAIMS = (
    "Is {a whale a fish|the sun a star|ice cold|a spider an insect|gold a metal|bread made from flour|glass soft}",
    "Can {a snake walk|a penguin fly|a horse run|people live without water|a dog climb a tree|iron burn|a baby drive}",
    "Do {cows eat grass|roses smell|trains need rails|snails run fast|boats float|clocks tell the time|bees sing}",
    "Are {lemons sweet|tigers wild|mountains high|needles sharp|feathers heavy|rivers dry|owls awake at night}",
)
_LISTS = (
    "Name {three|four|five} {#}.",
    "Give me a list of {three|four|five} {#}.",
    "Tell me {three|four|five} {#}, with commas between them.",
    "Write down {three|four|five} {#}.",
)
_LISTED = (
    "{flowers|drinks|rivers|instruments|birds|languages|desserts|planets|kinds of tree|school subjects|pets|jobs|"
    "things in a kitchen|insects|games|metals|months|rooms of a house|kinds of weather|parts of the body|clothes}"
)


def replay_prompts(count: int, seed: int) -> list[tuple[Message, ...]]:
    """`count` different short questions: in turn a sum, a yes or no, a list, something to know or to do."""
    dice = random.Random(f"replay-{seed}")
    kinds = (_sum, _yes_no, _list, _short)
    asked: dict[str, None] = {}
    for turn in itertools.count():
        if len(asked) == count:
            break
        asked[kinds[turn % len(kinds)](dice)] = None
    return [(Message("user", text),) for text in asked]


def replay_groups(model: Pretrained, answers: Iterable[Candidate]) -> list[Group]:
    """Rows to imitate: those of the base's answers that ended by themselves."""
    examples = [encode_tokens(model, a.prompt_ids, a.token_ids, a.logprobs) for a in answers if a.finished]
    return [Group((example,)) for example in examples if example is not None]


def _sum(dice: random.Random) -> str:
    a, b = dice.randint(1, 20), dice.randint(1, 20)
    phrase = dice.choice(("How much is {a} plus {b}?", "Calculate {c} minus {b}.", "Add {a} and {b}.", "{a} + {b} = ?"))
    return phrase.format(a=a, b=b, c=a + b)


def _yes_no(dice: random.Random) -> str:
    return dice.choice(_YES_NO).replace("{#}", _fill(dice.choice(_CLAIMS), dice))


def _list(dice: random.Random) -> str:
    return _fill(dice.choice(_LISTS).replace("{#}", _LISTED), dice)


def _short(dice: random.Random) -> str:
    return _fill(dice.choice(_SHORT), dice)


def _fill(text: str, dice: random.Random) -> str:
    """Choose one of every `{this|that}`."""
    while "{" in text:
        start, end = text.index("{"), text.index("}")
        text = text[:start] + dice.choice(text[start + 1 : end].split("|")) + text[end + 1 :]
    return text
