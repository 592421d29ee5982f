"""Tells endpoints what happened: signs (Standard Webhooks), posts, and tries again later what nobody took.

    webhook-id: evt_…   webhook-timestamp: seconds   webhook-signature: v1,<base64 HMAC-SHA256 of "id.timestamp.body">

2xx is taken, 410 ends it, anything else is tried again for three days; redirects are not followed. The queue is in the
store, so a killed server goes on; an endpoint may hear of something twice, under the same id. Several deliveries go
at once, so that one endpoint that hangs does not hold up the others for long.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec

from tutee.errors import InvalidInput, TuteeError
from tutee.serve.webhooks.destinations import pinned
from tutee.settings import Settings
from tutee.store import Store
from tutee.store.webhooks import SECRET_PREFIX, Due

log = logging.getLogger("tutee.serve")

LOOK_SECONDS = 1.0
TIMEOUT_SECONDS = 15.0
AT_ONCE = 8
WAITS = (5.0, 30.0, 120.0, 600.0, 1800.0, 3600.0)
"""Seconds after the first, second … failure; the last one again and again."""
LONGEST = 3 * 86_400.0
"""Seconds after which an event is given up."""
GONE = 410


class WebhookSender:
    """A thread that empties the queue as it fills."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._store = store
        self._private = private_allowed(settings)
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="webhook")
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        """Begin with what is in the queue."""
        self._thread.start()

    def close(self) -> None:
        """Begin no more deliveries; those under way come to their end, or are made again by the next sender."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(5)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            try:
                while due := self._store.webhooks.due(AT_ONCE):
                    list(self._pool.map(self._deliver, due))
                    if self._closed.is_set():
                        return
            except TuteeError as error:
                log.warning("webhooks: %s", error.message)
            except Exception:
                log.exception("webhooks")

    def _deliver(self, due: Due) -> None:
        try:
            status = send(due.url, due.event_id, msgspec.json.encode(due.body), due.secrets, self._private)
            result = f"HTTP {status}"
        except (InvalidInput, httpx.HTTPError) as error:
            status, result = 0, str(error) or type(error).__name__
        delivered = 200 <= status < 300
        again = None if delivered or status == GONE else _next(due)
        self._store.webhooks.attempted(due.id, result, delivered=delivered, next_at=again)


def private_allowed(settings: Settings) -> bool:
    """Whether webhooks may go to addresses that are not public: where nobody else can ask for it, or if allowed."""
    return settings.loopback or bool(settings.webhooks_to_private)


def send(url: str, event_id: str, body: bytes, secrets: Sequence[str], private: bool) -> int:
    """Post one signed event; the status of the reply.

    Raises:
        InvalidInput: the destination is not allowed. httpx.HTTPError: it cannot be reached, or did not answer in time.
    """
    place = pinned(url, private)
    moment = int(time.time())
    headers = {
        "host": place.host,
        "content-type": "application/json",
        "user-agent": "tutee-webhooks/1",
        "webhook-id": event_id,
        "webhook-timestamp": str(moment),
        "webhook-signature": " ".join(sign(secret, event_id, moment, body) for secret in secrets),
    }
    with httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False) as client:
        extensions = {"sni_hostname": place.name}
        with client.stream("POST", place.url, content=body, headers=headers, extensions=extensions) as reply:
            return reply.status_code  # whatever it says beyond that is not read


def sign(secret: str, event_id: str, timestamp: int, body: bytes) -> str:
    """The signature of Standard Webhooks, version 1."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    digest = hmac.new(key, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _next(due: Due) -> float | None:
    """When to try again after one more failure; None when it has been long enough."""
    moment = time.time() + WAITS[min(due.attempts, len(WAITS) - 1)]
    return moment if moment < due.created_at + LONGEST else None
