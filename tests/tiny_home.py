"""Plants feedback in a home with a tiny model, as the server would have written it. Test material, not a test."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tutee.conversation import Message
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.settings import Settings
from tutee.store import Store
from tutee.store.records import StoredPresentation
from tutee.store.schema import ModelVersion

RECIPE = {"prompts": 6, "candidates": 3, "max_tokens": 8, "rank": 2, "learning_rate": 1e-3, "batch_size": 2}
EXAM = {"prompts": 3, "max_tokens": 8, "probe_items": 8, "probe_tokens": 4}
TOPICS = [
    "bread",
    "rivers",
    "chess",
    "tea",
    "maps",
    "owls",
    "rain",
    "glass",
    "ships",
    "wool",
    "clocks",
    "stairs",
    "salt",
    "kites",
    "moss",
    "drums",
]
PEOPLE = ("ada", "grace", "edsger", "barbara")


def settings_for(home: Path) -> Settings:
    return Settings(home=home, model="tiny", dtype="float32", threads=1, max_batch=8, cache_tokens=4096)


def open_home(home: Path, model_folder: Path) -> tuple[Store, ModelVersion, Pretrained]:
    """A store with the tiny base registered and live."""
    home.mkdir(parents=True, exist_ok=True)
    store = Store.open(settings_for(home).url, home)
    model = load_pretrained(model_folder, "float32", name="tiny")
    return store, store.versions.ensure_base("tiny", model.weights_sha256, str(model_folder)), model


def ask(store: Store, person: str, question: str) -> tuple[str, str]:
    """(conversation id, message id) of a question in a fresh conversation of somebody who consents to training."""
    actor = store.actors.get_or_create(person)
    if not store.consents.granted(actor.id, "train"):
        store.consents.set(actor.id, "train", True)
    conversation = store.conversations.create(actor.id)
    return conversation.id, store.messages.add(conversation.id, None, "user", question, actor.id).id


def answer(store: Store, model: Pretrained, version_id: str, where: tuple[str, str], question: str, text: str) -> str:
    """The generation id of a finished answer."""
    message = store.messages.add(where[0], where[1], "assistant", None, None, state="streaming")
    prompt = model.chat_format.render([Message("user", question)])
    tokens = [*model.tokenizer.encode(text), min(model.chat_format.stop_ids)]
    generation = store.generations.start(
        message.id,
        version_id,
        prompt_ids=prompt,
        sampling={"temperature": 1.0},
        weights_sha256=model.weights_sha256,
        tokenizer_sha256=model.tokenizer.sha256,
        template_sha256=model.chat_format.sha256,
    )
    store.generations.append(generation, text, tokens, [-1.0] * len(tokens))
    store.generations.finish(generation, "stop")
    return generation


def show_two(
    store: Store, model: Pretrained, person: str, question: str, answers: list[tuple[str, str]]
) -> StoredPresentation:
    """Two blind answers, (version id, text) each, first one first."""
    where = ask(store, person, question)
    generations = [answer(store, model, version, where, question, text) for version, text in answers]
    actor = store.actors.get_or_create(person)
    return store.presentations.create(actor.id, generations, layout="side_by_side", blind=True)


def vote(store: Store, person: str, shown: StoredPresentation, winner: str) -> None:
    actor = store.actors.get_or_create(person)
    payload = {"winner": winner, "dwell_ms": 6000}
    store.feedback.add("compare", actor.id, presentation_id=shown.id, payload=payload)


def plant(store: Store, base: ModelVersion, model: Pretrained, votes: int = 24, corrections: int = 8) -> None:
    """People who like short answers say so, and correct some long ones."""
    dice = random.Random(5)
    for i in range(votes):
        person, topic = PEOPLE[i % len(PEOPLE)], TOPICS[i % len(TOPICS)]
        question = f"What do you know about {topic} number {i}?"
        short = f"{topic.capitalize()}{dice.choice(['.', '!', '…'])}"  # no longer than what the model says in 8 tokens
        long = f"{topic} " * dice.randint(10, 16)
        order = [short, long] if i % 2 else [long, short]
        shown = show_two(store, model, person, question, [(base.id, text) for text in order])
        vote(store, person, shown, "a" if i % 2 else "b")
    for i in range(corrections):
        person, question = PEOPLE[i % len(PEOPLE)], f"Tell me of {TOPICS[i]} in the year {1900 + i}."
        where = ask(store, person, question)
        message = store.generations.get(answer(store, model, base.id, where, question, "na " * 12)).message_id
        actor = store.actors.get_or_create(person)
        store.feedback.add("edit", actor.id, message_id=message, payload={"content": f"{TOPICS[i]} were fine."})


def add_improve(store: Store, **settings: Any) -> str:
    """Queue an improve job with tiny settings; its id."""
    config = {"settings": RECIPE | settings, "exam": EXAM}
    return store.jobs.add("improve", "tiny", config, seed=3).id
