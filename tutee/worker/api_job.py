"""A job that trains on files, from the API or from `tutee train`: to named versions, evaluations and a result file.

Knows OpenAI's names for things; training itself is `train/methods.py`. Imports torch only inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutee.conversation import Message
from tutee.data.openai_format import Preference, Supervised
from tutee.data.training_files import Asked, Thumb
from tutee.errors import InvalidInput, NotFound
from tutee.store import Store
from tutee.store.schema import Job, ModelVersion
from tutee.worker import wandb_run
from tutee.worker.checking import FILE_PARAMS, divided, open_file, reader_of
from tutee.worker.curves import in_openai_words, result_table

if TYPE_CHECKING:
    from tutee.evaluate.measure import Material
    from tutee.improve import Workplace
    from tutee.model.lora import Lora
    from tutee.model.pretrained import Pretrained
    from tutee.settings import Settings
    from tutee.train.methods import Method
    from tutee.train.progress import Progress

VERSION_SETTINGS = ("reward_model", "teacher")
"""Settings that name a folder, or a version of this home."""

Examples = Sequence[Any]
"""Rows of the job's method: `Supervised`, `Preference`, `Thumb`, `Ranking` or `Asked`."""


def stages_of(job: Job) -> tuple[str, ...]:
    """What the job goes through, in order."""
    method = method_of_job(job)
    return method.stages if method.result == "reward" else (*method.stages, "evaluate", "judge")


def method_of_job(job: Job) -> Method:
    """The trainer's method behind the job's, which may have OpenAI's name."""
    from tutee.train import methods
    from tutee.train.hyperparameters import method_of

    return methods.find(method_of(job.method, job.config.get("hyperparameters", {})))


def read_examples(store: Store, job: Job) -> tuple[Examples, Examples] | None:
    """The training and validation examples of an API job; None for `improve`, which reads feedback instead.

    Raises:
        InvalidInput: param `training_file` or `validation_file`, naming the line.
    """
    if job.method == "improve":
        return None
    read = reader_of(job)
    found: list[Examples] = []
    for param, file_id in zip(FILE_PARAMS, (job.training_file, job.validation_file), strict=True):
        if file_id is None:
            found.append([])
            continue
        with open_file(store, file_id, param) as stream:
            found.append(list(read(stream, param)))
    if job.method == "reinforcement" and job.validation_file is None:
        return divided(found[0])
    return found[0], found[1]


def open_start(settings: Settings, store: Store, name: str) -> tuple[ModelVersion, Pretrained, Lora | None]:
    """What a job starts from: the version that owns the weights, the weights, and the adapter over them that training
    goes on from, when `name` is one.

    Raises:
        InvalidInput: param `model`; see `improve.open_base`. Or the version is a reward model.
    """
    from tutee import improve
    from tutee.model.lora import Lora
    from tutee.model.pretrained import load_pretrained
    from tutee.train.reward_model import ABOUT

    try:
        version = store.versions.get(name)
    except NotFound:
        return *improve.open_base(settings, store, name), None
    folder = settings.home / version.folder
    if (folder / ABOUT).is_file():
        raise InvalidInput(f"'{name}' is a reward model: it writes nothing that could be tuned.", param="model")
    root = version
    while root.kind == "adapter" and root.parent_id is not None:
        root = store.versions.get(root.parent_id)
    improve.need_weights(root)
    model = load_pretrained(settings.home / root.folder, settings.dtype, name=root.name)
    start = None
    if version.kind == "adapter":
        start = Lora.load(folder, model.config, model.weights_sha256)
    return root, model, start


