"""The circle, one function a step: collect → freeze → train → register → evaluate → judge.

    chat ─▶ feedback ─▶ snapshot ─▶ training job ─▶ model version ─▶ evaluations ─▶ gate ─▶ promotion ─▶ chat

Every step looks first for what it has already done, in the store or in the job's folder, and goes on from there: a
worker killed at any moment is replaced by another that ends with the same snapshot, the same number of training steps
and one version. Versions are always trained from the base on all live feedback, never on top of each other, so that
lineage is one level deep and leaving a row out is exact. Nothing here promotes: a person does.

Does not know where jobs come from or who watches (`worker/`), nor how training works (`train/`).
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tutee.data.from_feedback import collect
from tutee.data.snapshot import Snapshot, freeze, load
from tutee.data.taken_back import taken_back
from tutee.engine.engine import Engine
from tutee.errors import InvalidInput, NotFound
from tutee.evaluate.gate import Score, judge
from tutee.evaluate.measure import ExamConfig, Material, Tick, chosen_texts, measure
from tutee.evaluate.subject import Subject
from tutee.model.library import pull
from tutee.model.lora import Lora
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.model.weights import weights_sha256
from tutee.settings import Settings
from tutee.store import Store
from tutee.store.schema import Job, ModelVersion
from tutee.train.checkpoint import write_json
from tutee.train.options import read_options
from tutee.train.progress import Progress, Report
from tutee.train.recipe import STAGES as RECIPE_STAGES
from tutee.train.recipe import RecipeResult, learned_reward, read_config, run_recipe

STAGES = ("collect", *RECIPE_STAGES, "evaluate", "judge")


@dataclass(frozen=True, slots=True)
class Workplace:
    """What every step needs: the store, the base model, the job and its folder, and somebody to tell."""

    settings: Settings
    store: Store
    base: ModelVersion
    model: Pretrained
    job: Job
    report: Report

    @property
    def home(self) -> Path:
        return self.settings.home

    @property
    def folder(self) -> Path:
        """Stage files and checkpoints of this job."""
        return self.home / "jobs" / self.job.id


def improve(place: Workplace) -> tuple[ModelVersion, int]:
    """One turn: from all feedback that may be learned from to a judged candidate. Also counts the tokens trained on."""
    snapshot = freeze_feedback(place)
    trained = train_on(place, snapshot)
    while taken_back(place.store, snapshot.sha):
        snapshot = freeze_feedback(place)
        trained = train_on(place, snapshot)
    card = {"metrics": dict(trained.metrics), "notes": list(trained.notes), "steps": trained.steps}
    version = register(place, trained.folder, name=version_name(place), card=card)
    evaluate(place, version, exam_material(place, snapshot))
    judge_version(place, version)
    if taken_back(place.store, snapshot.sha):
        reject_made(place)
    return version, trained.trained_tokens


def freeze_feedback(place: Workplace) -> Snapshot:
    """Collect all live, consented feedback into a content-hashed snapshot; a job keeps the one it began with.

    Feedback that was taken back since then must not be learned from, so the job then begins again without it.
    """
    place.report(Progress("collect", 0, 1))
    job = place.store.jobs.get(place.job.id)
    snapshot = load(place.store, job.snapshot_sha) if job.snapshot_sha is not None else None
    if snapshot is not None and taken_back(place.store, snapshot.sha):
        shutil.rmtree(place.folder, ignore_errors=True)
        said = "Feedback was erased, or consent withdrawn, meanwhile; the job begins again without it."
        place.store.jobs.event(job.id, "warn", said)
        reject_made(place)
        snapshot = None
    if snapshot is None:
        live = place.store.versions.live()
        snapshot = freeze(place.store, collect(place.store, live.id), parent=live.snapshot_sha)
        place.store.jobs.set_snapshot(job.id, snapshot.sha)
        kinds = ", ".join(f"{snapshot.counts.get(kind, 0)} {kind}" for kind in ("compare", "edit", "demo", "thumb"))
        held_out = len(snapshot.of("held_out"))
        said = f"Snapshot {snapshot.sha[:12]}: {len(snapshot.rows)} rows ({kinds}), {held_out} held out."
        place.store.jobs.event(job.id, "info", said)
    place.report(Progress("collect", 1, 1))
    return snapshot


def reject_made(place: Workplace) -> None:
    """Reject the candidates that this job has made: what they learned from was taken back."""
    for version in place.store.versions.list(state="candidate"):
        if version.job_id == place.job.id:
            why = "Feedback that it learned from was taken back while it was made."
            place.store.versions.set_state(version.id, "rejected", why=why)
            place.store.jobs.event(place.job.id, "warn", f"{version.name} is rejected. {why} Improve again.")


def train_on(place: Workplace, snapshot: Snapshot) -> RecipeResult:
    """Train an adapter from the base on the snapshot's training rows."""
    config = read_config(place.job.config.get("settings", {}))
    if "seed" not in place.job.config.get("settings", {}):
        config = replace(config, seed=place.job.seed)
    prompts = [prompt.messages for prompt in snapshot.prompts if prompt.split == "train"]
    trained = run_recipe(place.model, snapshot.of("train"), prompts, config, place.folder, report=place.report)
    for note in trained.notes:
        place.store.jobs.event(place.job.id, "info", note)
    return trained


