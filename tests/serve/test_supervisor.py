"""One server a home, the watch over the worker, and `serve` itself as a process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.serve.conftest import serving
from tutee.errors import Busy, InvalidInput, Unavailable
from tutee.lock import only_one
from tutee.serve import supervisor as module
from tutee.serve.app import open_services
from tutee.serve.run import open_socket
from tutee.serve.supervisor import Supervisor, worker_environment
from tutee.settings import Settings, load_settings


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def test_a_second_server_on_the_same_home_is_refused(make_home: Callable[..., Settings]) -> None:
    settings = make_home()
    with serving(settings) as running:
        with pytest.raises(Busy, match=f"pid {os.getpid()}.*TUTEE_HOME") as caught, open_services(settings):
            pass
        assert str(settings.home) in caught.value.message
        assert running.http().get("/health").status_code == 200
    with only_one(settings.home / "server.lock", "a test"):
        pass


def test_a_home_without_a_model_says_so(make_home: Callable[..., Settings]) -> None:
    with pytest.raises(InvalidInput), open_services(make_home(model="absent"), worker=False):
        pass


def test_a_port_in_use_says_so(make_home: Callable[..., Settings]) -> None:
    with open_socket(make_home(port=0)) as first:
        first.listen()
        with pytest.raises(Unavailable, match="PORT="):
            open_socket(make_home(port=first.getsockname()[1]))


def test_a_worker_that_dies_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.05)
    watch = Supervisor([sys.executable, "-c", "import time; time.sleep(600)"], dict(os.environ))
    watch.start()
    wait_until(lambda: watch.pid)
    first = watch.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: watch.pid not in (None, first))
    second = watch.pid
    assert second is not None
    watch.close()
    assert watch.starts == 2
    with pytest.raises(ProcessLookupError):
        os.kill(second, 0)


def test_a_worker_that_keeps_failing_is_tried_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.15)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 1.0)
    watch = Supervisor([sys.executable, "-S", "-c", "raise SystemExit(3)"], dict(os.environ))
    pauses: list[float] = []
    waits = watch._closing.wait

    def noting(seconds: float) -> bool:
        pauses.append(seconds)
        return waits(seconds)

    watch._closing.wait = noting  # type: ignore[method-assign, assignment]
    watch.start()
    wait_until(lambda: watch.starts > 3)
    watch.close()
    looks = (0.0, 0.2)  # before the first start, and while the process lives
    assert [pause for pause in pauses if pause not in looks][:3] == [0.3, 0.6, 1.0]


def test_the_worker_gets_this_servers_settings(
    make_home: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUTEE_ADMIN_KEY", "secret")
    settings = make_home(max_batch=5)
    environment = worker_environment(settings)
    assert "TUTEE_ADMIN_KEY" not in environment
    read = load_settings(environment)
    assert (read.home, read.url, read.model, read.dtype) == (settings.home, settings.url, "tiny", "float32")
    assert (read.threads, read.max_batch) == (1, 5)


def test_serve_as_a_process_says_where_it_is_and_ends_with_its_worker(make_home: Callable[..., Settings]) -> None:
    settings = make_home()
    environment = worker_environment(settings)
    command = [sys.executable, "-m", "tutee", "serve", "--port", "0"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        url = next(found[0] for line in lines if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        assert httpx.get(f"{url}/health").status_code == 200
        look = ["ps", "-o", "pid=", "--ppid", str(process.pid)]
        wait_until(lambda: bool(subprocess.run(look, capture_output=True).stdout))
        worker = int(subprocess.run(look, capture_output=True).stdout.split()[0])
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        wait_until(lambda: not Path(f"/proc/{worker}").exists())
    finally:
        process.kill()
        process.wait()


def test_the_worker_does_not_outlive_a_server_that_is_killed(make_home: Callable[..., Settings]) -> None:
    """The parent here is a small process in the server's place."""
    settings = make_home()
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, os, time\n"
            "command = [sys.executable, '-m', 'tutee.serve.child', str(os.getpid()), 'worker']\n"
            "print(subprocess.Popen(command).pid, flush=True)\n"
            "time.sleep(600)",
        ],
        env=worker_environment(settings),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    wait_until(lambda: (settings.home / "worker.lock").exists())
    parent.kill()
    parent.wait()
    wait_until(lambda: not Path(f"/proc/{worker}").exists() or _is_zombie(worker))


def _is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()