def run_api_job(
    place: Workplace, examples: Examples, validation: Examples, start: Lora | None = None
) -> tuple[ModelVersion, int]:
    """An API job: examples → adapter → versions, one a checkpoint → evaluations. Also counts the tokens trained on."""
    from tutee import improve
    from tutee.model.pretrained import load_pretrained
    from tutee.train import methods
    from tutee.worker.grading import grading

    job, store = place.job, place.store
    method, settings = method_of_job(job), settings_of(place, len(examples), len(validation), start)
    chosen = methods.choose(method, settings, len(examples), job.seed)
    if job.attempts <= 1:
        store.jobs.event(job.id, "info", methods.describe(method, chosen, len(examples)))

    def report(progress: Progress) -> None:
        place.report(progress)
        if progress.step < progress.total:
            register_checkpoints(place, progress.step)

    with ExitStack() as open_parts:
        terms = [open_parts.enter_context(grading(place, job))] if "grader" in job.config else []
        trained = methods.run(
            method,
            place.model,
            examples,
            settings,
            place.folder,
            validation=validation,
            seed=job.seed,
            report=report,
            terms=terms,
            start=start,
        )
    for note in trained.notes:
        store.jobs.event(job.id, "warn", note)
    version = register_checkpoints(place, trained.steps, finished=True)[-1]
    if method.result == "reward":
        why = "A reward model: it judges answers and writes none."
        return store.versions.set_state(version.id, "archived", why=why), trained.trained_tokens
    if version.kind == "full":  # training changed the base's weights in memory
        place = replace(place, model=load_pretrained(place.model.folder, place.settings.dtype, name=place.base.name))
    improve.evaluate(place, version, exam_material(examples, validation))
    improve.judge_version(place, version)
    return version, trained.trained_tokens


def settings_of(place: Workplace, examples: int, validation: int, start: Lora | None) -> dict[str, Any]:
    """The trainer's settings; what each hyperparameter came to be is written back into the job.

    Raises:
        InvalidInput: a setting that does not exist or fit.
    """
    from tutee.train.hyperparameters import resolve

    job, config = place.job, place.job.config
    settings = with_folders(place, config.get("settings", {}))
    if start is not None:
        if {"rank", "alpha", "full"} & settings.keys():
            message = f"'{job.model}' is an adapter: training goes on with its own rank, alpha and kind."
            raise InvalidInput(message, param="settings.rank", code="inapplicable_parameter")
        settings |= {"rank": start.config.rank, "alpha": start.config.alpha}
    if "grader" in config:
        settings = {"match": "none", **settings}
    if "hyperparameters" in config:
        asked = config["asked"] if "asked" in config else config["hyperparameters"]
        resolved = resolve(job.method, method_of_job(job), asked, settings, examples, validation)
        settings = dict(resolved.settings)
        found = {"asked": asked, "hyperparameters": dict(resolved.hyperparameters)}
        place.store.jobs.set_config(job.id, {**config, **found})
    return settings


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
        card = {"kind": "reward_model"} if method_of_job(job).result == "reward" else {}
        version = improve.register(place, folder, name=name, card=card, parent_id=parent_of(place))
        if not is_result and version.state == "candidate":
            version = place.store.versions.set_state(version.id, "archived", why="A checkpoint on the way.")
        if saved not in listed:
            at_step = {key: dict(values).get(saved) for key, values in jobs.metrics(job.id).items()}
            metrics = in_openai_words(job.method, at_step)
            jobs.checkpoint(job.id, saved, version.folder, metrics, version.name)
            jobs.event(job.id, "info", f"Checkpoint created at step {saved}: {version.name}.")
        versions.append(version)
    return versions


def parent_of(place: Workplace) -> str:
    """Id of the version that training went on from: an adapter, or the owner of the weights."""
    started = next((version for version in place.store.versions.list() if version.name == place.job.model), place.base)
    return started.id if started.kind == "adapter" else place.base.id


def write_wandb_run(store: Store, job: Job, folder: Path) -> None:
    """The job's curves for Weights & Biases, if it asked for that. A run that cannot be written fails no job."""
    asked = wandb_run.asked_for(job)
    if asked is None:
        return
    try:
        wandb_run.write(job, asked, store.jobs.metrics(job.id), folder)
    except Exception as error:
        store.jobs.event(job.id, "warn", f"The run for Weights & Biases could not be written: {error}")
    else:
        at = f"jobs/{job.id}/{wandb_run.FOLDER}"
        store.jobs.event(job.id, "info", f"The run for Weights & Biases is in {at}; `wandb sync` sends it.")


def write_result_file(store: Store, job: Job) -> str:
    """The job's metrics as the CSV file that OpenAI's clients download; written once, returns its id."""
    filename = f"{job.id}-metrics.csv"
    known = next((f for f in store.files.list(purpose="fine-tune-results", limit=100) if f.filename == filename), None)
    if known is not None:
        return known.id
    text = result_table(job.method, store.jobs.metrics(job.id))
    return store.files.add(text.encode(), filename, "fine-tune-results", job.actor_id).id
