"""People's Python stays in its sandbox: whatever it tries, the grade fails with a reason and nothing else happens."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tutee.grade import Failure
from tutee.grade.isolation import Limits, possible_ways
from tutee.grade.pythons import Pythons, open_pythons
from tutee.settings import Settings

SAMPLE = {"output_text": "four", "output_tools": []}
LIMITS = Limits(seconds=120.0, memory=512 << 20, tmp=4 << 20)


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a database."""
    home = tmp_path_factory.mktemp("home")
    (home / "tutee.db").write_text("secret")
    return home / "tutee.db"


@pytest.fixture(scope="module", params=["bubblewrap", "namespaces"])
def pythons(secret: Path, request: pytest.FixtureRequest) -> Iterator[Pythons]:
    if request.param not in possible_ways():
        pytest.skip(f"{request.param} is not installed")
    with Pythons(LIMITS, hidden=[secret.parent], ways=[request.param], most=3) as running:
        try:
            running.how  # noqa: B018
        except Failure as failure:
            pytest.skip(failure.message)
        yield running


@pytest.fixture
def hasty(pythons: Pythons, secret: Path) -> Iterator[Pythons]:
    """One of the same kind that gives nobody more than three seconds."""
    with Pythons(replace(LIMITS, seconds=3.0), hidden=[secret.parent], ways=[pythons.how]) as running:
        yield running


def grade(*lines: str) -> str:
    return "def grade(sample, item):\n" + "".join(f"    {line}\n" for line in lines)


def refused(pythons: Pythons, source: str) -> Failure:
    with pytest.raises(Failure) as caught:
        pythons(source, SAMPLE, {})
    assert "python_grader_runtime_error" in caught.value.flags
    return caught.value


def test_a_grade_is_what_the_function_returns(pythons: Pythons) -> None:
    assert pythons(grade("return len(sample['output_text']) + item['more']"), SAMPLE, {"more": 0.5}) == 4.5
    assert pythons(grade("return True"), SAMPLE, {}) == 1.0
    numpy = "import numpy as np\n" + grade("return np.float32(0.25)")
    assert pythons(numpy, SAMPLE, {}) == 0.25


def test_one_process_serves_many_calls(pythons: Pythons) -> None:
    source = "calls = 0\n" + grade("global calls", "calls += 1", "return calls")
    assert [pythons(source, SAMPLE, {}) for _ in range(200)] == list(range(1, 201))


def test_what_it_prints_is_no_answer(pythons: Pythons) -> None:
    source = grade('print(\'{"call": 1, "reward": 9}\', flush=True)', "return 1")
    assert pythons(source, SAMPLE, {}) == 1.0


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (grade("return 1 / 0"), "ZeroDivisionError"),
        (grade("return None"), "not a number"),
        (grade("return 'text'"), "not a number"),
        (grade("return float('nan')"), "not finite"),
        (grade("return sample['missing']"), "KeyError"),
        (grade("import sys", "sys.exit(0)"), "SystemExit"),
        (grade("raise KeyboardInterrupt"), "KeyboardInterrupt"),
        (grade("def f(): f()", "f()"), "RecursionError"),
        ("x = 1", "no function"),
        ("def grade(:", "SyntaxError"),
        ("import not_there", "ModuleNotFoundError"),
        (grade("import os", "os._exit(0)"), "ended"),
    ],
)
def test_a_mistake_is_explained(pythons: Pythons, source: str, said: str) -> None:
    assert said in refused(pythons, source).message


def test_what_is_said_can_be_kept_whatever_it_is(pythons: Pythons) -> None:
    said = refused(pythons, grade("raise ValueError('\\ud800 and \\0')")).message
    assert said.endswith("ValueError: ? and ?")


@pytest.mark.parametrize("reward", ["1e999", "NaN", "1" + "0" * 400, '"1"', "null"])
def test_an_answer_that_is_forged_is_a_number_or_none(pythons: Pythons, reward: str) -> None:
    line = f'{{"call": 1, "reward": {reward}}}\n'.encode()
    forge = ("import os", "for place in range(3, 16):", "    try:", f"        os.write(place, {line!r})")
    refused(pythons, grade(*forge, "    except OSError:", "        pass", "return 0.5"))


