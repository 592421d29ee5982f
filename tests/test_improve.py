"""The circle on a tiny model and a real store: planted feedback becomes a judged version, once, whatever happens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny_home import EXAM, PEOPLE, RECIPE, add_improve, settings_for, show_two, vote
from tutee.errors import InvalidInput
from tutee.evaluate.gate import judge
from tutee.improve import Workplace, freeze_feedback, improve, open_base, version_name
from tutee.store import Store
from tutee.store.schema import ModelVersion
from tutee.train.progress import Progress
from tutee.worker.api_job import open_start

Whole = tuple[ModelVersion, "Watcher", str]
"""The version, what was reported, and the job's id."""


class KilledError(Exception):
    """Stands in for the death of the worker between two steps."""


class Watcher:
    """Remembers what was reported, and dies at this step of this stage."""

    def __init__(self, dies_at: tuple[str, int] | None = None) -> None:
        self.seen: list[Progress] = []
        self.dies_at = dies_at

    def __call__(self, progress: Progress) -> None:
        self.seen.append(progress)
        if (progress.stage, progress.step) == self.dies_at:
            raise KilledError


@pytest.fixture(scope="module")
def planted(planted_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Path]]:
    home = Path(shutil.copytree(planted_home, tmp_path_factory.mktemp("circle") / "home"))
    store = Store.open(settings_for(home).url, home)
    yield store, home
    store.close()


def place_for(store: Store, home: Path, job_id: str, watcher: Watcher) -> Workplace:
    settings = settings_for(home)
    base, model = open_base(settings, store, "tiny")
    return Workplace(settings, store, base, model, store.jobs.get(job_id), watcher)


@pytest.fixture(scope="module")
def whole(planted: tuple[Store, Path]) -> Whole:
    """One undisturbed turn of the circle."""
    store, home = planted
    job_id, watcher = add_improve(store), Watcher()
    version, _ = improve(place_for(store, home, job_id, watcher))
    return version, watcher, job_id


def test_feedback_becomes_a_judged_candidate(planted: tuple[Store, Path], whole: Whole) -> None:
    store, home = planted
    done, watcher, job_id = whole
    version = store.versions.get(done.id)
    assert (version.state, version.kind, version.job_id) == ("candidate", "adapter", job_id)
    assert version.parent_id == store.versions.get("tiny").id
    assert version.snapshot_sha == store.jobs.get(job_id).snapshot_sha
    assert (home / version.folder / "adapter_model.safetensors").exists()
    assert store.versions.feedback_counts()[version.id] > 0
    assert store.versions.live().name == "tiny"
    stages = list(dict.fromkeys(progress.stage for progress in watcher.seen))
    assert stages[0] == "collect"
    assert stages[-2:] == ["evaluate", "judge"]
    assert "train" in stages


def test_every_measurement_that_the_gate_reads_is_written(planted: tuple[Store, Path], whole: Whole) -> None:
    store, _ = planted
    suites = {row.suite: row for row in store.evaluations.list(whole[0].id)}
    wanted = {"drift.kl", "drift.length_ratio", "drift.short_share", "drift.distinct_2", "drift.finished"}
    assert wanted | {"capability.lost", "sycophancy.flip_increase"} <= set(suites)
    assert suites["drift.kl"].n == EXAM["prompts"]
    assert suites["drift.kl"].estimate is not None
    assert suites["drift.kl"].estimate > 0
    gate = store.gates.latest(whole[0].id)
    assert gate is not None
    assert gate.verdict in ("insufficient", "fail")
    assert {check["name"] for check in gate.checks} >= {"blind votes", "capability", "length"}


