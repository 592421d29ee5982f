"""A person's reward function in a process of its own, so that one that hangs can be ended.

The function has the shape of OpenAI's Python graders: `grade(sample, item) -> float`, where `sample` holds
`output_text`, `output_tokens` and `finish_reason`, and `item` the row behind the question with its `messages`. Run as
`python -m tutee.train.reward_process NAME FD SECONDS` this file is that process: it answers one JSON message after
another over a pipe. What the function prints goes to standard error.

It is not a sandbox, on purpose: whoever starts a run names a file or a module of their own, which may import its
neighbours, read files and ask a server, as they may themselves. A grader that came as text through the API is
somebody else's word; that one runs behind walls (`grade/pythons.py`), with none of these.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from tutee.errors import InvalidInput

Grade = Callable[[Mapping[str, Any], Mapping[str, Any]], float]
"""(sample, item) -> reward."""

START_S = 180.0
"""How long the module may take to be imported."""
QUIET = "ignore:'tutee.train.reward_process' found in sys.modules:RuntimeWarning"
"""The package imports this file, and Python runs it once more as a program: that is meant."""
DEFAULT_NAME = "grade"


class RewardError(Exception):
    """The function gave no usable number this time; the message says why."""


class RewardProcess:
    """The caller's end. Started at the first call, started anew after one that took too long.

    Args:
        name: `package.module:function` or `path/to/file.py:function`; without a function name it is `grade`.
        timeout_s: seconds that one call may take.

    Raises:
        InvalidInput: there is no such file, module or function, or it cannot be imported.
    """

    def __init__(self, name: str, timeout_s: float = 30.0) -> None:
        self.name = name
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._start()

    def __call__(self, sample: Mapping[str, Any], item: Mapping[str, Any]) -> float:
        """One reward. Raises RewardError: the function raised, took too long, or returned no finite number."""
        if self._pipe is None:
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send_bytes(json.dumps([sample, item]).encode())
            if not self._pipe.poll(self._timeout_s):
                self.close()
                raise RewardError(f"{self.name} took more than {self._timeout_s:g} s")
            answer = json.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            self.close()
            raise RewardError(f"{self.name} ended its process") from error
        if "error" in answer:
            raise RewardError(answer["error"])
        return float(answer["reward"])

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None

    def _start(self) -> None:
        ours, theirs = Pipe()
        command = [sys.executable, "-W", QUIET, "-m", "tutee.train.reward_process", self.name, str(theirs.fileno())]
        # One second of grace: the child's own alarm is only for the case that we are gone and it hangs.
        command.append(str(math.ceil(self._timeout_s) + 1))
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=2)
        theirs.close()
        self._pipe = ours
        try:
            ready = json.loads(ours.recv_bytes()) if ours.poll(START_S) else {"error": "its import took too long"}
        except EOFError:
            ready = {"error": "its process ended while it was imported"}
        if "error" in ready:
            self.close()
            raise InvalidInput(
                f"The reward function {self.name!r} cannot be used: {ready['error']}.",
                param="reward",
                code="invalid_reward",
            )


def load_function(name: str) -> Grade:
    """The function behind `module:function` or `file.py:function`.

    Raises:
        ImportError, AttributeError, OSError, and whatever the module raises when it is imported.
    """
    place, _, function = name.partition(":")
    if place.endswith(".py"):
        path = Path(place).resolve()
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise FileNotFoundError(f"there is no file {place}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    found = getattr(module, function or DEFAULT_NAME, None)
    if not callable(found):
        raise AttributeError(f"{place} has no function {function or DEFAULT_NAME!r}")
    return found  # type: ignore[no-any-return]


def call(function: Grade, sample: Mapping[str, Any], item: Mapping[str, Any]) -> float:
    """The function's number. Raises RewardError naming what went wrong instead."""
    try:
        reward = function(sample, item)
    except Exception as error:
        raise RewardError(f"it raised {type(error).__name__}: {error}") from error
    # numpy's numbers are fine, text and None are not; a bool is a score of 0 or 1.
    try:
        number = math.nan if isinstance(reward, str | None) else float(reward)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RewardError(f"it returned {reward!r}, which is not a finite number")
    return number


def _serve(name: str, descriptor: int, seconds: int) -> None:
    pipe = Connection(descriptor)
    try:
        function = load_function(name)
    except Exception as error:
        pipe.send_bytes(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        return
    pipe.send_bytes(b"{}")
    while True:
        try:
            sample, item = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        signal.alarm(seconds)
        try:
            answer: dict[str, Any] = {"reward": call(function, sample, item)}
        except RewardError as error:
            answer = {"error": str(error)}
        signal.alarm(0)
        pipe.send_bytes(json.dumps(answer).encode())


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
