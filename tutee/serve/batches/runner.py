"""Runs batches: reads their files, asks the app's own routes line by line, and writes what they said to files.

One thread with an event loop of its own. Every line is a request like any other, as the person whose batch it is, but
at a priority that lets everybody who waits go first. What was answered is in the store before the next line begins, so
a killed server goes on where it was; a line that was being answered then is asked again. Knows no route.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from starlette.types import ASGIApp

from tutee.errors import InvalidInput, NotFound, TuteeError
from tutee.ids import new_id
from tutee.serve.access.auth import Caller, Doorkeeper
from tutee.serve.batches.file import BatchRequest, check, requests
from tutee.serve.in_process import Answer, post
from tutee.serve.replies import error_body
from tutee.store import Store
from tutee.store.schema import Batch, now

log = logging.getLogger("tutee.serve")

PRIORITY = 10
"""The engine's number for background work."""
AT_ONCE = 8
"""Lines of one batch that are asked at a time."""
MOST_BATCHES = 4
LOOK_SECONDS = 1.0
BUSY = (429, 503)
LONGEST_PAUSE = 30.0


class BatchRunner:
    """Runs until it is closed, once it has been given the app."""

    def __init__(self, store: Store, doorkeeper: Doorkeeper) -> None:
        self._store = store
        self._doorkeeper = doorkeeper
        self._app: ASGIApp | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="batches", daemon=True)

    def start(self, app: ASGIApp) -> None:
        """Begin, or go on with what was left."""
        self._app = app
        self._thread.start()

    def close(self) -> None:
        """Stop asking; lines that are being answered will be asked again by the next runner."""
        self._closed.set()
        if self._app is not None:
            self._thread.join(10)

    async def _main(self) -> None:
        running: dict[str, asyncio.Task[None]] = {}
        while not self._closed.is_set():
            with contextlib.suppress(TuteeError):  # a database that is busy now
                for batch in await asyncio.to_thread(self._store.batches.unfinished):
                    if batch.id not in running and len(running) < MOST_BATCHES:
                        running[batch.id] = asyncio.create_task(self._run(batch))
            await asyncio.to_thread(self._closed.wait, LOOK_SECONDS)
            for id in [id for id, task in running.items() if task.done()]:
                if (error := running.pop(id).exception()) is not None:  # it is unfinished still, so it begins again
                    log.error("batch %s: %s", id, error, exc_info=error)
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)

    async def _run(self, batch: Batch) -> None:
        """Take a batch from wherever it is to its end."""
        store = self._store.batches
        try:
            path = self._store.files.path(batch.input_file_id, batch.actor_id)
        except NotFound as error:
            await asyncio.to_thread(store.reject, batch.id, [_error_line(error)])
            return
        if batch.status == "validating":
            checked = await asyncio.to_thread(check, path, batch.endpoint)
            if checked.errors:
                await asyncio.to_thread(store.reject, batch.id, checked.errors)
                return
            await asyncio.to_thread(store.begin, batch.id, checked.total, checked.model)
        left = requests(path, batch.endpoint)
        if batch.status != "finalizing":
            await self._answer_all(batch, left)
            await asyncio.to_thread(store.finalize, batch.id)
        await asyncio.to_thread(self._finish, batch, path)

    async def _answer_all(self, batch: Batch, lines: Iterator[BatchRequest]) -> None:
        """Answer every line that has no answer, until the batch is to stop."""
        caller = self._doorkeeper.on_behalf(batch.actor_id, PRIORITY)
        done = await asyncio.to_thread(self._store.batches.done, batch.id)
        asked: set[asyncio.Task[None]] = set()
        try:
            while not await asyncio.to_thread(self._to_stop, batch.id):
                while len(asked) < AT_ONCE and (line := next(lines, None)) is not None:
                    if line.position not in done:
                        asked.add(asyncio.create_task(self._answer(batch, caller, line)))
                if not asked:
                    return
                ended, asked = await asyncio.wait(asked, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    def _to_stop(self, id: str) -> bool:
        row = self._store.batches.get(id)
        return row.status == "cancelling" or row.expires_at < now()

    async def _answer(self, batch: Batch, caller: Caller, line: BatchRequest) -> None:
        assert self._app is not None
        if line.streams:
            message = "'stream' must be false in a batch."
            refusal = error_body(InvalidInput(message, param="stream", code="unsupported_value"))
            status, request_id, body = 400, None, refusal
        else:
            answer = await self._ask(self._app, caller, batch.endpoint, line.body)
            status, request_id, body = answer.status, answer.headers.get("x-request-id"), _decoded(answer)
        response = {"status_code": status, "request_id": request_id, "body": body}
        output = _output_line(line.custom_id, response, None)
        record = partial(self._store.batches.record, batch.id, line.position, status < 400, output, _tokens(body))
        recording = asyncio.create_task(asyncio.to_thread(record))
        try:
            await asyncio.shield(recording)
        finally:  # A thread cannot be cancelled: the batch's files are written from what is recorded by then.
            await asyncio.wait({recording})

    @staticmethod
    async def _ask(app: ASGIApp, caller: Caller, endpoint: str, body: bytes) -> Answer:
        """Ask until the server is not busy: people were first."""
        pause = 0.5
        while True:
            answer = await post(app, caller, endpoint, body)
            if answer.status not in BUSY:
                return answer
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _finish(self, batch: Batch, path: Path) -> None:
        """Say what became of the lines without an answer, and write the files."""
        store = self._store.batches
        row = store.get(batch.id)
        status = "cancelled" if row.status == "cancelling" else "completed"
        if row.completed + row.failed < row.total and status == "completed":
            status, done = "expired", store.done(batch.id)
            late = {"code": "batch_expired", "message": "The line was not reached before the batch expired."}
            for line in requests(path, batch.endpoint):
                if line.position not in done:
                    store.record(batch.id, line.position, False, _output_line(line.custom_id, None, late), (0, 0))
        store.finish(batch.id, status)


def _output_line(custom_id: str, response: dict[str, Any] | None, error: dict[str, Any] | None) -> dict[str, Any]:
    id = new_id("batch_req").replace("-", "_", 1)
    return {"id": id, "custom_id": custom_id, "response": response, "error": error}


def _error_line(error: TuteeError) -> dict[str, Any]:
    return {"code": error.code, "line": None, "message": error.message, "param": "input_file_id"}


def _decoded(answer: Answer) -> Any:
    try:
        return msgspec.json.decode(answer.body)
    except msgspec.MsgspecError:
        return {"error": {"message": "The reply was not JSON.", "type": "server_error", "param": None, "code": None}}


def _tokens(body: Any) -> tuple[int, int]:
    """Tokens of the prompt and of the answer, under the names of either API."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return 0, 0
    prompt = usage.get("prompt_tokens", usage.get("input_tokens"))
    answer = usage.get("completion_tokens", usage.get("output_tokens"))
    return int(prompt or 0), int(answer or 0)