def test_a_run_that_died_anywhere_ends_like_one_that_did_not(planted: tuple[Store, Path], whole: Whole) -> None:
    store, home = planted
    done, watcher, _ = whole
    totals = {progress.stage: progress.total for progress in watcher.seen}
    assert totals["imitate"] > 12, "one of the deaths must come after a checkpoint"
    job_id = add_improve(store)
    deaths = [("collect", 1), ("imitate", 12), ("candidates", 6), ("train", 2), ("train", totals["train"])]
    for dies_at in (*deaths, ("guard", 1), ("judge", 0)):
        with pytest.raises(KilledError):
            improve(place_for(store, home, job_id, Watcher(dies_at)))
    again, _ = improve(place_for(store, home, job_id, Watcher()))
    assert again.card["steps"] == done.card["steps"] == totals["imitate"] + totals["train"]
    assert again.weights_sha256 == done.weights_sha256
    assert store.jobs.get(job_id).snapshot_sha == done.snapshot_sha
    assert len([version for version in store.versions.list() if version.job_id == job_id]) == 1
    suites = [row.suite for row in store.evaluations.list(again.id)]
    assert len(suites) == len(set(suites))
    once_more, _ = improve(place_for(store, home, job_id, Watcher()))
    assert once_more.id == again.id
    assert len(store.evaluations.list(again.id)) == len(suites)


def test_votes_move_the_verdict_and_the_same_evidence_is_not_judged_twice(
    planted: tuple[Store, Path], whole: Whole, tiny_folder: Path
) -> None:
    store, home = planted
    candidate, live = whole[0], store.versions.live()
    _, model = open_base(settings_for(home), store, "tiny")
    before = judge(store, candidate.id)
    assert judge(store, candidate.id).id == before.id
    for i in range(24):
        sides = [(candidate.id, f"Answer {i} is new."), (live.id, f"Answer {i} is old.")]
        order = sides if i % 2 else sides[::-1]
        shown = show_two(store, model, PEOPLE[i % 4], f"Blind question {i}?", order)
        vote(store, PEOPLE[i % 4], shown, "tie" if i == 5 else "a" if i % 2 else "b")
    after = judge(store, candidate.id)
    assert after.id != before.id
    votes = next(check for check in after.checks if check["name"] == "blind votes")
    assert votes["verdict"] == "pass"
    assert (votes["numbers"]["wins"], votes["numbers"]["losses"], votes["numbers"]["ties"]) == (23, 0, 1)
    assert after.e_value is not None
    assert after.e_value >= 20


def test_the_live_version_is_not_judged_against_itself(planted: tuple[Store, Path]) -> None:
    with pytest.raises(InvalidInput, match="live itself"):
        judge(planted[0], planted[0].versions.live().id)


def test_a_job_keeps_its_snapshot_though_feedback_goes_on(planted_home: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(planted_home, tmp_path / "home"))
    store = Store.open(settings_for(home).url, home)
    place = place_for(store, home, add_improve(store), Watcher())
    base, model = place.base, place.model
    first = freeze_feedback(place)
    show = show_two(store, model, "ada", "One more question?", [(base.id, "Yes it is."), (base.id, "No it is not.")])
    vote(store, "ada", show, "a")
    assert freeze_feedback(place).sha == first.sha
    assert freeze_feedback(replace(place, job=store.jobs.get(add_improve(store)))).sha != first.sha
    store.close()


def test_erased_feedback_leaves_a_job_that_already_began(planted_home: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(planted_home, tmp_path / "home"))
    store = Store.open(settings_for(home).url, home)
    place = place_for(store, home, add_improve(store), Watcher())
    first = freeze_feedback(place)
    (place.folder / "train-1").mkdir(parents=True)
    gone = next(row.origin.feedback_ids[-1] for row in first.of("train"))
    store.feedback.erase(gone, store.feedback.get(gone).actor_id)
    second = freeze_feedback(place)
    assert second.sha != first.sha
    assert all(gone not in row.origin.feedback_ids for row in second.rows)
    assert not place.folder.exists()
    store.close()


