"""Prompts are the people's own questions, each once, with their split."""

from __future__ import annotations

from tests.data.homes import Home
from tutee.data.from_feedback import collect


def test_each_question_once_with_its_history_and_origin(home: Home) -> None:
    first = home.ask("What is the capital of France?", system="Be brief.")
    home.ask("what is the capital of FRANCE", system="Be brief.")
    home.ask("What is the capital of France?")
    follow = home.ask("And of Spain?", after=home.answer(first, "Paris."))
    prompts = collect(home.store).prompts
    assert [[m.content for m in p.messages] for p in prompts] == [
        ["Be brief.", "What is the capital of France?"],
        ["What is the capital of France?"],
        ["Be brief.", "What is the capital of France?", "Paris.", "And of Spain?"],
    ]
    assert all(p.messages[-1].role == "user" for p in prompts)
    assert (prompts[2].message_id, prompts[2].conversation_id) == (follow.id, follow.conversation_id)
    assert prompts[0].actor_id == home.person()


def test_without_consent_there_are_none(home: Home) -> None:
    home.ask("Do not learn from this.", handle="ada")
    mine = home.ask("Nor from this.")
    home.store.conversations.update(mine.conversation_id, home.person(), train=False)
    assert collect(home.store).prompts == ()


def test_questions_behind_a_broken_answer_and_empty_ones_are_left_out(home: Home) -> None:
    first = home.ask("Tell me a story.")
    home.ask("Go on.", after=home.answer(first, "Once", finish="error"))
    stopped = home.ask("Enough, thanks!", after=home.answer(first, "Once upon", finish="abort"))
    home.ask("   ")
    assert [p.message_id for p in collect(home.store).prompts] == [first.id, stopped.id]


def test_rows_and_prompts_of_one_question_share_a_split(home: Home) -> None:
    for i in range(40):
        home.thumb(home.answer(home.ask(f"Tell me about {chr(97 + i % 26) * 6} and {i * 37}."), "Yes."), 1)
    found = collect(home.store)
    splits = {prompt.message_id: prompt.split for prompt in found.prompts}
    assert {row.split for row in found.rows} == {"train", "held_out"}
    assert all(splits[row.origin.question_id] == row.split for row in found.rows)
    assert found.held_out["rows"] == sum(row.split == "held_out" for row in found.rows)
    assert found.held_out["people"] == 1


def test_questions_late_in_a_long_conversation_are_still_told_apart(home: Home) -> None:
    first = home.ask("word " * 6000)
    answer = home.answer(first, "Long.")
    home.ask("Who wrote it?", after=answer)
    home.ask("When?", after=answer)
    assert len(collect(home.store).prompts) == 3
