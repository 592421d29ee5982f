"""What a server does besides answering: runs batches, sends webhooks, puts away what has expired."""

from __future__ import annotations

from starlette.types import ASGIApp

from tutee.serve.access.auth import Doorkeeper
from tutee.serve.batches.runner import BatchRunner
from tutee.serve.sweeper import Sweeper
from tutee.serve.webhooks.sender import WebhookSender
from tutee.settings import Settings
from tutee.store import Store


class Background:
    """Three threads, from when the app is built until they are closed."""

    def __init__(self, settings: Settings, store: Store, doorkeeper: Doorkeeper) -> None:
        self._batches = BatchRunner(store, doorkeeper)
        self._webhooks = WebhookSender(settings, store)
        self._sweeper = Sweeper(store)
        self._started = False

    def start(self, app: ASGIApp) -> None:
        """Begin, or go on with what was left; starting again changes nothing."""
        if not self._started:
            self._started = True
            self._batches.start(app)
            self._webhooks.start()
            self._sweeper.start()

    def close(self) -> None:
        """Stop; the next server goes on with what is left."""
        self._batches.close()
        self._webhooks.close()
        self._sweeper.close()