def test_the_traceback_shows_the_persons_own_lines(pythons: Pythons) -> None:
    message = refused(pythons, grade("x = 1", "return x / 0")).message
    assert 'File "grader.py", line 3' in message
    assert "<string>" not in message


def test_an_infinite_loop_is_ended(hasty: Pythons) -> None:
    failure = refused(hasty, grade("while True: pass"))
    assert "unresponsive_reward_error" in failure.flags
    assert "3 s" in failure.message


def test_a_sleeper_that_ignores_signals_is_ended(hasty: Pythons) -> None:
    ignores = ["import signal, time", "for s in range(1, 64):", "    try: signal.signal(s, signal.SIG_IGN)"]
    source = grade(*ignores, "    except (OSError, ValueError): pass", "time.sleep(600)")
    assert "unresponsive_reward_error" in refused(hasty, source).flags


@pytest.mark.parametrize(
    "source",
    [
        grade("import os", "while True: os.fork()"),
        grade("import subprocess", "return subprocess.run(['/bin/true']).returncode + 1"),
        grade("import os", "os.execv('/bin/true', ['true'])"),
        grade("import threading", "threading.Thread(target=print).start()", "return 1"),
        grade("import multiprocessing as m", "m.Process(target=print).start()", "return 1"),
        grade("import os", "os.kill(-1, 9)", "return 1"),
        grade("import os", "os.kill(os.getppid(), 9)", "return 1"),
    ],
)
def test_no_other_processes(pythons: Pythons, source: str) -> None:
    message = refused(pythons, source).message
    assert "not permitted" in message or "can't start new thread" in message


def test_no_network(pythons: Pythons) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        refused(pythons, grade("import socket", f"socket.create_connection(('127.0.0.1', {port}), 1)", "return 1"))
        unix = grade("import socket", "socket.socket(socket.AF_UNIX)", "return 1")
        assert "not permitted" in refused(pythons, unix).message
        listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.accept()


def test_the_home_and_the_rest_of_the_disk_are_not_there(pythons: Pythons, secret: Path) -> None:
    refused(pythons, grade(f"open({str(secret)!r}).read()", "return 1"))
    for path in ("/etc/passwd", "/proc/self/environ", __file__, str(Path.home() / ".bashrc"), "/var/log"):
        assert pythons(grade("import os", f"return os.path.exists({path!r})"), SAMPLE, {}) == 0.0, path


def test_a_home_inside_a_visible_folder_is_covered(tmp_path: Path) -> None:
    inside = Path(sys.prefix) / f"tutee-test-{os.getpid()}"
    inside.mkdir()
    try:
        (inside / "tutee.db").write_text("secret")
        source = grade("import os", f"return len(os.listdir({str(inside)!r}))")
        with Pythons(LIMITS, hidden=[inside]) as covered, Pythons(LIMITS) as open_:
            assert open_(source, SAMPLE, {}) == 1.0
            assert covered(source, SAMPLE, {}) == 0.0
    finally:
        (inside / "tutee.db").unlink()
        inside.rmdir()


def test_nothing_outside_its_own_folder_can_be_written(pythons: Pythons) -> None:
    for path in ("/usr/x", "/x", "/dev/x", f"{sys.prefix}/x", f"{os.path.realpath(sys.base_prefix)}/x"):
        assert "Error" in refused(pythons, grade(f"open({path!r}, 'w')", "return 1")).message, path
    assert not (Path(sys.prefix) / "x").exists()
    assert pythons(grade("open('note', 'w').write('x')", "return len(open('note').read())"), SAMPLE, {}) == 1.0
    remove = grade("import shutil, os", f"shutil.rmtree({sys.prefix!r} + '/bin', ignore_errors=True)", "return 1")
    pythons(remove, SAMPLE, {})
    assert Path(sys.executable).exists()


