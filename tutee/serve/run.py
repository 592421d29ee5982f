"""`tutee serve`: the app under uvicorn on one socket, until a signal ends it."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
from types import FrameType
from typing import NoReturn

import torch
import uvicorn
from starlette.types import ASGIApp

from tutee.errors import Unavailable
from tutee.serve.app import build_app, open_services
from tutee.settings import Settings

KEEP_ALIVE_SECONDS = 75
GRACE_SECONDS = 5
"""How long running streams may go on after Ctrl-C."""

SWITCH_SECONDS = 0.001
"""Most that the event loop waits for the engine's thread to let it run; Python's own 5 ms would be felt in each first
token."""


class Server(uvicorn.Server):
    """Says where it listens once it is ready."""

    def __init__(self, config: uvicorn.Config, url: str) -> None:
        super().__init__(config)
        self.url = url

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"tutee is ready: {self.url}", flush=True)


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        InvalidInput: a host that others can reach without an admin key; no model in the base's folder.
        Busy: another server runs on this home. Unavailable: the port is taken.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, _end)
    share_the_processor(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    with open_socket(settings) as listener, open_services(settings) as services:
        app = build_app(services)
        settle()
        Server(uvicorn_config(app), f"http://{host}:{listener.getsockname()[1]}").run(sockets=[listener])


def share_the_processor(settings: Settings) -> None:
    """How the model's threads and Python's share the cores."""
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    sys.setswitchinterval(SWITCH_SECONDS)


def settle() -> None:
    """Let the garbage collector forget what lives as long as the server: going through the modules, the model and the
    routes again and again would halt every stream for a tenth of a second at a time."""
    gc.collect()
    gc.freeze()


def uvicorn_config(app: ASGIApp) -> uvicorn.Config:
    """How every server of ours runs an app; httptools and uvloop are used where they are installed."""
    return uvicorn.Config(
        app,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def _end(number: int, frame: FrameType | None) -> NoReturn:
    # uvicorn raises the signal once more when it is done; the default would end us before the worker is stopped.
    raise SystemExit(0)


def open_socket(settings: Settings) -> socket.socket:
    """A listening socket, before anything slow is done; port 0 takes a free one.

    Raises:
        Unavailable: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"Cannot listen on {settings.host}:{settings.port} ({error.strerror}). Choose another port with PORT=.",
            code="address_unavailable",
        ) from None
    return listener
