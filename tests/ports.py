"""Ports for the servers that tests start as processes of their own."""

from __future__ import annotations

import socket
import sys


class Port:
    """A free port of this machine, kept for one server however often it is started.

    A socket is bound to it that never listens: on Linux the server may take the port beside it, and nobody else who
    asks for a free one is given it meanwhile. Elsewhere two may not share a port, so it is only found.
    """

    def __init__(self) -> None:
        self._kept = socket.socket()
        self._kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._kept.bind(("127.0.0.1", 0))
        self.number = int(self._kept.getsockname()[1])
        if sys.platform != "linux":
            self._kept.close()

    @property
    def pass_fds(self) -> tuple[int, ...]:
        """For `Popen`: the process keeps the port too, after we have let go of it."""
        return () if self._kept.fileno() < 0 else (self._kept.fileno(),)

    def close(self) -> None:
        self._kept.close()