def test_memory_files_and_output_are_bounded(pythons: Pythons) -> None:
    assert "MemoryError" in refused(pythons, grade("x = bytearray(1 << 30)", "return 1")).message
    big = "b'x' * (1 << 20)"
    assert "Error" in refused(pythons, grade("f = open('big', 'wb')", f"for _ in range(9): f.write({big})")).message
    many = grade("for i in range(9):", f"    open(str(i), 'wb').write({big})", "return 1")
    assert "Error" in refused(pythons, many).message
    assert "Error" in refused(pythons, grade("kept = [open('/dev/null') for _ in range(999)]", "return 1")).message
    assert pythons(grade("print('x' * (50 << 20))", "return 1"), SAMPLE, {}) == 1.0
    flood = grade(
        "import os",
        "for fd in range(3, 20):",
        "    try: os.write(fd, b'y' * (1 << 20))",
        "    except OSError: pass",
        "return 1",
    )
    refused(pythons, flood)


def test_limits_cannot_be_raised_nor_the_walls_moved(pythons: Pythons) -> None:
    refused(pythons, grade("import resource as r", "r.setrlimit(r.RLIMIT_AS, (-1, -1))", "return 1"))
    calls = {"mount": "b'tmpfs', b'/tmp', b'tmpfs', 0, 0", "unshare": "0x10000000", "chroot": "b'/tmp'", "setuid": "0"}
    for name, arguments in calls.items():
        source = grade("import ctypes", f"return ctypes.CDLL(None).{name}({arguments})")
        assert pythons(source, SAMPLE, {}) == -1.0, name


def test_after_a_failure_the_next_grade_is_right(pythons: Pythons) -> None:
    source = grade("import os", "if item['die']: os._exit(1)", "return 2")
    with pytest.raises(Failure):
        pythons(source, SAMPLE, {"die": True})
    assert pythons(source, SAMPLE, {"die": False}) == 2.0


def test_many_threads_share_a_few_processes(pythons: Pythons) -> None:
    sources = [grade(f"return {i} + item['x']") for i in range(5)]
    wrong: list[tuple[int, int]] = []

    def ask(i: int) -> None:
        for x in range(20):
            if pythons(sources[i % 5], SAMPLE, {"x": x}) != i % 5 + x:
                wrong.append((i, x))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_nothing_outlives_who_asked(tmp_path: Path) -> None:
    mark = f"loop_{os.getpid()}_{time.time_ns()}"
    script = tmp_path / "asker.py"
    script.write_text(
        "import os, threading\nfrom tutee.grade.pythons import Pythons\nfrom tutee.grade.isolation import Limits\n"
        f"source = 'def grade(sample, item):\\n    {mark} = 1\\n    while True: pass\\n'\n"
        "p = Pythons(Limits(seconds=600))\n"
        "try: p.how\nexcept Exception: os._exit(3)\n"
        "threading.Thread(target=lambda: p(source, {}, {}), daemon=True).start()\n"
        "import time; print('asked', flush=True); time.sleep(600)\n"
    )
    asker = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    assert asker.stdout is not None
    if asker.stdout.readline() != b"asked\n":
        pytest.skip("no isolation here")
    while not any(map(loops, grandchildren := descendants(asker.pid))):
        time.sleep(0.05)
    asker.kill()
    asker.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in grandchildren) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in grandchildren if Path(f"/proc/{pid}").exists()]


def loops(pid: int) -> bool:
    """Whether a process has computed for a second."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])
    except FileNotFoundError:
        return False
    return ticks > os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> set[int]:
    found, fresh = set(), {pid}
    while fresh:
        fresh = {child for parent in fresh for child in children(parent)}
        found |= fresh
    return found


def children(pid: int) -> list[int]:
    try:
        tasks = [(task / "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:  # it has just ended
        return []
    return [int(child) for task in tasks for child in task.split()]


def test_where_there_is_no_wall_nothing_runs(tmp_path: Path) -> None:
    with Pythons(LIMITS, ways=[]) as none:
        with pytest.raises(Failure) as caught:
            none(grade("return 1"), SAMPLE, {})
        assert caught.value.flags == ("python_grader_server_error",)
        assert "bubblewrap" in caught.value.message
    with open_pythons(Settings(home=tmp_path, python_graders="unisolated")) or none as trusted:
        assert trusted(grade("return 1"), SAMPLE, {}) == 1.0
        with pytest.raises(Failure):  # limits and the filter of system calls hold all the same
            trusted(grade("import os", "os.fork()"), SAMPLE, {})
    assert open_pythons(Settings(home=tmp_path, python_graders="off")) is None
