from __future__ import annotations

from typing import Any

import pytest

from tests.store.conftest import SHA, Queries, Scene, everything
from tutee.errors import InvalidInput, NotFound
from tutee.store import SnapshotItem, Store
from tutee.store.schema import ModelVersion


def test_the_first_base_is_number_zero_and_live(store: Store, base: ModelVersion) -> None:
    assert (base.number, base.state, base.kind) == (0, "live", "base")
    assert store.versions.live().id == base.id
    again = store.versions.ensure_base("tiny", SHA, "elsewhere/tiny")
    assert (again.id, again.folder) == (base.id, "elsewhere/tiny")
    other = store.versions.ensure_base("tiny", "6" * 64, "models/tiny")
    assert (other.number, other.name, other.state) == (1, "tiny-66666666", "candidate")


def test_a_home_without_a_base_has_no_live_version(store: Store) -> None:
    with pytest.raises(NotFound):
        store.versions.live()
    with pytest.raises(InvalidInput) as refused:
        store.promotions.rollback(None)
    assert refused.value.code == "nothing_to_roll_back"


def test_versions_are_found_by_id_name_number_and_alias(store: Store, scene: Scene) -> None:
    version = scene.candidate()
    assert {store.versions.get(key).id for key in (version.id, "tiny-v1", 1, "1")} == {version.id}
    assert store.versions.get("chat").id == scene.base.id
    assert [v.number for v in store.versions.list()] == [0, 1]
    assert store.versions.aliases()["chat"].id == scene.base.id
    assert [v.id for v in store.versions.descendants(scene.base.id)] == [version.id]
    for unknown in ("v9", 9, "9" * 30, "ver-none"):
        with pytest.raises(NotFound) as refused:
            store.versions.get(unknown)
        assert refused.value.code == "model_not_found"


def test_names_are_used_once(store: Store, scene: Scene) -> None:
    scene.candidate()
    for name in ("tiny-v1", "chat", ""):
        with pytest.raises(InvalidInput):
            scene.candidate(name)
    with pytest.raises(InvalidInput):
        scene.candidate("other", state="live")


def test_promotion_moves_alias_states_and_audit_together(store: Store, scene: Scene) -> None:
    version = scene.candidate()
    gate = store.gates.add(version.id, scene.base.id, "pass", ["fine"], checks=[{"name": "kl", "verdict": "pass"}])
    done = store.promotions.promote(version.id, scene.owner.id, "better")
    assert (done.from_version, done.to_version, done.gate_id, done.override) == (
        scene.base.id,
        version.id,
        gate.id,
        False,
    )
    assert store.versions.live().id == version.id
    assert [v.state for v in store.versions.list()] == ["archived", "live"]
    entry = store.audit.list()[0]
    assert (entry.action, entry.object, entry.actor_id) == ("promote", version.id, scene.owner.id)
    assert store.audit.verify() is None


@pytest.mark.parametrize("verdict", [None, "fail", "insufficient"])
def test_without_a_pass_it_takes_an_override_with_a_reason(store: Store, scene: Scene, verdict: str | None) -> None:
    version = scene.candidate()
    if verdict:
        store.gates.add(version.id, scene.base.id, "pass", [])
        store.gates.add(version.id, scene.base.id, verdict, ["no"])
    for override, why in ((False, "because"), (True, None), (True, "  ")):
        with pytest.raises(InvalidInput) as refused:
            store.promotions.promote(version.id, scene.owner.id, why, override)
        assert refused.value.code == "gate_not_passed"
    assert store.versions.live().id == scene.base.id
    done = store.promotions.promote(version.id, scene.owner.id, "I checked it myself", override=True)
    assert (done.override, done.why) == (True, "I checked it myself")


def test_rollbacks_walk_back_and_then_refuse(store: Store, scene: Scene) -> None:
    first, second, third = (scene.candidate(name) for name in "abc")

    def promote(version: ModelVersion) -> None:
        store.promotions.promote(version.id, scene.owner.id, "test", override=True)

    def roll_back() -> str:
        return store.promotions.rollback(scene.owner.id, "test").to_version

    promote(first)
    promote(second)
    assert roll_back() == first.id
    promote(third)
    assert roll_back() == first.id
    assert roll_back() == scene.base.id
    assert [v.state for v in store.versions.list()] == ["live", "archived", "archived", "archived"]
    before = everything(store)
    with pytest.raises(InvalidInput) as refused:
        roll_back()
    assert refused.value.code == "nothing_to_roll_back"
    assert everything(store) == before
    assert [p.stage for p in store.promotions.list()] == [
        "rollback",
        "rollback",
        "promote",
        "rollback",
        "promote",
        "promote",
    ]


def test_what_is_live_rejected_or_revoked_is_not_promoted(store: Store, scene: Scene) -> None:
    version = scene.candidate()
    store.versions.set_state(version.id, "rejected")
    for id, code in ((scene.base.id, "already_live"), (version.id, "version_not_promotable")):
        with pytest.raises(InvalidInput) as refused:
            store.promotions.promote(id, scene.owner.id, "why", override=True)
        assert refused.value.code == code
    with pytest.raises(NotFound):
        store.promotions.promote("ver-none", scene.owner.id)


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"folder": ""}, "without its weights"), ({"folder": "versions/r", "card": {"kind": "reward_model"}}, "judges")],
)
def test_what_cannot_answer_is_not_promoted(store: Store, scene: Scene, fields: dict[str, Any], said: str) -> None:
    version = store.versions.add("mute", "full", weights_sha256=SHA, **fields)
    with pytest.raises(InvalidInput, match=said) as refused:
        store.promotions.promote(version.id, scene.owner.id, "why", override=True)
    assert refused.value.code == "version_not_promotable"


