"""What runs inside the sandbox: one person's `grade(sample, item)`, asked one line after another.

Standard library only, and no import of ours: this file's text is given to a bare interpreter (`python -c`), which sees
neither tutee nor the home. Before the person's code is loaded it gives up, for good: more memory, files, processes and
time than it was allowed (rlimits), and the system calls for sockets, processes, other programs, mounts and other
people's memory (a seccomp filter; on x86-64 and AArch64). Threads count as processes: there are none.

Protocol, one JSON object a line. In: `{"source", "limits"}` first, then `{"call", "sample", "item"}`. Out:
`{"ready": true}`, then `{"call", "reward"}`, or `{"error"}` with what went wrong.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import resource
import struct
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

Grade = Callable[[Any, Any], Any]

MOST_SAID = 2000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
ALLOW, EPERM_REPLY, KILL = 0x7FFF0000, 0x00050001, 0x80000000
LOAD, EQUALS, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
SHARED_NUMBERS = [
    *range(425, 434),  # io_uring (3), then open_tree, move_mount, fsopen, fsconfig, fsmount, fspick
    434,  # pidfd_open
    435,  # clone3
    438,  # pidfd_getfd
    442,  # mount_setattr
]
FORBIDDEN = {
    "x86_64": (
        0xC000003E,
        [
            *(41, 53),  # socket, socketpair
            *(56, 57, 58, 59, 322),  # clone, fork, vfork, execve, execveat
            *(101, 310, 311),  # ptrace, process_vm_readv, process_vm_writev
            *(155, 161, 165, 166, 272, 308),  # pivot_root, chroot, mount, umount2, unshare, setns
            *(175, 176, 246, 313, 320),  # modules, kexec
            *(29, 64, 68, 240, 319),  # shmget, semget, msgget, mq_open, memfd_create: memory beyond the limit
            *(248, 249, 250),  # keys
            *(298, 303, 304, 321, 323, 135),  # perf, file handles, bpf, userfaultfd, personality
            *(62, 200, 234, 424),  # kill, tkill, tgkill, pidfd_send_signal
        ],
    ),
    "aarch64": (
        0xC00000B7,
        [
            *(198, 199),
            *(220, 221, 281),
            *(117, 270, 271),
            *(41, 51, 40, 39, 97, 268),
            *(105, 106, 104, 273, 294),
            *(194, 190, 186, 180, 279),
            *(217, 218, 219),
            *(241, 264, 265, 280, 282, 92),
            *(129, 130, 131, 424),
        ],
    ),
}
"""Per machine: the audit architecture that the kernel reports, and system calls that are answered with EPERM."""


def set_limits(limits: dict[str, Any]) -> None:
    """`memory` and `file` in bytes, `cpu` in seconds, `files` open at once; no processes, no core file."""
    for kind, most in (
        (resource.RLIMIT_AS, limits["memory"]),
        (resource.RLIMIT_FSIZE, limits["file"]),
        (resource.RLIMIT_CPU, limits["cpu"]),
        (resource.RLIMIT_NOFILE, limits["files"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def filter_calls() -> bool:
    """Install the seccomp filter. Returns whether this machine's numbers are known."""
    if platform.machine() not in FORBIDDEN:
        return False
    architecture, numbers = FORBIDDEN[platform.machine()]
    numbers = sorted({*numbers, *SHARED_NUMBERS})
    steps = [
        (LOAD, 0, 0, 4),  # the architecture: numbers mean something else on another
        (EQUALS, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),  # the number
        (AT_LEAST, len(numbers) + 1, 0, 0x40000000),  # the x32 numbers
        *((EQUALS, len(numbers) - i, 0, number) for i, number in enumerate(numbers)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, EPERM_REPLY),
    ]
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)
    text = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(steps), ctypes.addressof(text))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0):
        raise OSError(ctypes.get_errno(), "the system calls cannot be filtered")
    return True


def load(source: str) -> Grade:
    """The function `grade` of a source."""
    space: dict[str, Any] = {"__name__": "grader", "__builtins__": __builtins__}
    exec(compile(source, "grader.py", "exec"), space)
    if not callable(space.get("grade")):
        raise TypeError("the source defines no function 'grade(sample, item)'")
    grade: Grade = space["grade"]
    return grade


def call(grade: Grade, sample: Any, item: Any) -> float:
    """The function's finite number."""
    value = grade(sample, item)
    if value is None or isinstance(value, str):
        raise TypeError(f"grade returned {value!r}, not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"grade returned {number}, which is not finite")
    return number


def explain(error: BaseException) -> str:
    """Type, message and the lines of the person's own code."""
    try:
        lines = [line for line in traceback.format_exception(error) if '"<string>"' not in line]
        return "".join(lines).strip()[-MOST_SAID:]
    except BaseException:
        return type(error).__name__


def serve(lines: Iterable[str], out: TextIO) -> None:
    """Answer until there are no more lines."""
    grade: Grade | None = None
    for line in lines:
        asked = json.loads(line)
        try:
            if grade is None:
                grade = load(asked["source"])
                answer: dict[str, Any] = {"ready": True}
            else:
                answer = {"call": asked["call"], "reward": call(grade, asked["sample"], asked["item"])}
        except BaseException as error:  # also SystemExit and KeyboardInterrupt: a person's code may raise anything
            answer = {"call": asked.get("call"), "error": explain(error), "memory": isinstance(error, MemoryError)}
        out.write(json.dumps(answer) + "\n")
        out.flush()


def main() -> None:
    lines = os.fdopen(os.dup(0), "r", encoding="utf-8")
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # what the person's code prints goes nowhere
        os.dup2(nowhere, standard)
    first = next(lines)
    limits = json.loads(first)["limits"]
    set_limits(limits)
    filtered = filter_calls()
    if not (filtered or limits["unfiltered"]):
        out.write(json.dumps({"error": "the system calls of this machine cannot be filtered", "server": True}) + "\n")
        return
    sys.argv = ["grader.py"]

    def all_lines() -> Iterator[str]:
        yield first
        yield from lines

    serve(all_lines(), out)


if __name__ == "__main__":
    main()
