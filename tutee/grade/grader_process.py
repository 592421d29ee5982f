"""One sandboxed process with one person's `grade` in it: asked over a pipe, one JSON line a call, ended when it does
not answer.

Knows the protocol of `inside.py` and that what comes from there may be anything. Not thread-safe: `pythons.py` gives a
process to one caller at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tutee.grade.isolation import Limits
from tutee.grade.result import Failure

LAUNCHER = Path(__file__).parent / "launch.py"
MOST_ANSWER = 64 * 1024
MOST_QUESTION = 64 << 20
MOST_SAID = 4000
"""Characters of a complaint."""
OLD_AFTER_S = 300.0
"""Seconds in calls after which a process is replaced, so that what the grader leaves behind cannot pile up."""


class NotIsolated(Exception):
    """The sandbox could not be built; the message says why."""


class GraderProcess:
    """Started at once.

    Raises:
        NotIsolated: the sandbox did not come up.
        Failure: it did, but the source cannot be loaded.
    """

    def __init__(self, source: str, plan: Mapping[str, Any], limits: Limits) -> None:
        self._limits = limits
        self._calls = 0
        self._busy_s = 0.0
        self._rest = b""
        command = [sys.executable, "-I", "-S", str(LAUNCHER), json.dumps(plan)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env={}, cwd="/")
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        self._load(source, plan["how"])

    @property
    def usable(self) -> bool:
        """Whether another call may be put to it."""
        return self._process.returncode is None and self._busy_s < OLD_AFTER_S

    def call(self, sample: Mapping[str, Any], item: Mapping[str, Any]) -> float:
        """`grade(sample, item)`. Raises Failure; the process is then ended unless the function merely raised."""
        self._calls += 1
        began = time.monotonic()
        try:
            question = {"call": self._calls, "sample": sample, "item": item}
            answer = self._exchange(question, self._limits.seconds, "the grader")
        finally:
            self._busy_s += time.monotonic() - began
        reward = answer.get("reward")
        if isinstance(reward, int | float) and answer.get("call") == self._calls and abs(reward) <= sys.float_info.max:
            return float(reward)
        if answer.get("memory") or "error" not in answer:
            self.close()
        raise Failure("python_grader_runtime_error", _said(answer, "The grader's process gave no answer."))

    def close(self) -> None:
        """End the process and everything in it."""
        self._process.kill()  # its child dies with it
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        self._process.wait()

    def _load(self, source: str, how: str) -> None:
        limits = {
            "memory": self._limits.memory,
            "file": self._limits.tmp,
            "cpu": self._limits.cpu_seconds,
            "files": self._limits.files,
            "unfiltered": how == "none",
        }
        try:
            answer = self._exchange({"source": source, "limits": limits}, self._limits.start_seconds, "its source")
        except _Ended as ended:
            raise NotIsolated(ended.message) from None
        if answer.get("server"):
            self.close()
            raise NotIsolated(str(answer["error"]))
        if not answer.get("ready"):
            self.close()
            raise Failure("python_grader_runtime_error", _said(answer, "Its source cannot be loaded."))

    def _exchange(self, message: Mapping[str, Any], seconds: float, what: str) -> dict[str, Any]:
        try:
            line = json.dumps(message).encode() + b"\n"
        except (TypeError, ValueError, RecursionError) as error:
            raise Failure("sample_parse_error", f"The item or the sample is no JSON: {error}.") from None
        if len(line) > MOST_QUESTION:
            raise Failure("truncated_observation_error", f"Item and sample have more than {MOST_QUESTION} bytes.")
        try:
            answer = json.loads(self._talk(line, time.monotonic() + seconds))
        except TimeoutError:
            self.close()
            said = f"{what} took more than {seconds:g} s and was ended"
            raise Failure("python_grader_runtime_error", said, "unresponsive_reward_error") from None
        except (ValueError, RecursionError):
            self.close()
            raise Failure("python_grader_runtime_error", f"{what} wrote what is no answer") from None
        return answer if isinstance(answer, dict) else {}

    def _talk(self, line: bytes, deadline: float) -> bytes:
        """Write a line and read one, in whatever order the other side works.

        Raises:
            TimeoutError, ValueError (too much was said), _Ended.
        """
        unsent = memoryview(line)
        with selectors.DefaultSelector() as selector:
            selector.register(self._to, selectors.EVENT_WRITE)
            selector.register(self._from, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready and time.monotonic() >= deadline:
                    raise TimeoutError
                for key, _ in ready:
                    if key.fd == self._from:
                        self._read()
                    elif not unsent:
                        selector.unregister(self._to)
                    else:
                        unsent = unsent[self._write(unsent) :]
        answer, _, self._rest = self._rest.partition(b"\n")
        return answer

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            piece = os.read(self._from, MOST_ANSWER)
            if not piece:
                raise self._end()
            self._rest += piece
        if len(self._rest) > MOST_ANSWER:
            raise ValueError

    def _write(self, piece: memoryview) -> int:
        try:
            return os.write(self._to, piece[: 1 << 16])
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            raise self._end() from None

    def _end(self) -> _Ended:
        """Collect the dead process; what it said on standard error is the launcher's or the interpreter's word."""
        said = b""
        if self._process.stderr is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
            os.set_blocking(self._process.stderr.fileno(), False)
            said = self._process.stderr.read(4000) or b""
        self.close()
        return _Ended(said.decode("utf-8", "replace").strip()[-500:])


def _said(answer: Mapping[str, Any], instead: str) -> str:
    """What it complains of, as text that can be sent on and kept: a person's code may raise any string."""
    text = str(answer.get("error", instead))[:MOST_SAID]
    return text.encode("utf-8", "replace").decode().replace("\0", "?")


class _Ended(Failure):
    """The process is gone."""

    def __init__(self, said: str) -> None:
        message = "the grader's process ended" + (f": {said}" if said else " (out of memory or time, or by itself)")
        super().__init__("python_grader_runtime_error", message)
