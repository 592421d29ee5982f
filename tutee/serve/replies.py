"""What leaves the server: JSON replies, list pages and errors in OpenAI's one error shape.

Every error of every route passes through `error_reply`, also 404, 405, 413 and 500. Knows HTTP status codes and
`tutee.errors`; does not know any route.
"""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from tutee.errors import Busy, InvalidInput, TooLarge, TuteeError, Unavailable

log = logging.getLogger("tutee.serve")


class ClientGoneError(InvalidInput):
    """The client closed the connection before its answer was ready. Nobody reads the reply, but it is counted, under
    the status that proxies have for it."""

    status = 499

    def __init__(self) -> None:
        super().__init__("The client closed the connection.", code="client_closed_request")


def reply(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`content` (plain Python or msgspec structs) as a JSON response."""
    return Response(msgspec.json.encode(content), status, dict(headers or {}), "application/json")


def page_of(rows: Sequence[Mapping[str, Any]], has_more: bool) -> Response:
    """One page of a list; clients ask for the next with `after=<last_id>` until `has_more` is false."""
    ids = [row["id"] for row in rows]
    return reply(
        {
            "object": "list",
            "data": rows,
            "has_more": has_more,
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
        }
    )


def error_body(error: TuteeError) -> dict[str, Any]:
    """`{"error": {message, type, param, code}}`: all four keys, always."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def error_reply(error: Exception) -> Response:
    """The response for any exception; an unexpected one is logged and answered without its details."""
    error = as_tutee_error(error)
    headers: dict[str, str] = {}
    if isinstance(error, Busy):
        headers["retry-after"] = f"{max(1, math.ceil(error.retry_after))}"
    elif isinstance(error, Unavailable):
        headers["retry-after"] = "1"
    elif error.status < 500:
        headers["x-should-retry"] = "false"
    return reply(error_body(error), error.status, headers)


def as_tutee_error(error: Exception) -> TuteeError:
    """Translate what the layers below may raise into an error with a status, a type and a message for a person."""
    if isinstance(error, TuteeError):
        return error
    if isinstance(error, ClientDisconnect):  # while its body was read
        return ClientGoneError()
    if isinstance(error, OperationalError | sqlite3.OperationalError | OSError) and _disk_full(error):
        return Unavailable("The disk is full: nothing more can be saved. Free some space.", code="disk_full")
    if isinstance(error, OperationalError):
        log.error("database: %s", error)
        return Unavailable("The database cannot be reached or is locked; try again.", code="database_unavailable")
    log.error("unexpected error", exc_info=error)
    return TuteeError("The server had an error while processing your request.", code="internal_error")


def _disk_full(error: Exception) -> bool:
    return "disk is full" in str(error) or getattr(error, "errno", None) == 28


def install_error_handlers(app: FastAPI) -> None:
    """Make every exception of a handler an error in OpenAI's shape."""

    async def expected(request: Request, error: Exception) -> Response:
        return error_reply(error)

    async def of_framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        url = f"({request.method} {request.url.path})"
        known: dict[int, TuteeError] = {
            404: _with_status(404, f"Invalid URL {url}", "unknown_url"),
            405: _with_status(
                405, f"Not allowed to {request.method} on {request.url.path} {url}", "method_not_allowed"
            ),
            413: TooLarge("The body is too large."),
        }
        answer = error_reply(known.get(error.status_code) or _with_status(error.status_code, str(error.detail), None))
        answer.headers.update(error.headers or {})  # such as Allow
        return answer

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        param = ".".join(str(part) for part in first["loc"][1:])
        return error_reply(InvalidInput(f"'{param}': {first['msg']}.", param=param, code="invalid_value"))

    app.add_exception_handler(TuteeError, expected)
    app.add_exception_handler(ClientDisconnect, expected)
    app.add_exception_handler(Exception, expected)
    app.add_exception_handler(HTTPException, of_framework)
    app.add_exception_handler(RequestValidationError, validation)


def _with_status(status: int, message: str, code: str | None) -> TuteeError:
    error = InvalidInput(message, code=code)
    error.status = status
    return error
