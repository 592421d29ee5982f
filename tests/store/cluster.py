"""A PostgreSQL server of the tests' own: a fresh cluster in a temporary folder, reached by a socket in it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

NEEDED = ("initdb", "postgres")


def binaries() -> Path | None:
    """The folder with the server programs: on the path, or where Debian keeps them."""
    places = [Path(found).parent for found in [shutil.which("initdb")] if found]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if all((place / name).exists() for name in NEEDED)), None)


def as_somebody() -> tuple[list[str], int]:
    """What to put before a command so that it does not run as root, which PostgreSQL refuses; and that user's id."""
    if os.geteuid() != 0:
        return [], os.geteuid()
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"], user.pw_uid
    raise RuntimeError("no user to run PostgreSQL as")


@contextmanager
def running() -> Iterator[str]:
    """A server for the time of the block; yields a URL with `{name}` in the place of the database's name."""
    place = binaries()
    assert place is not None
    prefix, uid = as_somebody()
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"  # short: a socket's path has at most 107 bytes
    folder = Path(tempfile.mkdtemp(prefix="tutee-pg-", dir=memory))
    os.chown(folder, uid, -1)

    environment = {"PATH": os.defpath, "LC_ALL": "C"}
    data = str(folder / "data")
    initdb = [str(place / "initdb"), "-D", data, "-U", "tutee", "-A", "trust", "-E", "UTF8", "--no-sync"]
    options = ("listen_addresses=", f"unix_socket_directories={folder}", "fsync=off", "max_connections=200")
    server = [str(place / "postgres"), "-D", data, *(word for option in options for word in ("-c", option))]
    if shutil.which("setpriv"):
        server = ["setpriv", "--pdeathsig", "QUIT", *server]  # a killed test run must not leave it behind
    url = f"postgresql://tutee@/{{name}}?host={folder}"
    try:
        subprocess.run([*prefix, *initdb], check=True, capture_output=True, cwd=folder, env=environment)
        with (
            (folder / "log").open("wb") as log,
            subprocess.Popen([*prefix, *server], stdout=log, stderr=log, cwd=folder, env=environment) as process,
        ):
            try:
                _wait_for(url.format(name="postgres"), process)
                yield url
            finally:
                process.send_signal(signal.SIGQUIT)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(url: str, process: subprocess.Popen[bytes], seconds: float = 300.0) -> None:
    """Return once the server takes connections."""
    end = time.monotonic() + seconds
    while True:
        try:
            psycopg.connect(url).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.05)
