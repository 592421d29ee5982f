"""What another server's OpenAI-compatible reply says, read without trust: sizes are bounded, types checked.

Knows the wire: server-sent events, the chunk object, the error object, `retry-after`. Does not know requests nor when
they are sent (`upstream.py`).
"""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import httpx
import msgspec

from tutee.errors import InvalidInput, Unavailable

LONGEST_LINE = 1 << 20
LONGEST_ERROR = 1 << 16
LONGEST_REASON = 300
DEFAULT_PAUSE_S = 1.0
MOST_PAUSE_S = 3600.0


class Delta(msgspec.Struct):
    """What a chunk adds. What a reasoning model thinks (`reasoning_content`) is not read."""

    content: str | None = None


class Choice(msgspec.Struct):
    """One answer's part of a chunk."""

    delta: Delta = msgspec.field(default_factory=Delta)
    finish_reason: str | None = None
    index: int = 0


class Usage(msgspec.Struct):
    """Token counts, as the upstream counts them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Event(msgspec.Struct):
    """One `chat.completion.chunk`, or an error in its place."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None


class ListedModel(msgspec.Struct):
    """A row of `GET /models`; vLLM and SGLang say how long a context they serve."""

    id: str
    max_model_len: int | None = None


class ModelList(msgspec.Struct):
    """The reply to `GET /models`."""

    data: list[ListedModel] = []


class LaterError(Exception):
    """The upstream asks to come back after `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


_event = msgspec.json.Decoder(Event)
_models = msgspec.json.Decoder(ModelList)


async def read_events(response: httpx.Response) -> AsyncIterator[Event]:
    """The chunks of a stream, up to `[DONE]` or its end.

    Raises:
        Unavailable: it is no stream of chunks (`upstream_protocol`), or the upstream says that it failed.
    """
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        not_understood("it does not stream")
    async for data in _event_data(response):
        if data == b"[DONE]":
            return
        try:
            event = _event.decode(data)
        except msgspec.DecodeError:
            not_understood("an event is not what the API says")
        if event.error is not None:
            raise Unavailable(f"The upstream failed: {_reason(event.error)}", code="upstream_failed")
        yield event


async def read_models(response: httpx.Response) -> list[ListedModel]:
    """The models that an upstream lists. Raises Unavailable if it is no such list."""
    try:
        return _models.decode(await _bounded(response, LONGEST_LINE)).data
    except msgspec.DecodeError:
        not_understood("its list of models is not what the API says")


async def check_status(response: httpx.Response, model: str) -> None:
    """Raise what a status other than 200 means.

    Raises:
        LaterError: 429, or 503 with `retry-after`. InvalidInput: 400, 413 or 422, in the upstream's words.
        Unavailable: any other (codes `upstream_refused_key`, `upstream_model_not_found`, `upstream_failed`).
    """
    if response.headers.get("content-encoding", "identity") != "identity":
        not_understood("its reply is compressed, which was not asked for")
    status = response.status_code
    if status == 200:
        return
    pause = _retry_after(response.headers.get("retry-after"))
    if status == 429 or (status == 503 and pause is not None):
        raise LaterError(DEFAULT_PAUSE_S if pause is None else pause)
    if status in (401, 403):
        raise Unavailable("The upstream does not accept our key.", code="upstream_refused_key")
    body = await _bounded(response, LONGEST_ERROR)
    if status in (400, 413, 422):
        raise _refusal(body)
    if status == 404:
        message = f"The upstream does not serve '{model}': {_reason(body)}"
        raise Unavailable(message, code="upstream_model_not_found")
    raise Unavailable(f"The upstream answered {status}: {_reason(body)}", code="upstream_failed")


def not_understood(what: str) -> NoReturn:
    """Give up on an upstream that does not speak the API."""
    raise Unavailable(f"The upstream cannot be understood: {what}.", code="upstream_protocol")


async def _event_data(response: httpx.Response) -> AsyncIterator[bytes]:
    """The data of each server-sent event (several `data:` lines are one, joined by newlines)."""
    data: list[bytes] = []
    size = 0
    async for line in _lines(response):
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
            size += len(line)
            if size > LONGEST_LINE:
                not_understood("an event is too long")
        elif not line and data:
            yield b"\n".join(data)
            data, size = [], 0
    if data:
        yield b"\n".join(data)


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in response.aiter_raw():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
        if len(rest) > LONGEST_LINE:
            not_understood("a line is too long")
    if rest:
        yield rest.removesuffix(b"\r")


async def _bounded(response: httpx.Response, most: int) -> bytes:
    body = bytearray()
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > most:
            break
    return bytes(body[:most])


def _retry_after(text: str | None) -> float | None:
    """Seconds of a `retry-after` header (RFC 9110, section 10.2.3): a number, or a date."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), MOST_PAUSE_S)


def _refusal(body: bytes) -> InvalidInput:
    """The upstream's refusal as ours, with its `param` and `code` where it says them."""
    error = _error_object(body)
    param, code = error.get("param"), error.get("code")
    return InvalidInput(
        f"The upstream refused the request: {_reason(error)}",
        param=_printable(param, 100) if isinstance(param, str) else None,
        code=_printable(code, 100) if isinstance(code, str) else "upstream_refused",
    )


def _error_object(raw: Any) -> dict[str, Any]:
    """The `error` object of a reply, or what comes nearest."""
    if isinstance(raw, bytes):
        try:
            raw = msgspec.json.decode(raw)
        except msgspec.DecodeError:
            raw = {"message": raw.decode("utf-8", "replace")}
    if isinstance(raw, dict) and "error" in raw:
        raw = raw["error"]
    return raw if isinstance(raw, dict) else {"message": raw}


def _reason(raw: Any) -> str:
    """What the upstream says went wrong, printable and short."""
    return _printable(str(_error_object(raw).get("message") or "it does not say why"), LONGEST_REASON)


def _printable(text: str, most: int) -> str:
    return "".join(c if c.isprintable() else " " for c in text[:most])
