"""A job that trains on files, from the API or from `tutee train`: to named versions, evaluations and a result file.

Knows OpenAI's names for things; training itself is `train/methods.py`. Imports torch only inside functions.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tutee.conversation import Message
from tutee.data.openai_format import Preference, Supervised
from tutee.data.training_files import Asked, Thumb
from tutee.errors import InvalidInput, NotFound
from tutee.store import Store
from tutee.store.schema import Job, ModelVersion

if TYPE_CHECKING:
    from tutee.evaluate.measure import Material
    from tutee.improve import Workplace
    from tutee.train.progress import Progress

FILE_PARAMS = ("training_file", "validation_file")
VERSION_SETTINGS = ("reward_model", "teacher")
"""Settings that name a folder, or a version of this home."""
RESULT_COLUMNS = ("train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")

Examples = Sequence[Any]
"""Rows of the job's method: `Supervised`, `Preference`, `Thumb`, `Ranking` or `Asked`."""


def stages_of(job: Job) -> tuple[str, ...]:
    """What the job goes through, in order."""
    from tutee.train import methods

    method = methods.find(job.method)
    return method.stages if method.result == "reward" else (*method.stages, "evaluate", "judge")


def read_examples(store: Store, job: Job) -> tuple[Examples, Examples] | None:
    """The training and validation examples of an API job; None for `improve`, which reads feedback instead.

    Raises:
        InvalidInput: param `training_file` or `validation_file`, naming the line.
    """
    if job.method == "improve":
        return None
    from tutee.train import methods

    read = methods.find(job.method).read
    found: list[Examples] = []
    for param, file_id in zip(FILE_PARAMS, (job.training_file, job.validation_file), strict=True):
        if file_id is None:
            found.append([])
            continue
        try:
            with store.files.open(file_id) as stream:
                found.append(list(read(stream, param)))
        except NotFound as error:
            raise InvalidInput(error.message, param=param) from error
    return found[0], found[1]


def run_api_job(place: Workplace, examples: Examples, validation: Examples) -> tuple[ModelVersion, int]:
    """An API job: examples → adapter → versions, one a checkpoint → evaluations. Also counts the tokens trained on."""
    from tutee import improve
    from tutee.model.pretrained import load_pretrained
    from tutee.train import methods
    from tutee.train.hyperparameters import resolve

    job, store = place.job, place.store
    method, settings = methods.find(job.method), with_folders(place, job.config.get("settings", {}))
    if "hyperparameters" in job.config:
        asked = resolve(job.method, method, job.config["hyperparameters"], settings, len(examples))
        settings = dict(asked.settings)
        store.jobs.set_config(job.id, {**job.config, "hyperparameters": dict(asked.hyperparameters)})
    chosen = methods.choose(method, settings, len(examples), job.seed)
    if job.attempts <= 1:
        store.jobs.event(job.id, "info", methods.describe(method, chosen, len(examples)))

    def report(progress: Progress) -> None:
        place.report(progress)
        if progress.step < progress.total:
            register_checkpoints(place, progress.step)

    trained = methods.run(
        method, place.model, examples, settings, place.folder, validation=validation, seed=job.seed, report=report
    )
    for note in trained.notes:
        store.jobs.event(job.id, "warn", note)
    version = register_checkpoints(place, trained.steps, finished=True)[-1]
    if method.result == "reward":
        why = "A reward model: it judges answers and writes none."
        return place.store.versions.set_state(version.id, "archived", why=why), trained.trained_tokens
    if version.kind == "full":  # training changed the base's weights in memory
        place = replace(place, model=load_pretrained(place.model.folder, place.settings.dtype, name=place.base.name))
    improve.evaluate(place, version, exam_material(examples, validation))
    improve.judge_version(place, version)
    return version, trained.trained_tokens


def exam_material(examples: Examples, validation: Examples) -> Material:
    """The files' own prompts, those of the validation file first, and their answers as what good ones look like."""
    from tutee.evaluate.measure import Material

    asked = [
        messages
        for messages in map(prompt_of, (*validation, *examples))
        if messages[-1:] and messages[-1].role == "user"
    ]
    good = [answer for answer in map(good_answer, examples) if answer is not None]
    return Material(chosen=good, prompts=asked)


def prompt_of(example: Any) -> tuple[Message, ...]:
    """What was asked in a row of any method."""
    if isinstance(example, Supervised):
        return example.messages[:-1]
    prompt: tuple[Message, ...] = example.messages if isinstance(example, Asked) else example.prompt
    return prompt


def good_answer(example: Any) -> str | None:
    """An answer that the row calls good, if it has one."""
    if isinstance(example, Supervised):
        return example.messages[-1].content
    if isinstance(example, Preference):
        return example.preferred.content
    return example.answer.content if isinstance(example, Thumb) and example.liked else None


def with_folders(place: Workplace, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with versions of this home as the folders where they are."""
    names = {version.name: place.home / version.folder for version in place.store.versions.list()}
    return {key: str(names.get(value, value)) if key in VERSION_SETTINGS else value for key, value in settings.items()}


def register_checkpoints(place: Workplace, step: int, finished: bool = False) -> list[ModelVersion]:
    """Make each checkpoint up to `step` (`versions/step-000010` in the job's folder) a version with a name of its own.

    With `finished` the last one is the job's result and a candidate; the others are kept in the archive.
    """
    from tutee import improve

    job, jobs = place.job, place.store.jobs
    result_name = f"ft:{place.base.name}:tutee:{job.suffix or ''}:{job.id[-8:]}"
    listed = {checkpoint.step for checkpoint in jobs.checkpoints(job.id, limit=100)}
    versions = []
    for folder in sorted((place.folder / "versions").glob("step-*")):
        saved = int(folder.name.removeprefix("step-"))
        if saved > step or (saved in listed and not finished):
            continue
        is_result = finished and saved == step
        name = result_name if is_result else f"{result_name}:ckpt-step-{saved}"
        version = improve.register(place, folder, name=name)
        if not is_result and version.state == "candidate":
            version = place.store.versions.set_state(version.id, "archived", why="A checkpoint on the way.")
        if saved not in listed:
            at_step = {key: dict(values).get(saved) for key, values in jobs.metrics(job.id).items()}
            metrics = {key: value for key, value in at_step.items() if value is not None}
            jobs.checkpoint(job.id, saved, version.folder, metrics, version.name)
        versions.append(version)
    return versions


def write_result_file(store: Store, job: Job) -> str:
    """The job's metrics as the CSV file that OpenAI's clients download; written once, returns its id."""
    filename = f"{job.id}-metrics.csv"
    known = next((f for f in store.files.list(purpose="fine-tune-results", limit=100) if f.filename == filename), None)
    if known is not None:
        return known.id
    series = {name: dict(values) for name, values in store.jobs.metrics(job.id).items()}
    columns = [*RESULT_COLUMNS, *sorted(set(series) - set(RESULT_COLUMNS))]
    steps = sorted({step for values in series.values() for step in values})
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["step", *columns])
    table.writerows([step, *(series.get(column, {}).get(step) for column in columns)] for step in steps)
    return store.files.add(text.getvalue().encode(), filename, "fine-tune-results", job.actor_id).id