def test_only_a_candidate_is_rejected_and_the_reason_is_kept(store: Store, scene: Scene) -> None:
    assert store.versions.reject(scene.candidate("a").id, scene.owner.id, "rude").state == "rejected"
    assert store.audit.list()[0].detail["why"] == "rude"
    for id in ("a", scene.base.id):
        with pytest.raises(InvalidInput) as refused:
            store.versions.reject(id, scene.owner.id, "rude")
        assert refused.value.code == "not_a_candidate"


def test_a_revoked_version_is_not_rolled_back_to(store: Store, scene: Scene) -> None:
    first, second = scene.candidate("a"), scene.candidate("b")
    for version in (first, second):
        store.promotions.promote(version.id, scene.owner.id, "test", override=True)
    store.versions.set_state(first.id, "revoked")
    with pytest.raises(InvalidInput) as refused:
        store.promotions.rollback(scene.owner.id)
    assert refused.value.code == "version_not_promotable"
    assert store.versions.live().id == second.id


def test_the_live_version_changes_only_by_promotion(store: Store, scene: Scene) -> None:
    for id, state in ((scene.base.id, "archived"), (scene.candidate().id, "live"), (scene.base.id, "dancing")):
        with pytest.raises(InvalidInput):
            store.versions.set_state(id, state)
    assert store.versions.set_card(scene.base.id, {"note": "x"}).card == {"note": "x"}


def test_a_promotion_that_fails_halfway_changes_nothing(
    store: Store, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = scene.candidate()
    before = everything(store)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the audit log is on fire")

    monkeypatch.setattr("tutee.store.audit.append", fail)
    with pytest.raises(RuntimeError):
        store.promotions.promote(version.id, scene.owner.id, "test", override=True)
    assert everything(store) == before


def _items(*feedback: str) -> list[SnapshotItem]:
    return [
        SnapshotItem(f"{i:064d}", "held_out" if i == 1 else "train", "unpaired", {"i": i}, id)
        for i, id in enumerate(feedback)
    ]


def test_snapshots_keep_order_and_split_and_are_written_once(store: Store, scene: Scene) -> None:
    ids = [scene.thumb(scene.turn()).id for _ in range(3)]
    made = store.snapshots.add(SHA, "mixed", {"unpaired": 3}, _items(*ids), query="all", split_rule="hash")
    assert store.snapshots.add(SHA, "mixed", {"unpaired": 9}, []).counts == {"unpaired": 3}
    assert made.row_count == 3
    assert [row.payload for row in store.snapshots.rows(SHA)] == [{"i": 0}, {"i": 1}, {"i": 2}]
    assert [row.feedback_id for row in store.snapshots.rows(SHA, "held_out")] == [ids[1]]
    child = store.snapshots.add("6" * 64, "mixed", {}, _items(ids[0]), parent_sha=SHA)
    assert [snapshot.sha for snapshot, _ in store.snapshots.containing(ids[0])] == [SHA, child.sha]
    assert {snapshot.sha for snapshot in store.snapshots.list()} == {SHA, child.sha}
    for call in (store.snapshots.get, store.snapshots.rows):
        with pytest.raises(NotFound):
            call("7" * 64)
    with pytest.raises(NotFound):
        store.snapshots.add("8" * 64, "mixed", {}, [], parent_sha="7" * 64)
    with pytest.raises(InvalidInput):
        store.snapshots.add("8" * 64, "mixed", {}, [SnapshotItem("0", "test", "sft", {})])


def test_trace_goes_both_ways(store: Store, scene: Scene) -> None:
    ids = [scene.thumb(scene.turn()).id for _ in range(2)]
    store.snapshots.add(SHA, "mixed", {}, _items(*ids, ids[0]))
    version = scene.candidate(snapshot_sha=SHA)
    assert store.versions.feedback_ids(version.id) == ids
    assert store.versions.feedback_counts() == {version.id: 2}
    assert [v.id for v in store.versions.learned_from(ids[0])] == [version.id]
    assert store.versions.learned_from("fb-none") == []
    assert store.versions.erased_counts() == {}
    store.feedback.erase(ids[0], scene.owner.id)
    assert store.versions.erased_counts() == {version.id: 1}
    assert store.versions.feedback_counts() == {version.id: 2}


def test_scores_and_verdicts_come_in_bulk(store: Store, scene: Scene) -> None:
    versions = [scene.candidate(f"v{i}") for i in range(4)]
    for version in versions[:3]:
        store.evaluations.add(
            version.id, scene.base.id, "kl", 10, 0.5, 0.4, float("nan"), "bootstrap", "block", {"x": float("inf")}
        )
        store.gates.add(version.id, scene.base.id, "insufficient", ["collect 60 more votes"])
        store.gates.add(version.id, scene.base.id, "pass", [], e_value=float("inf"))
    ids = [version.id for version in versions]
    with Queries(store) as queries:
        scores, gates = store.evaluations.for_versions(ids), store.gates.latest_for(ids)
    assert len(queries.statements) == 2
    assert [len(scores[id]) for id in ids] == [1, 1, 1, 0]
    score = scores[ids[0]][0]
    assert (score.estimate, score.ci_hi, score.detail) == (0.5, None, {"x": None})
    assert {gate.verdict for gate in gates.values()} == {"pass"}
    assert store.gates.latest(ids[3]) is None
    assert store.gates.get(gates[ids[0]].id).candidate_id == ids[0]
    for bad in (
        lambda: store.evaluations.add(ids[0], None, "kl", 1, None, None, None, "m", "boss"),
        lambda: store.gates.add(ids[0], None, "maybe", []),
        lambda: store.gates.add("ver-none", None, "pass", []),
    ):
        with pytest.raises((InvalidInput, NotFound)):
            bad()