def register(
    place: Workplace, trained: Path, *, name: str, card: Mapping[str, Any] | None = None, parent_id: str | None = None
) -> ModelVersion:
    """Copy trained weights to `home/versions` and make them a candidate; the same job, folder and snapshot make one
    version.

    Args:
        parent_id: the version that training went on from, so that leaving its data out takes this one along; the base
            when None.
    """
    snapshot = place.store.jobs.get(place.job.id).snapshot_sha
    folder = Path("versions") / "-".join([place.job.id, trained.name, *([snapshot[:12]] if snapshot else [])])
    known = next((v for v in place.store.versions.list() if v.folder == folder.as_posix()), None)
    if known is not None:
        return known
    _copy_whole(trained, place.home / folder)
    return place.store.versions.add(
        name,
        "adapter" if (trained / "adapter_config.json").exists() else "full",
        weights_sha256=weights_sha256(place.home / folder),
        folder=folder.as_posix(),
        parent_id=parent_id or place.base.id,
        job_id=place.job.id,
        snapshot_sha=snapshot,
        card=dict(card or {}),
    )


def version_name(place: Workplace) -> str:
    """The name of an improved version: the job's suffix if it is still free, else `v` and its number."""
    versions = place.store.versions.list()
    snapshot = place.store.jobs.get(place.job.id).snapshot_sha
    mine = next((v.name for v in versions if v.job_id == place.job.id and v.snapshot_sha == snapshot), None)
    if mine is not None:
        return mine
    taken = {version.name for version in versions}
    number = max((version.number for version in versions), default=-1) + 1
    wanted = place.job.suffix or f"v{number}"
    return wanted if wanted not in taken else f"{wanted}-{number}"


def exam_material(place: Workplace, snapshot: Snapshot) -> Material:
    """What the candidate is examined with: held-out rows, the users' prompts (held out first), the learned reward."""
    prompts = sorted(snapshot.prompts, key=lambda prompt: prompt.split != "held_out")
    return Material(
        chosen=chosen_texts(snapshot.of("train")),
        held_out=snapshot.of("held_out"),
        prompts=[prompt.messages for prompt in prompts],
        reward=learned_reward(place.folder),
    )


def evaluate(place: Workplace, version: ModelVersion, material: Material) -> None:
    """Examine the candidate against the live version and write the scores down, once."""
    live = place.store.versions.live()
    if live.id == version.id:
        return
    if base_of(place.store, live).id != place.base.id:
        said = f"{version.name} and the live version {live.name} have different bases, so they were not compared."
        place.store.jobs.event(place.job.id, "warn", said)
        return
    scores = _examine(place, version, live, material)
    written = {row.suite for row in place.store.evaluations.list(version.id) if row.baseline_id == live.id}
    for score in scores:
        if score.suite not in written:
            lo, hi = (value if math.isfinite(value) else None for value in (score.ci_lo, score.ci_hi))
            estimate = score.estimate if math.isfinite(score.estimate) else None
            place.store.evaluations.add(
                version.id,
                live.id,
                score.suite,
                score.n,
                estimate,
                lo,
                hi,
                score.method,
                score.role,
                dict(score.detail),
            )


