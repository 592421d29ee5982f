"""Errors that a person or a client can act on, and the HTTP status each becomes.

Every message says what is wrong and what to do about it. `param` names the field (dotted path) or the line.
This module knows nothing of HTTP frameworks; `serve/` turns these into OpenAI's error shape, `cli.py` into one line.
"""

from __future__ import annotations


class TuteeError(Exception):
    """Base of every expected error.

    Args:
        message: one or two sentences for the person who caused it.
        param: the field at fault (`messages[0].role`, `training_file`), or None.
        code: a stable machine-readable word (`model_not_found`), or None.
    """

    status = 500
    type = "server_error"
    default_code: str | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else self.default_code


class InvalidInput(TuteeError):
    """The request, file or setting is wrong; sending it again unchanged cannot work."""

    status = 400
    type = "invalid_request_error"


class Unauthenticated(TuteeError):
    """No key, or a key we do not know."""

    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"


class Forbidden(TuteeError):
    """A known key without the right to do this."""

    status = 403
    type = "invalid_request_error"
    default_code = "insufficient_permissions"


class NotFound(TuteeError):
    """No such thing, or not yours: the two are answered alike on purpose."""

    status = 404
    type = "invalid_request_error"
    default_code = "not_found"


class TooLarge(TuteeError):
    """The body or file is over the limit."""

    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class Busy(TuteeError):
    """The queue is full; `retry_after` is in seconds."""

    status = 429
    type = "requests"
    default_code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(TuteeError):
    """The engine, the disk or the database cannot serve this now."""

    status = 503
    default_code = "engine_unavailable"


class Diverged(TuteeError):
    """A training run produced non-finite or runaway numbers and was stopped; the last good checkpoint is kept."""

    default_code = "training_diverged"
