"""Works through eval runs: every row asked of the model it names, graded and written down, a few rows at a time.

A queue of the server's own: what a run asks goes through the routes that everybody uses, behind people who wait. A run
is rows in the database from its first moment, and each graded row is saved before the next begins, so a killed server
goes on where it was; a row whose answer was lost is asked again. Also lets the gate's evals meet new candidates.

Does not know how criteria grade (`evaluate/criteria.py`) nor how data is read (`evaluate/eval_data.py`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from tutee.errors import Busy, NotFound, TuteeError
from tutee.evaluate.criteria import Criterion, grade_row, read_criteria
from tutee.evaluate.eval_data import DataRow, DataSource, read_data_source, rows, schema_of
from tutee.grade import Failure, Sample, Tools
from tutee.serve.access.auth import Caller, Doorkeeper
from tutee.serve.evals.sampling import sampling_body
from tutee.serve.evals.stored import StoredRows, as_chat
from tutee.serve.graders.judges import CHAT, Judges
from tutee.serve.own_requests import OwnRequests, Stopping
from tutee.store import Store
from tutee.store.evals import GradedRow
from tutee.store.schema import EvalRun

log = logging.getLogger("tutee.serve")

RUNS_AT_ONCE = 2
ROWS_AT_ONCE = 8
PRIORITY = 10
"""Behind everybody who waits."""
LOOK_S = 1.0
ANSWER_S = 600.0
BUSY_S = 1.0
NO_ERROR = {"code": "", "message": ""}
Finished = Callable[[EvalRun], None]


class Cancelled(Exception):
    """Somebody wants the run to end."""


@dataclass(frozen=True, slots=True)
class Work:
    """What every row of a run needs."""

    run: EvalRun
    source: DataSource
    criteria: Sequence[Criterion]
    wrong: Callable[[Mapping[str, Any]], str | None]
    caller: Caller
    tools: Tools


class EvalRunner:
    """The threads that work. `wake` when there is a new run.

    Args:
        finished: told of every run that has ended, from a thread of this class.
        between: done whenever there is nothing else to do, about once a second.
    """

    def __init__(
        self,
        store: Store,
        doorkeeper: Doorkeeper,
        own_requests: OwnRequests,
        judges: Judges,
        *,
        finished: Sequence[Finished] = (),
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._doorkeeper = doorkeeper
        self._own_requests = own_requests
        self._judges = judges
        self._stored = StoredRows(store)
        self._finished = finished
        self._between = between
        self._wake = threading.Condition()
        self._closing = threading.Event()
        self._running: set[str] = set()
        self._started = False
        self._threads = [
            threading.Thread(target=self._loop, name=f"evals-{i}", args=(i == 0,), daemon=True)
            for i in range(RUNS_AT_ONCE)
        ]

    def start(self) -> None:
        """Begin, with the runs that an earlier server left; starting again changes nothing."""
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()

    def wake(self) -> None:
        """There may be a new run."""
        with self._wake:
            self._wake.notify_all()

    def close(self) -> None:
        """Stop; what runs is taken up again by the next server."""
        self._closing.set()
        self._own_requests.stop()
        self.wake()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(10)

    def _loop(self, first: bool) -> None:
        while not self._closing.is_set():
            try:
                run = self._take()
                if run is not None:
                    self._work(run)
                    continue
                if first:
                    self._between()
            except Exception:  # the database is away, among others; the run is still there
                log.exception("evals cannot go on; trying again")
            with self._wake:
                self._wake.wait(LOOK_S)

    def _take(self) -> EvalRun | None:
        with self._wake:
            run = self._store.eval_runs.next(but=self._running)
            if run is not None:
                self._running.add(run.id)
            return run

    def _work(self, run: EvalRun) -> None:
        try:
            self._execute(run)
        except Stopping:
            return
        except TuteeError as error:
            self._store.eval_runs.finish(run.id, "failed", {"code": error.code or error.type, "message": error.message})
        except Exception:
            log.exception("eval run %s failed", run.id)
            said = {"code": "server_error", "message": "The server had an error while it ran this eval."}
            self._store.eval_runs.finish(run.id, "failed", said)
        finally:
            with self._wake:
                self._running.discard(run.id)
        for tell in self._finished:
            try:
                tell(self._store.eval_runs.get(run.id))
            except NotFound:
                return
            except Exception:
                log.exception("after eval run %s", run.id)

    def _execute(self, run: EvalRun) -> None:
        definition = self._store.evals.get(run.eval_id)
        source = read_data_source(run.data_source)
        caller = self._doorkeeper.on_behalf(run.actor_id, PRIORITY)
        schema = definition.data_source_config.get("item_schema")
        wrong = schema_of(schema, "item_schema") if schema is not None else lambda item: None
        criteria = read_criteria(list(definition.testing_criteria))
        self._store.eval_runs.begin(run.id, self._version(run))
        run = self._store.eval_runs.get(run.id)
        work = Work(run, source, criteria, wrong, caller, self._judges.tools(caller))
        done = self._store.eval_runs.positions(run.id)
        found = rows(
            source, lambda id: self._store.files.open(id, run.actor_id), lambda asked: self._stored.rows(run, asked)
        )
        if self._all((row for row in found if row.position not in done), work):
            self._store.eval_runs.finish(run.id, "completed")
        else:
            self._store.eval_runs.finish(run.id, "canceled")

    def _version(self, run: EvalRun) -> str | None:
        if run.model is None or run.version_id is not None:
            return run.version_id
        return self._store.model_aliases.version(run.model).id

    def _all(self, left: Iterator[DataRow], work: Work) -> bool:
        """Every row, `ROWS_AT_ONCE` at a time. False: the run shall end."""
        pool = ThreadPoolExecutor(ROWS_AT_ONCE, thread_name_prefix="eval-row")
        open_: set[Future[None]] = set()
        try:
            for row in left:
                open_.add(pool.submit(self._row, row, work))
                if len(open_) >= ROWS_AT_ONCE:
                    open_ = self._settle(open_, work)
            while open_:
                open_ = self._settle(open_, work)
        except Cancelled:
            return False
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return True

    def _settle(self, open_: set[Future[None]], work: Work) -> set[Future[None]]:
        """Wait until a row is done; returns the others. Raises Cancelled, Stopping, and what a row raised."""
        while True:
            done, left = wait(open_, LOOK_S, FIRST_COMPLETED)
            if self._closing.is_set():
                raise Stopping
            if self._store.eval_runs.cancelled(work.run.id):
                raise Cancelled
            if done:
                for future in done:
                    future.result()
                return left

    def _row(self, row: DataRow, work: Work) -> None:
        usage: dict[str, dict[str, int]] = {}
        wrong = work.wrong(row.item)
        if wrong is not None:
            graded = _not_answered(row, work, "invalid_item", f"The item does not fit the eval's item_schema: {wrong}")
        elif row.sample is not None or work.source.model is None:
            graded, usage = grade_row(work.criteria, row.position, row.names(), _brought(row, work), work.tools)
        else:
            graded, usage = self._answered(row, work)
        self._store.eval_runs.save(work.run.id, [graded], usage)

    def _answered(self, row: DataRow, work: Work) -> tuple[GradedRow, dict[str, dict[str, int]]]:
        try:
            messages = work.source.messages(row.item)
            if work.source.kind == "responses":
                messages = as_chat(messages)
            completion = self._ask(messages, work)
        except Failure as failure:
            return _not_answered(row, work, failure.flags[0], failure.message), {}
        except TuteeError as error:
            return _not_answered(row, work, error.code or error.type, error.message), {}
        except TimeoutError:
            return _not_answered(row, work, "timeout", f"There was no answer within {ANSWER_S:g} s."), {}
        message, usage = completion["choices"][0]["message"], completion["usage"]
        finish = completion["choices"][0]["finish_reason"]
        tools = message.get("tool_calls") or ()
        model = str(work.source.model)
        answer = Sample(message.get("content") or "", tools, finish, model)
        kept = _sample(work, messages, answer, usage)
        graded, judged = grade_row(work.criteria, row.position, row.names(answer), kept, work.tools)
        asked = {name: usage[name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
        own = asked | {"cached_tokens": kept["usage"]["cached_tokens"], "invocation_count": 1}
        for name, count in judged.pop(model, {}).items():
            own[name] = own.get(name, 0) + count
        return graded, {**judged, model: own}

    def _ask(self, messages: Sequence[Mapping[str, Any]], work: Work) -> dict[str, Any]:
        body = {"model": work.run.version_id or work.source.model, "messages": messages, **sampling_body(work.source)}
        while True:
            try:
                return self._own_requests.post(CHAT, body, work.caller, ANSWER_S)
            except Busy:
                if self._closing.wait(BUSY_S):
                    raise Stopping from None


def _sample(
    work: Work, messages: Sequence[Mapping[str, Any]], answer: Sample, usage: Mapping[str, Any]
) -> dict[str, Any]:
    """OpenAI's `output_item.sample`; every field is there whatever was asked, because the SDK's type says so."""
    asked = sampling_body(work.source)
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    output: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.tools:
        output["tool_calls"] = list(answer.tools)
    return {
        "error": NO_ERROR,
        "finish_reason": answer.finish_reason,
        "input": [{"role": str(m.get("role", "user")), "content": _text(m.get("content"))} for m in messages],
        "output": [output],
        "model": answer.model or "",
        "max_completion_tokens": asked["max_completion_tokens"],
        "seed": asked.get("seed", 0),
        "temperature": asked.get("temperature", 1.0),
        "top_p": asked.get("top_p", 1.0),
        "usage": {
            "prompt_tokens": usage.get("prompt_tokens", 0),
            "completion_tokens": usage.get("completion_tokens", 0),
            "total_tokens": usage.get("total_tokens", 0),
            "cached_tokens": cached,
        },
    }


def _brought(row: DataRow, work: Work) -> dict[str, Any]:
    """The sample of a row that brought its answer along, or has none."""
    brought = row.names().get("sample") or {}
    choices = brought.get("choices") or [{}]
    finish = str(choices[0].get("finish_reason", "stop"))
    answer = Sample(brought.get("output_text", ""), brought.get("output_tools", ()), finish, brought.get("model"))
    messages = row.item.get("input") if isinstance(row.item.get("input"), list) else []
    return _sample(work, [m for m in messages or [] if isinstance(m, Mapping) and "role" in m], answer, {})


def _not_answered(row: DataRow, work: Work, code: str, message: str) -> GradedRow:
    sample = _sample(work, [], Sample("", finish_reason="error", model=work.source.model), {})
    return GradedRow(row.position, "error", row.item, sample | {"error": {"code": code, "message": message}}, [])


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""
