"""A command of tutee that ends with the process that started it: `python -m tutee.serve.child PARENT_PID worker`.

Without this a server that is killed outright would leave its worker behind, training for nobody. The command gets
SIGTERM, as if somebody had asked it to stop, so a worker puts its job back first.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 30.0


def end_with(parent: int) -> None:
    """Wait until this process has another parent than `parent`, then ask it to stop, and insist after a while."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE_SECONDS)
    os._exit(1)


def main() -> None:
    """Run the command that is named after the parent's process id."""
    parent = int(sys.argv[1])
    threading.Thread(target=end_with, args=(parent,), name="parent-watch", daemon=True).start()
    sys.argv = ["tutee", *sys.argv[2:]]
    runpy.run_module("tutee", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