def test_a_version_that_was_made_before_feedback_was_erased_is_not_the_jobs(planted_home: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(planted_home, tmp_path / "home"))
    store = Store.open(settings_for(home).url, home)
    job_id = add_improve(store)
    with pytest.raises(KilledError):
        improve(place_for(store, home, job_id, Watcher(("judge", 0))))
    [old] = [version for version in store.versions.list() if version.job_id == job_id]
    gone = store.versions.feedback_ids(old.id)[0]
    assert store.feedback.erase(gone, store.feedback.get(gone).actor_id).tainted_versions == [old.id]
    new, _ = improve(place_for(store, home, job_id, Watcher()))
    assert new.id != old.id
    assert gone not in store.versions.feedback_ids(new.id)
    assert new.weights_sha256 != old.weights_sha256
    assert [store.versions.get(version.id).state for version in (old, new)] == ["rejected", "candidate"]
    assert improve(place_for(store, home, job_id, Watcher()))[0].id == new.id
    store.close()


def test_feedback_that_is_erased_during_the_exam_is_said(planted_home: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(planted_home, tmp_path / "home"))
    store = Store.open(settings_for(home).url, home)
    job_id = add_improve(store)

    class Eraser(Watcher):
        def __call__(self, progress: Progress) -> None:
            if progress.stage == "judge" and not store.feedback.erasures():
                row = store.feedback.live()[0]
                store.feedback.erase(row.id, row.actor_id)

    version, _ = improve(place_for(store, home, job_id, Eraser()))
    assert store.versions.get(version.id).state == "rejected"
    said = [event.message for event in store.jobs.events(job_id, limit=100)]
    assert any("taken back" in message and version.name in message for message in said)
    store.close()


@pytest.mark.parametrize("whole_person", [True, False])
def test_consent_that_is_withdrawn_leaves_a_job_that_already_began(
    planted_home: Path, tmp_path: Path, whole_person: bool
) -> None:
    home = Path(shutil.copytree(planted_home, tmp_path / "home"))
    store = Store.open(settings_for(home).url, home)
    place = place_for(store, home, add_improve(store), Watcher())
    first = freeze_feedback(place)
    assert freeze_feedback(place).sha == first.sha
    gone = first.of("train")[0].origin
    if whole_person:
        store.consents.set(gone.actor_id, "train", False)
    else:
        store.conversations.update(gone.conversation_id, gone.actor_id, train=False)
    second = freeze_feedback(place)
    assert second.sha != first.sha
    left = [row.origin for row in second.rows]
    assert left
    assert all(o.actor_id != gone.actor_id if whole_person else o.conversation_id != gone.conversation_id for o in left)
    store.close()


def test_names_are_free_and_stay_the_same(planted: tuple[Store, Path], whole: Whole) -> None:
    store, home = planted
    done, _, job_id = whole
    assert version_name(place_for(store, home, job_id, Watcher())) == done.name
    config = {"settings": RECIPE}
    taken = store.jobs.add("improve", "tiny", config, suffix=done.name)
    assert version_name(place_for(store, home, taken.id, Watcher())) != done.name
    free = store.jobs.add("improve", "tiny", config, suffix="house style")
    assert version_name(place_for(store, home, free.id, Watcher())) == "house style"


def test_an_unknown_model_is_named(planted: tuple[Store, Path]) -> None:
    store, home = planted
    with pytest.raises(InvalidInput) as error:
        open_base(settings_for(home), store, "gpt-9")
    assert (error.value.param, error.value.code) == ("model", "model_not_found")


def test_a_model_on_another_server_is_not_looked_for_in_a_folder(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with closing(Store.open(settings.url, settings.home)) as store:
        store.versions.ensure_base("far", "upstream:far", "http://127.0.0.1:9/v1", kind="upstream")
        for open_model in (open_base, open_start):
            with pytest.raises(InvalidInput, match="another server holds its weights") as error:
                open_model(settings, store, "chat")
            assert (error.value.param, error.value.code) == ("model", "upstream_cannot")
