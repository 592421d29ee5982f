"""Runs Python graders: a few sandboxed processes, kept between calls, so that a grade costs a round trip over a pipe.

The same source asked again finds its process warm; what a source leaves in its globals is therefore still there at the
next call. Where no sandbox can be built, nothing is run and the error says what to install, unless the operator chose
to run graders without one.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tutee.grade.grader_process import GraderProcess, NotIsolated
from tutee.grade.isolation import DOCUMENTATION, How, Limits, plan, possible_ways
from tutee.grade.result import Failure
from tutee.settings import Settings

TRIVIAL = "def grade(sample, item):\n    return 1.0\n"
WAIT_S = 60.0


def open_pythons(settings: Settings) -> Pythons | None:
    """What the settings allow; None where Python graders are off. The home is hidden from every grader."""
    if settings.python_graders == "off":
        return None
    return Pythons(unisolated=settings.python_graders == "unisolated", hidden=[settings.home])


class Pythons:
    """A `RunPython`: `pythons(source, sample, item)`. Thread-safe.

    Args:
        unisolated: the operator's word that graders may run as this user, with limits and without network and other
            programs, but seeing its files.
        hidden: folders that no grader may see, wherever they lie: the home.
        ways: the walls to try, best first; by default every one that could work here.
        most: processes at once, idle ones included.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        unisolated: bool = False,
        hidden: Sequence[Path] = (),
        ways: Sequence[How] | None = None,
        most: int = 4,
    ) -> None:
        self._limits = limits or Limits()
        self._hidden = hidden
        self._ways = possible_ways() if ways is None else ways
        self._unisolated = unisolated
        self._most = most
        self._lock = threading.Condition()
        self._finding = threading.Lock()
        self._idle: dict[str, list[GraderProcess]] = {}
        self._count = 0
        self._found: tuple[How | None, str] | None = None
        self._closed = False

    def __call__(self, source: str, sample: Mapping[str, Any], item: Mapping[str, Any]) -> float:
        """What `grade(sample, item)` of the source returns.

        Raises:
            Failure: `python_grader_runtime_error` when the function raised, returned no finite number, took too long
                or too much; `python_grader_server_error` when there is no sandbox.
        """
        process = self._take(source)
        try:
            return process.call(sample, item)
        finally:
            self._give_back(source, process)

    @property
    def how(self) -> How:
        """How graders are walled in. Raises Failure when they cannot be."""
        with self._finding:
            if self._found is None:
                self._found = ("none", "") if self._unisolated else self._find()
        how, reason = self._found
        if how is None:
            raise Failure("python_grader_server_error", reason)
        return how

    def close(self) -> None:
        """End every idle process; those at work are ended when they answer."""
        with self._lock:
            self._closed = True
            left = [process for idle in self._idle.values() for process in idle]
            self._idle.clear()
        for process in left:
            process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _find(self) -> tuple[How | None, str]:
        reasons = []
        for how in self._ways:
            try:
                self._start(TRIVIAL, how).close()
            except (NotIsolated, Failure, OSError) as error:
                reasons.append(f"{how}: {error}")
            else:
                return how, ""
        tried = "; ".join(reasons)
        said = f"Python graders cannot be isolated on this machine ({tried}), so they are not run. Install bubblewrap"
        return None, f"{said}, or see {DOCUMENTATION}."

    def _start(self, source: str, how: How) -> GraderProcess:
        return GraderProcess(source, plan(how, self._limits, self._hidden), self._limits)

    def _take(self, source: str) -> GraderProcess:
        how = self.how
        with self._lock:
            if not self._lock.wait_for(lambda: bool(self._idle) or self._count < self._most, WAIT_S):
                raise Failure("python_grader_server_error", "Every grader process is at work.")
            if self._closed:
                raise Failure("python_grader_server_error", "The server is being stopped.")
            if source in self._idle:
                return self._pop(source)
            evicted = None
            if self._count >= self._most:
                evicted = self._pop(next(iter(self._idle)))
            else:
                self._count += 1
        try:
            if evicted is not None:
                evicted.close()
            return self._start(source, how)
        except BaseException as error:
            with self._lock:
                self._count -= 1
                self._lock.notify()
            if isinstance(error, NotIsolated | OSError):
                raise Failure("python_grader_server_error", f"The sandbox did not start: {error}.") from error
            raise

    def _pop(self, source: str) -> GraderProcess:
        idle = self._idle[source]
        process = idle.pop()
        if not idle:
            del self._idle[source]
        return process

    def _give_back(self, source: str, process: GraderProcess) -> None:
        with self._lock:
            keep = process.usable and not self._closed
            if keep:
                # the source used last goes to the end, so the first is the one to evict
                self._idle[source] = [*self._idle.pop(source, []), process]
            else:
                self._count -= 1
            self._lock.notify()
        if not keep:
            process.close()
