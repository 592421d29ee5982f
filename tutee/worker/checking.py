"""Between "created" and "queued": the files of a job are read, and every `auto` becomes a number.

Runs in a thread of the worker beside the job that trains, so that whoever made a mistake in line 7 hears of it at once
and not after everybody else's jobs. A file of any size is read with one line in memory. Imports torch only when there
is a job to check. Does not know how a method trains.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, BinaryIO, Self

from tutee.data.training_files import read_reinforcement
from tutee.errors import InvalidInput, NotFound, TuteeError
from tutee.grade import Failure
from tutee.grade.template import Template
from tutee.json_lines import refuse
from tutee.store import Store
from tutee.store.schema import Job

log = logging.getLogger("tutee.worker")

FILE_PARAMS = ("training_file", "validation_file")
FEW_EXAMPLES = 10
"""OpenAI's least; fewer are a warning here."""
HELD_OUT = 10
"""One question in so many is kept for validation when a reinforcement job brings no file for it."""
POLL_SECONDS = 0.5
OF_ITEM = re.compile(r"\{\{\s*item\b[^{}]*\}\}")

Reader = Callable[[BinaryIO, str], Iterator[Any]]


class Checker:
    """The thread that checks files until it is closed, or `stopping` is set."""

    def __init__(self, store: Store, stopping: threading.Event) -> None:
        self._store = store
        self._stopping = stopping
        self._thread = threading.Thread(target=self._run, name="files", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not joined: a file half read is read again by the next worker.
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                busy = check_next(self._store)
            except TuteeError as error:  # the database, most likely; the job is still there
                log.warning("a job's files could not be checked: %s", error.message)
                busy = False
            if not busy:
                self._stopping.wait(POLL_SECONDS)


def check_next(store: Store) -> bool:
    """Check the oldest job that waits for it: queued, or failed with the reason. False when none waits."""
    job = store.jobs.unvalidated()
    if job is None:
        return False
    try:
        store.jobs.validated(job.id, checked_config(store, job))
    except InvalidInput as error:
        code = f"invalid_{error.param}" if error.param in FILE_PARAMS else error.code or "invalid_value"
        store.jobs.fail(job.id, code, error.message, error.param)
    except Exception as error:
        log.exception("%s could not be checked", job.id)
        store.jobs.fail(job.id, "server_error", f"The files could not be checked: {error!r}")
    return True


def checked_config(store: Store, job: Job) -> dict[str, Any]:
    """The job's config with numbers for every `auto`; `asked` keeps what was asked.

    Raises:
        InvalidInput: param `training_file` or `validation_file`, naming the line; or a setting.
    """
    from tutee.evaluate.measure import ExamConfig
    from tutee.train import methods
    from tutee.train.hyperparameters import method_of, resolve
    from tutee.train.options import read_options

    asked: dict[str, Any] = job.config["asked"] if "asked" in job.config else job.config.get("hyperparameters", {})
    examples, validation = (
        0 if file is None else count_lines(store, job, param, file)
        for param, file in zip(FILE_PARAMS, (job.training_file, job.validation_file), strict=True)
    )
    if examples < FEW_EXAMPLES:
        said = (
            f"The training file has {examples} example{'' if examples == 1 else 's'}; with fewer than {FEW_EXAMPLES} "
        )
        store.jobs.event(job.id, "warn", said + "the model may learn them by heart.")
    if job.method == "reinforcement" and job.validation_file is None:
        examples, validation = (len(part) for part in divided(range(examples)))
        shared = "; they are trained on as well, because there are few" if examples < FEW_EXAMPLES else ""
        said = f"There is no validation file: {validation} questions of the training file validate{shared}."
        store.jobs.event(job.id, "warn", said)
    method = methods.find(method_of(job.method, asked))
    resolved = resolve(job.method, method, asked, job.config.get("settings", {}), examples, validation)
    methods.choose(method, resolved.settings, examples, job.seed)
    read_options(ExamConfig, job.config.get("exam", {}), "exam")
    return {**job.config, "asked": dict(asked), "hyperparameters": dict(resolved.hyperparameters)}


def divided(examples: Any) -> tuple[Any, Any]:
    """(training, validation) of questions that come without a validation file: one in ten is held out; of fewer than
    ten, all are for both."""
    if len(examples) < HELD_OUT:
        return examples, examples
    held = [example for i, example in enumerate(examples) if i % HELD_OUT == HELD_OUT - 1]
    return [example for i, example in enumerate(examples) if i % HELD_OUT != HELD_OUT - 1], held


def count_lines(store: Store, job: Job, param: str, file_id: str) -> int:
    """Read a whole file by the job's rules. Raises InvalidInput, naming the line; a file that is gone too."""
    placeholders = placeholders_of(job.config.get("grader"))
    with open_file(store, file_id, param) as stream:
        count = 0
        for row in reader_of(job)(stream, param):
            count += 1
            if placeholders:
                check_placeholders(placeholders, row.item, row.line, param)
    return count


def reader_of(job: Job) -> Reader:
    """What reads the job's files."""
    from tutee.train import methods
    from tutee.train.hyperparameters import method_of

    if job.method == "reinforcement":
        return read_reinforcement
    return methods.find(method_of(job.method, job.config.get("hyperparameters", {}))).read


def open_file(store: Store, file_id: str, param: str) -> BinaryIO:
    """A job's file. Raises InvalidInput: it is gone."""
    try:
        return store.files.open(file_id)
    except NotFound as error:
        raise InvalidInput(error.message, param=param) from error


def check_placeholders(placeholders: Sequence[Template], item: Mapping[str, Any], line: int, param: str) -> None:
    """Refuse a row without a field that the grader looks at."""
    for placeholder in placeholders:
        try:
            placeholder.render({"item": item})
        except Failure as failure:
            refuse(line, f"has nothing for {placeholder.source} in the grader. {failure.message}", param)


def placeholders_of(definition: Any) -> list[Template]:
    """The `{{ item.… }}` of a grader's definition, each once."""
    found: dict[str, Template] = {}
    left = [definition]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            left += [inner for key, inner in value.items() if key != "source"]
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str):
            found |= {text: Template(text, "grader") for text in OF_ITEM.findall(value)}
    return list(found.values())
