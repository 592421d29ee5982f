"""A PostgreSQL server of the tests' own: a fresh cluster in a temporary folder, reached by a socket in it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NEEDED = ("initdb", "pg_ctl", "postgres")


def binaries() -> Path | None:
    """The folder with the server programs: on the path, or where Debian keeps them."""
    places = [Path(found).parent for found in [shutil.which("pg_ctl")] if found]
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

    def run(*command: str) -> None:
        subprocess.run(
            [*prefix, *command], check=True, capture_output=True, cwd=folder, env={"PATH": os.defpath, "LC_ALL": "C"}
        )

    data, log = str(folder / "data"), str(folder / "log")
    options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off -c max_connections=200"
    try:
        run(str(place / "initdb"), "-D", data, "-U", "tutee", "-A", "trust", "-E", "UTF8", "--no-sync")
        run(str(place / "pg_ctl"), "-D", data, "-l", log, "-w", "-o", options, "start")
        try:
            yield f"postgresql://tutee@/{{name}}?host={folder}"
        finally:
            run(str(place / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