def judge_version(place: Workplace, version: ModelVersion) -> None:
    """The gate's first word on the candidate, unless somebody promoted it already; votes will change it."""
    place.report(Progress("judge", 0, 1))
    if place.store.versions.live().id != version.id:
        gate = judge(place.store, version.id)
        place.store.jobs.event(place.job.id, "info", f"Gate: {gate.verdict}. {' '.join(gate.reasons)}")
    place.report(Progress("judge", 1, 1))


def open_base(settings: Settings, store: Store, name: str) -> tuple[ModelVersion, Pretrained]:
    """The base model behind a version's name (or behind `chat`), loaded; fetched first if it is the default and absent.

    Raises:
        InvalidInput: param `model`, no version or base of that name, or one whose weights another server holds.
    """
    try:
        version = store.versions.get(name)
    except NotFound as error:
        if name not in ("chat", settings.model):
            raise InvalidInput(f"The model '{name}' does not exist.", param="model", code="model_not_found") from error
        model = load_pretrained(pull(settings.model, settings.home / "models"), settings.dtype)
        return store.versions.ensure_base(model.name, model.weights_sha256, str(model.folder)), model
    base = base_of(store, version)
    need_weights(base)
    return base, load_pretrained(settings.home / base.folder, settings.dtype, name=base.name)


def need_weights(base: ModelVersion) -> None:
    """Raise InvalidInput (code `upstream_cannot`) for a base whose weights another server holds."""
    if base.kind == "upstream":
        message = f"'{base.name}' cannot be trained here: another server holds its weights and gives no token ids."
        raise InvalidInput(message, param="model", code="upstream_cannot")


def base_of(store: Store, version: ModelVersion) -> ModelVersion:
    """The base that a version was trained from, itself for a base."""
    while version.parent_id is not None:
        version = store.versions.get(version.parent_id)
    return version


def _examine(place: Workplace, version: ModelVersion, live: ModelVersion, material: Material) -> Sequence[Score]:
    kept = place.folder / f"exam-{version.id}-{live.id}.json"
    if kept.exists():
        return [Score(**raw) for raw in json.loads(kept.read_text(encoding="utf-8"))]
    config = read_options(ExamConfig, place.job.config.get("exam", {}), "exam")
    with ExitStack() as engines:
        base = Subject(place.model, _engine(place, place.model, engines))
        candidate = _subject(place, version, base, engines)
        opponent = _subject(place, live, base, engines)
        scores = measure(candidate, opponent, base, material, config, _tick(place.report))
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, [asdict(score) for score in scores])
    return scores


def _subject(place: Workplace, version: ModelVersion, base: Subject, engines: ExitStack) -> Subject:
    if version.id == place.base.id:
        return base
    folder = place.home / version.folder
    if version.kind == "adapter":
        lora = Lora.load(folder, place.model.config, place.model.weights_sha256)
        base.engine.add_version(version.id, lora)
        return Subject(place.model, base.engine, version.id)
    model = load_pretrained(folder, place.settings.dtype, name=version.name)
    return Subject(model, _engine(place, model, engines, alone=True))


def _engine(place: Workplace, model: Pretrained, engines: ExitStack, alone: bool = False) -> Engine:
    settings = place.settings
    engine = Engine(
        model, max_batch=settings.max_batch, cache_tokens=settings.cache_tokens, version=model.name, alone=alone
    )
    engines.callback(engine.close)
    return engine


def _tick(report: Report) -> Tick:
    return lambda part, done, total: report(Progress("evaluate", done, total, health=f"Examining: {part}."))


def _copy_whole(source: Path, target: Path) -> None:
    """Copy a folder so that `target` is complete or absent."""
    if target.exists():
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    os.replace(temporary, target)
