"""The outermost layer: what holds for every request and every response, whatever the route.

Gives each response an `x-request-id` and the security headers (a strict Content-Security-Policy with Trusted Types),
answers HEAD wherever there is GET, refuses foreign Host headers (DNS rebinding), writes started by other web sites,
and bodies over the limit, and turns an exception that nobody caught into OpenAI's error shape. A plain ASGI
middleware, so streams pass through unbuffered. Does not know routes, keys or people.
"""

from __future__ import annotations

import ipaddress
import os
import re
import time
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tutee.errors import Forbidden, InvalidInput, TooLarge
from tutee.serve.metrics import Metrics
from tutee.serve.replies import error_reply
from tutee.serve.wire import STRAIGHT
from tutee.settings import Settings

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "font-src 'self'",
        "connect-src 'self'",
        "media-src 'self' blob:",
        "frame-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "object-src 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "x-frame-options": "DENY",
}
MIB = 1024 * 1024
UPLOAD_LIMIT = 512 * MIB
"""Bytes of a file (OpenAI's limit)."""
PART_LIMIT = 64 * MIB
"""Bytes of one part of an upload (OpenAI's limit)."""
BODY_LIMITS = (
    (re.compile(r"/v1/files"), UPLOAD_LIMIT + MIB),
    (re.compile(r"/v1/uploads/[^/]+/parts"), PART_LIMIT + MIB),
)
"""Bodies that hold a file and the lines around it; all others are limited by `Settings.max_body_bytes`."""
READING_METHODS = {"GET", "HEAD", "OPTIONS"}


class Edge:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app = app
        self.settings = settings
        self._loopback = settings.loopback
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, _only_headers(send)
        request_id = f"req_{os.urandom(16).hex()}"
        started = time.perf_counter()
        status, complete = 0, False

        async def send_with_headers(message: Message) -> None:
            nonlocal status, complete
            complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                headers["x-request-id"] = request_id
                headers["openai-processing-ms"] = str(round((time.perf_counter() - started) * 1000))
                headers["openai-version"] = "2020-10-01"
                state = scope.get("state", {})
                if (account := state.get("account")) is not None:
                    headers.update(account.headers())
                fields = state.get("fields")
                if fields is not None and (unknown := fields.unknown()):
                    headers["x-ignored-params"] = _header_list(unknown)
            await send(message)

        scope[STRAIGHT] = send
        try:
            limit = next((most for path, most in BODY_LIMITS if path.fullmatch(scope["path"])), None)
            limit = limit or self.settings.max_body_bytes
            self._refuse_strangers(scope, limit)
            await self.app(scope, _limited(receive, limit), send_with_headers)
        except Exception as error:
            if not status:
                await error_reply(error)(scope, receive, send_with_headers)
            elif not complete:  # all that is left is to close the connection
                raise
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            self.metrics.requests.labels(scope["method"], route, str(status)).inc()

    def _refuse_strangers(self, scope: Scope, limit: int) -> None:
        """Checks that need only the request line and the headers."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._loopback and not _names_loopback(host):
            raise Forbidden(f"Host {host!r} is not this machine. Use 127.0.0.1 or localhost.", code="host_not_allowed")
        if scope["method"] not in READING_METHODS:
            site = headers.get("sec-fetch-site")
            origin = headers.get("origin")
            if site not in (None, "same-origin", "none") or (origin is not None and not _is_of(origin, host)):
                raise Forbidden("Requests started by another web site are refused.", code="cross_site_request")
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:  # not every database can hold one
            raise InvalidInput("The URL holds a NUL character, which text may not contain.", code="invalid_url")
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit)


def _limited(receive: Receive, limit: int) -> Receive:
    """Count the body as it arrives: a chunked body has no Content-Length to check."""
    seen = 0

    async def receive_counted() -> Message:
        nonlocal seen
        message = await receive()
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _too_large(limit)
        return message

    return receive_counted


def _only_headers(send: Send) -> Send:
    """What HEAD is answered: what GET is, without its body."""

    async def send_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return send_headers


def _header_list(names: list[str]) -> str:
    printable = ["".join(c if c.isascii() and c.isprintable() else "?" for c in name[:64]) for name in names[:32]]
    return ",".join(printable)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is over the limit of {limit:,} bytes.")


def _is_of(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc == host
    except ValueError:  # a bracket that is never closed
        return False


@lru_cache(maxsize=256)
def _names_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or name.endswith(".localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
