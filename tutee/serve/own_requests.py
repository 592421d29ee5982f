"""Requests of this process to itself for code that runs in threads: the rows of an eval, the questions of a grader.

It blocks the caller's thread, never the server's loop: the routes run in a loop of their own. Knows no route.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from typing import Any

import msgspec
from starlette.types import ASGIApp

from tutee.errors import Busy, InvalidInput, NotFound, TuteeError, Unavailable
from tutee.serve.access.auth import Caller
from tutee.serve.in_process import Answer, post

KINDS: Mapping[int, type[TuteeError]] = {400: InvalidInput, 404: NotFound, 503: Unavailable}


class Stopping(Exception):
    """The server is going down: there will be no answer."""


class OwnRequests:
    """Calls the app. Thread-safe; `start` comes once the app is built."""

    def __init__(self) -> None:
        self._app: ASGIApp | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="own-requests", daemon=True)
        self._closing = False
        self._open: set[Future[Answer]] = set()

    def start(self, app: ASGIApp) -> None:
        """From now on requests go to this app; starting again changes nothing."""
        if self._app is None:
            self._app = app
            self._thread.start()

    def post(self, path: str, body: Mapping[str, Any], caller: Caller, timeout: float | None = None) -> dict[str, Any]:
        """The JSON object that a POST answers.

        Raises:
            TuteeError: the route's error, with its message, param and code. TimeoutError: after `timeout` seconds; the
                request is then ended as if its client had gone away. Stopping: the server is going down.
        """
        if self._closing:
            raise Stopping
        if self._app is None:
            raise Unavailable("The server is still starting.")
        asked = post(self._app, caller, path, msgspec.json.encode(body))
        work = asyncio.run_coroutine_threadsafe(asked, self._loop)
        self._open.add(work)
        try:
            answer = work.result(timeout)
        except TimeoutError:
            work.cancel()
            raise
        except CancelledError:
            raise Stopping from None
        finally:
            self._open.discard(work)
        content: dict[str, Any] = msgspec.json.decode(answer.body)
        if answer.status >= 400:
            raise _error(answer, content.get("error") or {})
        return content

    def stop(self) -> None:
        """Give up the requests that still run and take no more; who waits for one gets Stopping."""
        self._closing = True
        for work in tuple(self._open):
            work.cancel()

    def close(self) -> None:
        """Stop, and end the loop."""
        self.stop()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)


def _error(answer: Answer, said: Mapping[str, Any]) -> TuteeError:
    message = str(said.get("message") or "The server had an error.")
    if answer.status == Busy.status:
        return Busy(message, retry_after=float(answer.headers.get("retry-after", 1)))
    error = KINDS.get(answer.status, TuteeError)(message, param=said.get("param"), code=said.get("code"))
    error.status = answer.status
    return error
