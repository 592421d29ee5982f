"""Puts away what has expired: files, uploads, webhook deliveries that were settled long ago, and what
jobs kept of files that are gone.

Nothing depends on it being prompt: what has expired is not shown from that moment on, whether it was swept or not.
"""

from __future__ import annotations

import logging
import threading

from tutee.data.taken_back import forget_taken_back
from tutee.store import Store

log = logging.getLogger("tutee.serve")

SWEEP_SECONDS = 300.0


class Sweeper:
    """A thread that sweeps now and then."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Stop after what is being put away now."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def _run(self) -> None:
        while not self._closed.wait(SWEEP_SECONDS):
            try:
                self._store.files.sweep()
                self._store.uploads.sweep()
                self._store.webhooks.sweep()
                forget_taken_back(self._store)
            except Exception:
                log.exception("sweeping")
