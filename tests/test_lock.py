import subprocess
import sys
from pathlib import Path

import pytest

from tutee.errors import Busy
from tutee.lock import is_held, only_one

HOLD = """
import sys
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
