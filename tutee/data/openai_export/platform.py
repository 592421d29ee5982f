"""Objects of OpenAI's API, as its SDK prints them, as rows of one person: jobs with their events and checkpoints,
stored completions with what people thought of them, evals with their runs and output items; and the files that they
speak of.

Everything keeps the id that it has, so scripts that name one go on; an id that is here already is counted and left
alone, or refused when it is another person's. What was still running when it was exported is refused: nobody would ever
finish it. Does not know where the objects come from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from tutee.conversation import Function, merge_system_messages, parse_messages
from tutee.data import completion_feedback
from tutee.data.openai_export.authors import author
from tutee.data.openai_export.bundle import Entry
from tutee.data.openai_export.chats import BadRow
from tutee.data.openai_export.report import Report, id_here
from tutee.errors import InvalidInput, NotFound
from tutee.model.tool_format import in_turns
from tutee.store import Store
from tutee.store.answers import STATES
from tutee.store.jobs import ENDED
from tutee.store.schema import (
    Base,
    Completion,
    CompletionTag,
    Eval,
    EvalItem,
    EvalRun,
    Job,
    JobCheckpoint,
    JobEvent,
    now,
)

RUN_ENDED = ("completed", "failed", "canceled")
Json = Mapping[str, Any]


class PlatformRows:
    """Writes the API's objects into the store, each in a transaction of its own."""

    def __init__(self, store: Store, actor_id: str, report: Report) -> None:
        self._store = store
        self._actor_id = actor_id
        self._report = report
        self._kinds: dict[str, tuple[str, Callable[[Session, Json], Base | None]]] = {
            "fine_tuning.job": ("jobs", self._job),
            "fine_tuning.job.event": ("job events", self._event),
            "fine_tuning.job.checkpoint": ("job checkpoints", self._checkpoint),
            "chat.completion": ("stored completions", self._completion),
            "eval": ("evals", self._eval),
            "eval.run": ("eval runs", self._run),
            "eval.run.output_item": ("eval output items", self._item),
        }

    @property
    def order(self) -> list[str]:
        """The values of `object` that are known, owners before what they own."""
        return list(self._kinds)

    def add(self, raw: Json) -> None:
        """One object. Raises BadRow: a field is missing or of the wrong kind, or the id is another person's."""
        what, make = self._kinds[raw["object"]]
        try:
            with self._store.database.write() as session:
                row = make(session, raw)
                if row is not None:
                    session.add(row)
                (self._report.known if row is None else self._report.added)[what] += 1
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what_is = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise BadRow(f"{raw['object']}: {what_is}.") from None
        except IntegrityError:
            raise BadRow(f"{raw['object']}: its id is used by something else here.") from None

    def judge(self, raw: Json) -> None:
        """The opinion in the metadata of a stored completion that is here, as feedback; all completions come before.

        Raises:
            BadRow: an opinion that cannot be read, or on an answer that takes none.
        """
        row = self._store.completions.find(str(raw.get("id")), self._actor_id)
        if row is None:
            return  # it was refused
        try:
            opinion = completion_feedback.read_opinion(row.metadata_)
            count = sum(part is not None for part in asdict(opinion).values())
            given = len(completion_feedback.give(self._store, row, opinion, self._actor_id))
        except (InvalidInput, NotFound) as error:
            raise BadRow(f"{row.id}: what its metadata say of it is not taken: {error.message}") from None
        self._report.added["feedback"] += given
        self._report.known["feedback"] += count - given

    def file(self, entry: Entry, facts: Json, purpose: str) -> str:
        """A file's bytes, under the id that it has or one made of who, name and content; its id."""
        sha = _sha256(entry)
        filename = str(facts.get("filename") or entry.base)
        id = str(facts.get("id") or id_here("file", self._actor_id, f"{filename} {sha}"))
        if self._mine(self._store.files.find(id), id):
            self._report.known["files"] += 1
            return id
        with entry.open() as stream:
            self._store.files.add(stream, filename, purpose, self._actor_id, id=id)
        self._report.added["files"] += 1
        return id

    def _mine(self, row: Any, id: str) -> bool:
        """Whether a row with this id is here already."""
        if row is not None and row.actor_id != self._actor_id:
            raise BadRow(f"{id} belongs to somebody else here.")
        return row is not None

    def _job(self, session: Session, raw: Json) -> Base | None:
        id = _text(raw, "id")
        if self._mine(session.get(Job, id), id):
            return None
        status = _text(raw, "status")
        if status not in ENDED:
            raise ValueError(f"{id} was still {status} when it was exported")
        method = raw.get("method") or {"type": "supervised"}
        config = dict(method.get(method["type"]) or {})
        config.setdefault("hyperparameters", raw.get("hyperparameters") or {})
        return Job(
            id=id,
            actor_id=self._actor_id,
            method=method["type"],
            status=status,
            model=_text(raw, "model"),
            config=config,
            config_sha=hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
            training_file=raw.get("training_file"),
            validation_file=raw.get("validation_file"),
            suffix=raw.get("user_provided_suffix") or raw.get("suffix"),
            seed=int(raw.get("seed") or 0),
            metadata_=dict(raw.get("metadata") or {}),
            fine_tuned_model=raw.get("fine_tuned_model"),
            result_files=list(raw.get("result_files") or []),
            trained_tokens=raw.get("trained_tokens"),
            progress={},
            error=_error(raw),
            created_at=float(raw["created_at"]),
            finished_at=_seconds(raw.get("finished_at")),
        )

    def _event(self, session: Session, raw: Json) -> Base | None:
        id, job = _text(raw, "id"), self._job_of(session, raw)
        if session.scalar(select(JobEvent.seq).where(JobEvent.id == id)) is not None:
            return None
        return JobEvent(
            id=id,
            job_id=job.id,
            type=str(raw.get("type") or "message"),
            level=str(raw.get("level") or "info"),
            message=_text(raw, "message"),
            data=raw.get("data") or None,
            created_at=float(raw["created_at"]),
        )

    def _checkpoint(self, session: Session, raw: Json) -> Base | None:
        id, job = _text(raw, "id"), self._job_of(session, raw)
        if session.get(JobCheckpoint, id) is not None:
            return None
        return JobCheckpoint(
            id=id,
            job_id=job.id,
            step=int(raw["step_number"]),
            path="",  # the weights never leave OpenAI
            metrics=dict(raw.get("metrics") or {}),
            fine_tuned_model_checkpoint=raw.get("fine_tuned_model_checkpoint"),
            created_at=float(raw["created_at"]),
        )

    def _job_of(self, session: Session, raw: Json) -> Job:
        """The job that an event or checkpoint belongs to; events name theirs only where an exporter wrote it down."""
        id = raw.get("fine_tuning_job_id") or raw.get("job_id")
        job = session.get(Job, id) if isinstance(id, str) else None
        if job is None or job.actor_id != self._actor_id:
            raise ValueError(f"there is no job {id!r} here ('fine_tuning_job_id' says whose it is)")
        return job

    def _completion(self, session: Session, raw: Json) -> Base | None:
        id = _text(raw, "id")
        row = session.get(Completion, id)
        if self._mine(row, id) and (row is None or row.samples is not None):
            return None
        messages = raw.get("messages") or raw.get("input")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise ValueError(f"{id} comes without the messages that it answers ('messages')")
        if not raw["choices"]:
            raise ValueError(f"{id} has no choices")
        messages = [{k: v for k, v in message.items() if k != "id" and v is not None} for message in messages]
        samples, turns_sha = _samples(session, raw, messages)
        if row is not None:  # it came when samples were not kept yet
            row.samples, row.turns_sha = samples, turns_sha
            return None
        metadata = {str(key): str(value) for key, value in (raw.get("metadata") or {}).items()}
        row = Completion(
            id=id,
            actor_id=self._actor_id,
            model=_text(raw, "model"),
            messages=messages,
            response={key: value for key, value in raw.items() if key not in ("messages", "input")},
            metadata_=metadata,
            samples=samples,
            turns_sha=turns_sha,
            created_at=float(raw["created"]),
        )
        session.add(row)
        session.flush()
        session.add_all(CompletionTag(completion_id=id, key=key, value=value) for key, value in metadata.items())
        return row

    def _eval(self, session: Session, raw: Json) -> Base | None:
        id = _text(raw, "id")
        if self._mine(session.get(Eval, id), id):
            return None
        created = float(raw["created_at"])
        return Eval(
            id=id,
            actor_id=self._actor_id,
            name=str(raw.get("name") or id),
            data_source_config=dict(raw["data_source_config"]),
            testing_criteria=[dict(criterion) for criterion in raw["testing_criteria"]],
            metadata_=dict(raw.get("metadata") or {}),
            created_at=created,
            updated_at=created,
        )

    def _run(self, session: Session, raw: Json) -> Base | None:
        id = _text(raw, "id")
        if self._mine(session.get(EvalRun, id), id):
            return None
        owner = session.get(Eval, _text(raw, "eval_id"))
        if owner is None or owner.actor_id != self._actor_id:
            raise ValueError(f"there is no eval {raw['eval_id']!r} here")
        if raw["status"] not in RUN_ENDED:
            raise ValueError(f"{id} was still {raw['status']} when it was exported")
        counts, source = raw.get("result_counts") or {}, dict(raw["data_source"])
        criteria = raw.get("per_testing_criteria_results") or []
        return EvalRun(
            id=id,
            eval_id=owner.id,
            actor_id=self._actor_id,
            runner="server",
            name=str(raw.get("name") or id),
            status=raw["status"],
            model=raw.get("model"),
            data_source=source,
            data_sha=hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest(),
            metadata_=dict(raw.get("metadata") or {}),
            error=_error(raw),
            passed=int(counts.get("passed", 0)),
            failed=int(counts.get("failed", 0)),
            errored=int(counts.get("errored", 0)),
            criteria={row["testing_criteria"]: [row["passed"], row["failed"]] for row in criteria},
            usage={},
            created_at=float(raw["created_at"]),
            finished_at=float(raw["created_at"]),
        )

    def _item(self, session: Session, raw: Json) -> Base | None:
        id, run = _text(raw, "id"), session.get(EvalRun, _text(raw, "run_id"))
        if run is None or run.actor_id != self._actor_id:
            raise ValueError(f"there is no run {raw['run_id']!r} here")
        position = int(raw["datasource_item_id"])
        if session.get(EvalItem, (run.id, position)) is not None:
            return None
        status = str(raw.get("status"))
        return EvalItem(
            run_id=run.id,
            position=position,
            id=id,
            status=status if status in ("pass", "fail") else "error",
            item=dict(raw["datasource_item"]),
            sample=dict(raw.get("sample") or {}),
            results=[dict(result) for result in raw.get("results") or []],
            created_at=float(raw.get("created_at") or now()),
        )


