"""Starts the sandbox: new namespaces, an almost empty read-only file system, no network, and in it one interpreter.

Run as `python -I -S launch.py PLAN` by `pythons.py`, with the standard library only; it stays as the sandbox's parent,
because namespaces and a parent's death belong to processes, and the server that asks has threads. When its standard
input is closed at the other end, it ends the sandbox and itself, so nothing outlives the server.

PLAN is JSON: `how` (`namespaces`, `bubblewrap` or `none`), `command`, `environment`, `visible` (read-only paths),
`hidden` (paths to cover inside them), `tmp` (bytes of the only writable folder, in memory).
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import struct
import sys
from typing import Any, NoReturn

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH, AT_FDCWD, AT_RECURSIVE = 2, -100, 0x8000
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
MOUNT_SETATTR = 442
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
PR_SET_PDEATHSIG = 1
NOBODY = 61184
"""The first of the 4000 user ids that no account has by convention; each sandbox of root's takes one of them."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
OLD = "/old"

libc = ctypes.CDLL(None, use_errno=True)


def must(result: int, what: str) -> None:
    """Raise OSError naming `what` when a call of libc failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    arguments = [text.encode() if text else None for text in (source, target, kind)]
    must(libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() or None), f"mount {target}")


def lock(path: str, attributes: int) -> None:
    """Set attributes (read-only, no devices) on a mount and on everything mounted below it."""
    wanted = struct.pack("=QQQQ", attributes, 0, 0, 0)
    result = libc.syscall(MOUNT_SETATTR, AT_FDCWD, path.encode(), AT_RECURSIVE, wanted, len(wanted))
    must(result, f"mount_setattr {path}")


def separate() -> bool:
    """New namespaces: as root directly, as anybody else (or as a root without rights) inside a user namespace.
    Returns whether it was as root."""
    others = NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS
    uid, gid = os.getuid(), os.getgid()
    if uid == 0 and libc.unshare(others) == 0:
        return True
    must(libc.unshare(NEWUSER | others), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
        try:
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
        except OSError as error:
            raise OSError(error.errno, f"write {name}: {error.strerror}") from error
    return False


def furnish(plan: dict[str, Any]) -> None:
    """Make the file system of the sandbox the only one there is."""
    os.umask(0o022)
    mount("", "/", "", MS_REC | MS_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    os.mkdir("/tmp" + OLD)
    must(libc.syscall(PIVOT_ROOT[os.uname().machine], b"/tmp", b"/tmp" + OLD.encode()), "pivot_root")
    os.chdir("/")
    os.mkdir("/tmp")
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"size={plan['tmp']},mode=1777")
    for path in plan["visible"]:  # after /tmp: the interpreter may live there
        show(path)
    for path in DEVICES:
        show(path, devices=True)
    for path in plan["hidden"]:
        if os.path.isdir(path):
            mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k,mode=755")
    must(libc.umount2(OLD.encode(), MNT_DETACH), "umount2")
    os.rmdir(OLD)
    mount("", "/", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir("/tmp")


def show(path: str, devices: bool = False) -> None:
    """Make a path of the old file system visible at its old place; a link stays a link."""
    old = OLD + path
    if os.path.islink(old):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.symlink(os.readlink(old), path)
        return
    if os.path.isdir(old):
        os.makedirs(path, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "x").close()
    mount(old, path, "", MS_BIND | MS_REC)
    lock(path, ATTR_NOSUID if devices else ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV)


def become_nobody(launcher: int) -> None:
    """Give up root for a user id that owns nothing."""
    nobody = NOBODY + launcher % 4000
    os.setgroups([])
    os.setresgid(nobody, nobody, nobody)
    os.setresuid(nobody, nobody, nobody)


def start(plan: dict[str, Any]) -> NoReturn:
    """In the child: enter the sandbox and become the interpreter."""
    if plan["how"] == "namespaces":
        furnish(plan)
        if plan["as_root"]:
            become_nobody(plan["launcher"])
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.execve(plan["command"][0], plan["command"], plan["environment"])


def watch(child: int) -> None:
    """Wait for the sandbox to end, or for the other end of our input to be closed; then end the sandbox."""
    descriptor = os.pidfd_open(child)
    poll = select.poll()
    poll.register(0, 0)  # only that the writer has gone; what is written there is the sandbox's to read
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def main() -> None:
    plan = json.loads(sys.argv[1])
    try:
        plan["launcher"] = os.getpid()
        plan["as_root"] = plan["how"] == "namespaces" and separate()
        child = os.fork()
        if child == 0:
            start(plan)
        os.close(1)
        watch(child)
    except OSError as error:
        sys.stderr.write(f"{error.strerror or error}\n")
        os._exit(1)


if __name__ == "__main__":
    main()
