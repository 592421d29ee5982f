"""A real server process with a scripted model, and a real Chromium that may talk to nothing else."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.browser.scripted_model import write_scripted_model
from tests.ports import Port

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "artifacts" / "browser"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MEMORY = """
window.notices = [];
window.copies = 0;
new MutationObserver(changes => {
  const added = changes.flatMap(change => [...change.addedNodes]).filter(node => node instanceof Element);
  const found = added.flatMap(one => one.matches("[data-toast]") ? one : [...one.querySelectorAll("[data-toast]")]);
  notices.push(...found.map(one => one.textContent));
  const said = changes.map(change => change.target).filter(node => node instanceof Element);
  copies += said.filter(one => one.matches("[data-action=copy][aria-label=Copied]")
                               || (one.matches(".code-copy") && one.textContent === "Copied")).length;
}).observe(document, { childList: true, subtree: true, attributes: true, attributeFilter: ["aria-label"] });
"""
"""Remembers what the page's notices said, and how often it said that something was copied: both go by themselves."""
PATIENCE_MS = 60_000
READY_S = 300
"""A machine that does other work too is slow, not broken."""
SLOWDOWN = float(os.environ.get("TUTEE_TEST_SLOWDOWN", "1"))
"""How many times slower the page's own thread runs than it could: races that only busy machines show come out at 8."""

playwright_api = pytest.importorskip("playwright.sync_api", reason="needs the playwright package")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder is a browser test."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.browser)


@dataclass
class Served:
    """A server on a home of its own. `kill` is kill -9; the home stays."""

    home: Path
    log: Path
    port: Port = field(default_factory=Port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port.number}"

    def start(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TUTEE_")}
        settings = {"TUTEE_HOME": str(self.home), "TUTEE_PORT": str(self.port.number), "TUTEE_MODEL": "scripted"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tutee", "serve"], env=kept | settings, stdout=log, stderr=log, cwd=self.home
            )
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", timeout=2).status_code == 200:
                    return
            time.sleep(0.1)
        pytest.fail(f"The server does not get ready: {self.log.read_text()[-3000:]}")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.process.kill()
        self.port.close()

    def worker(self) -> int:
        """The pid of its worker, which starts a moment after it."""
        lock, deadline = self.home / "worker.lock", time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if lock.is_file() and (found := re.search(r"pid (\d+)", lock.read_text())):
                return int(found[1])
            time.sleep(0.1)
        pytest.fail(f"No worker starts: {self.log.read_text()[-3000:]}")

    @contextlib.contextmanager
    def worker_at_rest(self) -> Iterator[None]:
        """Its worker stands still for the time of the block, and does not hold the database's lock meanwhile."""
        pid = self.worker()
        try:
            _stop(pid)
            while not self._may_write():
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.05)
                _stop(pid)
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def _may_write(self) -> bool:
        with contextlib.closing(sqlite3.connect(self.home / "tutee.db", timeout=1, isolation_level=None)) as database:
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            database.execute("ROLLBACK")
            return True

    def call(self, method: str, path: str, **options: object) -> dict:
        """A native route, as the local owner."""
        response = httpx.request(method, f"{self.url}/v1/tutee{path}", timeout=PATIENCE_MS / 1000, **options)
        assert response.status_code < 300, response.text
        return response.json()


def _stop(pid: int) -> None:
    """Stop a process with all its threads, which takes the kernel a moment."""
    os.kill(pid, signal.SIGSTOP)
    while any(
        thread.read_text().rpartition(")")[2].split()[0] != "T" for thread in Path(f"/proc/{pid}/task").glob("*/stat")
    ):
        time.sleep(0.01)


@pytest.fixture(scope="session")
def built_page() -> None:
    """The page as its sources are now."""
    done = subprocess.run([sys.executable, ROOT / "web" / "build_page.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    if not (ROOT / "tutee" / "serve" / "page" / "index.html").is_file():
        pytest.skip(done.stderr.strip())


@pytest.fixture(scope="session")
def make_served(built_page: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """Starts servers, each on a fresh home, and ends them. `model` says what the scripted model says."""
    running = []

    def make(**model: object) -> Served:
        folder = tmp_path_factory.mktemp("served")
        write_scripted_model(folder / "home" / "models" / "scripted", **model)
        served = Served(folder / "home", folder / "serve.log")
        running.append(served)  # first: one that does not get ready is ended too
        served.start()
        return served

    yield make
    for served in running:
        served.stop()


@pytest.fixture(scope="session")
def served(make_served: Callable[..., Served]) -> Served:
    """The server that most journeys share."""
    return make_served()


@pytest.fixture(scope="package")
def chromium() -> Iterator[object]:
    """One Chromium for all journeys. Playwright's event loop runs in this thread until it is stopped, so it ends
    with the package: tests of other folders start loops of their own."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Window:
    """A page that remembers what went wrong in it and where it talked to."""

    page: object
    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@pytest.fixture
def make_page(chromium: object, served: Served) -> Iterator[Callable[..., object]]:
    """Opens pages in contexts of their own; at the end none may have thrown, or asked another machine for anything."""
    windows: list[Window] = []

    def make(server: Served | None = None, max_tokens: int | None = 60, **options: object) -> object:
        origin = (server or served).url
        settings = {"viewport": {"width": 1280, "height": 820}, "permissions": ["clipboard-read", "clipboard-write"]}
        context = chromium.new_context(base_url=origin, **(settings | options))
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        if SLOWDOWN > 1:
            context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": SLOWDOWN})
        window = Window(page)
        allowed = (f"{origin}/", f"blob:{origin}/", "data:")
        page.on("request", lambda request: request.url.startswith(allowed) or window.foreign.append(request.url))
        page.on("pageerror", lambda error: window.errors.append(str(error)))
        page.add_init_script(MEMORY)
        if max_tokens is not None:
            page.add_init_script(
                f"""localStorage.getItem("tutee.sampling")
                    ?? localStorage.setItem("tutee.sampling", '{{"max_tokens": {max_tokens}}}')"""
            )
        windows.append(window)
        return page

    yield make
    for window in windows:
        window.page.context.close()
    assert [url for window in windows for url in window.foreign] == []
    assert [error for window in windows for error in window.errors] == []


@pytest.fixture
def page(make_page: Callable[..., object]) -> object:
    """A page on the shared server whose answers are short."""
    return make_page()


@pytest.fixture
def shoot(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keeps a screenshot among the artefacts."""

    def save(page: object, name: str) -> None:
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=ARTIFACTS / f"{request.node.originalname}-{name}.png", animations="disabled")

    return save
