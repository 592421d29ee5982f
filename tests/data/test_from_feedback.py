"""Each piece of feedback becomes the rows it should, or has exactly one reason why not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.homes import Home, open_home
from tutee.conversation import Message
from tutee.data import from_feedback
from tutee.data.from_feedback import Collected, Judge, Reason, collect, reasons_against, why_not
from tutee.data.rows import PairRow, SftRow, UnpairedRow
from tutee.data.snapshot import freeze
from tutee.store.schema import Feedback


def reasons(home: Home) -> dict[str, Reason]:
    return dict(collect(home.store).unusable)


def test_a_comparison_is_a_pair_of_what_was_sampled(home: Home) -> None:
    question = home.ask("What is the capital of France?", system="Be brief.")
    a, b = home.answer(question, "Paris."), home.answer(question, "London.")
    vote = home.compare(a, b, "b", strength=2)
    (row,) = collect(home.store).rows
    assert isinstance(row, PairRow)
    assert row.prompt == (Message("system", "Be brief."), Message("user", "What is the capital of France?"))
    assert (row.chosen.text, row.rejected.text, row.margin) == ("London.", "Paris.", 2.0)
    assert (row.chosen.generation_id, row.rejected.generation_id) == (b.generation_id, a.generation_id)
    assert row.chosen.version_id == home.version_id
    assert row.chosen.sampled is not None
    assert row.chosen.sampled.token_ids == tuple(map(ord, "London."))
    assert len(row.chosen.sampled.logprobs) == 7
    assert row.chosen.sampled.prompt_ids == tuple(map(ord, question.content))
    assert (row.origin.source, row.origin.feedback_ids) == ("compare", (vote.id,))
    assert row.origin.question_id == question.id
    assert row.origin.actor_id == home.person()


def test_the_prompt_is_the_whole_conversation_down_to_the_question(home: Home) -> None:
    first = home.answer(home.ask("Name a colour."), "Blue.")
    answer = home.answer(home.ask("Another?", after=first), "Red.")
    home.thumb(answer, 1)
    (row,) = collect(home.store).rows
    assert [(m.role, m.content) for m in row.prompt] == [
        ("user", "Name a colour."),
        ("assistant", "Blue."),
        ("user", "Another?"),
    ]


def test_both_bad_makes_two_bad_labels(home: Home) -> None:
    question = home.ask("A joke?")
    home.compare(home.answer(question, "No."), home.answer(question, "Never."), "both_bad")
    rows = collect(home.store).rows
    assert [(row.reply.text, row.label) for row in rows if isinstance(row, UnpairedRow)] == [
        ("No.", False),
        ("Never.", False),
    ]
    assert len(rows) == 2


def test_a_correction_is_a_pair_and_an_sft_row(home: Home) -> None:
    answer = home.answer(home.ask("2+2?"), "5")
    edit = home.edit(answer, "4")
    sft, pair = collect(home.store).rows
    assert isinstance(sft, SftRow)
    assert isinstance(pair, PairRow)
    assert [m.content for m in sft.messages] == ["2+2?", "4"]
    assert (pair.chosen.text, pair.rejected.text, pair.margin) == ("4", "5", 3.0)
    assert (pair.chosen.generation_id, pair.rejected.generation_id) == (None, answer.generation_id)
    assert sft.origin.feedback_ids == pair.origin.feedback_ids == (edit.id,)


def test_a_correction_of_a_stopped_answer_is_no_pair(home: Home) -> None:
    home.edit(home.answer(home.ask("2+2?"), "5 because", finish="abort"), "4")
    assert [type(row) for row in collect(home.store).rows] == [SftRow]


def test_a_demonstration_is_an_sft_row_and_beats_the_first_sampled_sibling(home: Home) -> None:
    lonely, question = home.ask("A haiku?"), home.ask("A rhyme?")
    home.demo(lonely, "Old pond.")
    home.answer(question, "unfinished", finish="abort")
    home.answer(question, "Roses are red.")
    home.answer(question, "Violets are blue.")
    home.demo(question, "Moon, June.")
    alone, sft, pair = collect(home.store).rows
    assert isinstance(alone, SftRow)
    assert isinstance(sft, SftRow)
    assert isinstance(pair, PairRow)
    assert (pair.chosen.text, pair.rejected.text) == ("Moon, June.", "Roses are red.")


def test_only_the_newest_thumb_counts_and_zero_takes_it_back(home: Home) -> None:
    answer, other = home.answer(home.ask("2+2?"), "4"), home.answer(home.ask("3+3?"), "6")
    up, down, gone = home.thumb(answer, 1), home.thumb(answer, -1), home.thumb(other, 1)
    cleared = home.thumb(other, 0)
    found = collect(home.store)
    (row,) = found.rows
    assert isinstance(row, UnpairedRow)
    assert (row.label, row.origin.feedback_ids) == (False, (down.id,))
    assert dict(found.unusable) == {
        up.id: Reason.SUPERSEDED,
        gone.id: Reason.SUPERSEDED,
        cleared.id: Reason.WITHDRAWN,
    }


def test_up_and_down_on_siblings_also_make_a_pair(home: Home) -> None:
    question = home.ask("A name for a cat?")
    good, bad, worse = (home.answer(question, text) for text in ("Tom.", "Dog.", "Cat."))
    down, up, down_too = home.thumb(bad, -1), home.thumb(good, 1), home.thumb(worse, -1)
    rows = collect(home.store).rows
    pairs = [row for row in rows if isinstance(row, PairRow)]
    assert [(p.chosen.text, p.rejected.text, p.margin, p.weight) for p in pairs] == [
        ("Tom.", "Dog.", 1.0, 0.5),
        ("Tom.", "Cat.", 1.0, 0.5),
    ]
    assert [p.origin.feedback_ids for p in pairs] == [(down.id, up.id), (up.id, down_too.id)]
    assert len(rows) == 5


def test_a_thumb_pair_that_was_also_compared_is_said_once(home: Home) -> None:
    question = home.ask("A name for a cat?")
    good, bad = home.answer(question, "Tom."), home.answer(question, "Dog.")
    home.compare(good, bad, "a")
    home.thumb(good, 1)
    home.thumb(bad, -1)
    found = collect(home.store)
    assert found.usable == {"sft": 0, "pair": 1, "unpaired": 2}
    assert found.unusable == ()


def tie(home: Home) -> Feedback:
    question = home.ask("A joke?")
    return home.compare(home.answer(question, "No."), home.answer(question, "Never."), "tie")


def too_fast(home: Home) -> Feedback:
    question = home.ask("A joke?")
    return home.compare(home.answer(question, "No."), home.answer(question, "Never."), "a", dwell_ms=900)


def same(home: Home) -> Feedback:
    question = home.ask("A joke?")
    return home.compare(home.answer(question, "No."), home.answer(question, "No. "), "a")


def other_question(home: Home) -> Feedback:
    a, b = home.answer(home.ask("A joke?"), "No."), home.answer(home.ask("A song?"), "La.")
    return home.compare(a, b, "a")


def not_finished(home: Home) -> Feedback:
    return home.thumb(home.answer(home.ask("A joke?"), "Once", finish="abort"), -1)


def unchanged(home: Home) -> Feedback:
    return home.edit(home.answer(home.ask("2+2?"), "4"), " 4\n")


def empty(home: Home) -> Feedback:
    return home.edit(home.answer(home.ask("2+2?"), "4"), "  ")


def nothing_left(home: Home) -> Feedback:
    return home.edit(home.answer(home.ask("Her mail?"), "No idea."), "ann@x.org")


def only_scrubbed_differs(home: Home) -> Feedback:
    return home.edit(home.answer(home.ask("Her mail?"), "It is bob@x.org."), "It is ann@x.org.")


def flag(home: Home) -> Feedback:
    answer = home.answer(home.ask("2+2?"), "4")
    return home.store.feedback.add("flag", home.person(), message_id=answer.id, payload={"category": "wrong"})


def no_question(home: Home) -> Feedback:
    conversation = home.store.conversations.create(home.person())
    greeting = home.store.messages.add(conversation.id, None, "assistant", "Welcome!", None)
    return home.thumb(greeting, 1)


def no_consent(home: Home) -> Feedback:
    return home.thumb(home.answer(home.ask("2+2?", handle="ada"), "4"), 1)


def opted_out(home: Home) -> Feedback:
    answer = home.answer(home.ask("2+2?"), "4")
    home.store.conversations.update(answer.conversation_id, home.person(), train=False)
    return home.thumb(answer, 1)


def revoked(home: Home) -> Feedback:
    home.person("ada", train=True)
    vote = home.thumb(home.answer(home.ask("2+2?", handle="ada"), "4"), 1)
    assert len(collect(home.store).rows) == 1
    home.person("ada", train=False)
    return vote


UNUSABLE: list[tuple[Callable[[Home], Feedback], Reason]] = [
    (tie, Reason.TIE),
    (too_fast, Reason.TOO_FAST),
    (same, Reason.SAME),
    (other_question, Reason.OTHER_QUESTION),
    (not_finished, Reason.NOT_FINISHED),
    (unchanged, Reason.UNCHANGED),
    (empty, Reason.EMPTY),
    (nothing_left, Reason.NOTHING_LEFT),
    (only_scrubbed_differs, Reason.NOTHING_LEFT),
    (flag, Reason.NOT_TRAINED_ON),
    (no_question, Reason.NO_QUESTION),
    (no_consent, Reason.NO_CONSENT),
    (opted_out, Reason.NO_CONSENT),
    (revoked, Reason.NO_CONSENT),
]


@pytest.mark.parametrize(("give", "reason"), UNUSABLE, ids=lambda value: getattr(value, "__name__", ""))
def test_what_cannot_be_used_has_its_reason(home: Home, give: Callable[[Home], Feedback], reason: Reason) -> None:
    feedback = give(home)
    found = collect(home.store)
    assert found.rows == ()
    assert found.unusable == ((feedback.id, reason),)
    assert found.reasons == {reason: 1}
    assert why_not(home.store, feedback.id) == reason


def test_one_conversation_can_be_given_though_the_person_gave_no_general_consent(home: Home) -> None:
    answer = home.answer(home.ask("2+2?", handle="ada"), "4")
    vote = home.thumb(answer, 1)
    home.store.conversations.update(answer.conversation_id, home.person("ada"), train=True)
    assert [row.origin.feedback_ids for row in collect(home.store).rows] == [(vote.id,)]
    assert why_not(home.store, vote.id) is None


def test_what_a_list_shows_is_judged_once_for_each_person_and_chat(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    question = home.ask("2+2?")
    first, again = home.thumb(home.answer(question, "4"), 1), home.thumb(home.answer(question, "5"), -1)
    elsewhere = home.thumb(home.answer(home.ask("3+3?", handle="ada"), "6"), 1)
    judged: list[object] = []
    monkeypatch.setattr(from_feedback, "Judge", lambda *all: judged.append(all) or Judge(*all))
    against = reasons_against(home.store, [first, elsewhere, again])
    assert against == {first.id: None, again.id: None, elsewhere.id: Reason.NO_CONSENT}
    assert len(judged) == 2


def test_the_same_said_twice_counts_once(home: Home) -> None:
    first, again = (home.edit(home.answer(home.ask("2+2?"), "5"), "4") for _ in range(2))
    home.person("ada", train=True)
    hers = home.edit(home.answer(home.ask("2+2?", handle="ada"), "5"), "4")
    found = collect(home.store)
    assert found.unusable == ((again.id, Reason.DUPLICATE),)
    assert {row.origin.feedback_ids for row in found.rows} == {(first.id,), (hers.id,)}


def test_erased_feedback_is_nowhere(home: Home) -> None:
    kept, gone = home.answer(home.ask("2+2?"), "4"), home.answer(home.ask("3+3?"), "7")
    home.thumb(kept, 1)
    home.thumb(gone, 1)
    newest = home.thumb(gone, -1)
    home.store.feedback.erase(newest.id, home.person())
    found = collect(home.store)
    assert [row.reply.text for row in found.rows if isinstance(row, UnpairedRow)] == ["4"]
    assert found.unusable == ()
    home.store.conversations.delete(kept.conversation_id, home.person())
    assert collect(home.store).rows == ()


def test_new_counts_what_a_version_has_not_seen_and_rows_hold_everything(home: Home) -> None:
    home.thumb(home.answer(home.ask("2+2?"), "4"), 1)
    later_allowed = home.thumb(home.answer(home.ask("A secret?", handle="ada"), "No."), 1)
    assert collect(home.store).new == {"thumb": 2}
    snapshot = freeze(home.store, collect(home.store))
    version = home.store.versions.add(
        "v1", "adapter", weights_sha256="a" * 64, folder="versions/v1", snapshot_sha=snapshot.sha
    )
    assert collect(home.store, version.id).new == {}
    home.edit(home.answer(home.ask("3+3?"), "7"), "6")
    home.thumb(home.answer(home.ask("4+4?"), "8"), 0)
    found = collect(home.store, version.id)
    assert found.new == {"edit": 1}
    assert found.usable == {"sft": 1, "pair": 1, "unpaired": 1}
    home.person("ada", train=True)
    found = collect(home.store, version.name)
    assert found.new == {"edit": 1, "thumb": 1}
    assert any(row.origin.feedback_ids == (later_allowed.id,) for row in found.rows)


STEPS = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["a", "b", "tie", "both_bad", "up", "down", "clear", "edit", "demo"])),
    max_size=12,
)


@given(steps=STEPS, allowed=st.lists(st.booleans(), min_size=3, max_size=3))
@settings(max_examples=12, deadline=None)
def test_every_piece_of_feedback_is_used_or_has_one_reason(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str]], allowed: list[bool]
) -> None:
    with open_home(tmp_path_factory.mktemp("home")) as home:
        people = ("owner", "ada", "bob")
        for handle, train in zip(people, allowed, strict=True):
            home.person(handle, train)
        questions = [home.ask(f"What is {i} plus {i}?", people[i]) for i in range(3)]
        answers = [(home.answer(q, "Two"), home.answer(q, "Three")) for q in questions]
        given = [act(home, questions[i], answers[i], what) for i, what in steps]
        found = collect(home.store)
    used = {id for row in found.rows for id in row.origin.feedback_ids}
    reasoned = [id for id, _ in found.unusable]
    assert len(reasoned) == len(set(reasoned))
    assert used | set(reasoned) == set(given)
    assert not used & set(reasoned)
    assert_consented(found, sorted(used), allowed)


def act(home: Home, question, answers, what: str) -> str:  # type: ignore[no-untyped-def]
    first, second = answers
    if what in ("up", "down", "clear"):
        return home.thumb(first if what == "up" else second, {"up": 1, "down": -1, "clear": 0}[what]).id
    if what == "edit":
        return home.edit(second, "Four").id
    if what == "demo":
        return home.demo(question, "Five").id
    return home.compare(first, second, what).id


def assert_consented(found: Collected, used: list[str], allowed: list[bool]) -> None:
    if not any(allowed):
        assert used == []
        assert found.prompts == ()