def _samples(session: Session, raw: Json, messages: list[dict[str, Any]]) -> tuple[dict[str, Any] | None, str | None]:
    """What feedback on a completion needs: its answers as text, for nobody here sampled them. (None, None) for one that
    no model here could have been asked (images, audio)."""
    try:
        asked = merge_system_messages(parse_messages(messages))
        functions = [_function(tool["function"]) for tool in raw.get("tools") or () if tool["type"] == "function"]
        version = author(session, _text(raw, "model"))
        made = {"version_id": version.id, "prompt_ids": [], "weights_sha256": version.weights_sha256}
        made |= {"tokenizer_sha256": "", "template_sha256": ""}
        choices = [_choice(choice) for choice in raw["choices"]]
    except InvalidInput:
        return None, None
    return completion_feedback.samples_of(asked, functions, made, choices)


def _function(raw: Json) -> Function:
    return Function(_text(raw, "name"), raw.get("description") or "", raw.get("parameters") or {})


def _choice(raw: Json) -> dict[str, Any]:
    message = {name: raw["message"].get(name) for name in ("content", "tool_calls")}
    if message["content"] is None:
        message["content"] = raw["message"].get("refusal") or ""
    (said,) = in_turns(parse_messages([{"role": "assistant", **message}]), ())
    finish = raw.get("finish_reason")
    finish = finish if finish in STATES else "stop"
    return {"text": said.content, "token_ids": [], "logprobs": [], "finish_reason": finish, "sampling": {}}


def _text(raw: Json, name: str) -> str:
    value = raw[name]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name!r} is {value!r:.40}, not a text")
    return value


def _seconds(value: Any) -> float | None:
    return None if value is None else float(value)


def _error(raw: Json) -> dict[str, Any] | None:
    error = raw.get("error")
    return dict(error) if isinstance(error, Mapping) and error.get("message") else None


def _sha256(entry: Entry) -> str:
    digest = hashlib.sha256()
    with entry.open() as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
