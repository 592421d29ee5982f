"""A fine-tuning job of the API: from its files to named versions, evaluations and a result file.

Knows OpenAI's names for things; training itself is `train/methods.py`. Imports torch only inside functions.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tutee.conversation import Message
from tutee.data.openai_format import Supervised
from tutee.errors import InvalidInput, NotFound
from tutee.store import Store
from tutee.store.schema import Job, ModelVersion

if TYPE_CHECKING:
    from tutee.evaluate.measure import Material
    from tutee.improve import Workplace
    from tutee.train.progress import Progress

STAGES = ("train", "evaluate", "judge")
FILE_PARAMS = ("training_file", "validation_file")
RESULT_COLUMNS = ("train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")

Examples = Sequence[Any]
"""`Supervised` or `Preference` lines, as the job's method says."""


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
    method, settings = methods.find(job.method), job.config.get("settings", {})
    if "hyperparameters" in job.config:
        asked = resolve(job.method, method, job.config["hyperparameters"], settings, len(examples))
        settings = asked.settings
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
    if version.kind == "full":  # training changed the base's weights in memory
        place = replace(place, model=load_pretrained(place.model.folder, place.settings.dtype, name=place.base.name))
    improve.evaluate(place, version, exam_material(examples, validation))
    improve.judge_version(place, version)
    return version, trained.trained_tokens


def exam_material(examples: Examples, validation: Examples) -> Material:
    """The files' own prompts, those of the validation file first, and their answers as what good ones look like."""
    from tutee.evaluate.measure import Material

    def prompt(example: Any) -> tuple[Message, ...]:
        return example.messages[:-1] if isinstance(example, Supervised) else example.prompt

    def chosen(example: Any) -> str:
        return str(example.messages[-1].content if isinstance(example, Supervised) else example.preferred.content)

    asked = [messages for messages in map(prompt, (*validation, *examples)) if messages and messages[-1].role == "user"]
    return Material(chosen=[chosen(example) for example in examples], prompts=asked)


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
