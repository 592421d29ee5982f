import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tutee.errors import Busy
from tutee.lock import in_turn, is_held, only_one

HOLD = """
import sys
import threading
from pathlib import Path
from tutee.lock import only_one
with only_one(Path(sys.argv[1]), "a test"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_keeps_others_out_and_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "home" / "x.lock"
    assert not is_held(path)
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    assert is_held(path)
    with pytest.raises(Busy, match=f"a test, pid {other.pid}"), only_one(path, "me"):
        pass
    other.kill()
    other.wait()
    assert not is_held(path)
    with only_one(path, "me"):
        assert is_held(path)


def test_in_turn_waits_for_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    got: list[str] = []

    def second() -> None:
        with in_turn(path):
            got.append("second")

    with in_turn(path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        got.append("first")
    thread.join(60)
    assert got == ["first", "second"]
