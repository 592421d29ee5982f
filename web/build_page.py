"""Build the web page into `tutee/serve/page/`: as a hatchling build hook, or by hand with `python web/build_page.py`.

Runs `npm ci && npm run build` when the page is missing or older than its sources and Node is there; without Node it
says what to install and goes on, because the API works without a page. Knows nothing of the package it builds for.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand, where hatchling need not be installed
    BuildHookInterface = object

WEB = Path(__file__).resolve().parent
PAGE = WEB.parent / "tutee" / "serve" / "page"
OLDEST_NODE = (20, 19)
SOURCES = ("src", "public", "index.html", "package-lock.json", "vite.config.ts", "tsconfig.json")


def is_fresh() -> bool:
    """Whether the built page is there and no source is newer than it."""
    index = PAGE / "index.html"
    if not index.is_file():
        return False
    built = index.stat().st_mtime
    files = (file for name in SOURCES for file in ((WEB / name).rglob("*") if (WEB / name).is_dir() else [WEB / name]))
    return all(file.stat().st_mtime <= built for file in files if file.is_file())


def missing_tools() -> str:
    """What has to be installed before the page can be built; empty when nothing."""
    node, npm = shutil.which("node"), shutil.which("npm")
    wanted = f"Node.js {OLDEST_NODE[0]}.{OLDEST_NODE[1]} or newer with npm"
    if node is None or npm is None:
        return f"{wanted} (not found)"
    text = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    found = tuple(int(part) for part in text.removeprefix("v").split(".")[:2])
    return "" if found >= OLDEST_NODE else f"{wanted} (found {text})"


def needs_install() -> bool:
    """Whether `node_modules` is missing or older than the lock file (npm stamps what it installed)."""
    stamp = WEB / "node_modules" / ".package-lock.json"
    return not stamp.is_file() or stamp.stat().st_mtime < (WEB / "package-lock.json").stat().st_mtime


def build_page(force: bool = False) -> bool:
    """Build the page if it is stale; returns whether there is a page afterwards.

    Raises:
        subprocess.CalledProcessError: npm failed.
    """
    if not force and is_fresh():
        return True
    missing = missing_tools()
    if missing:
        print(f"The web page is not built: install {missing}, then run `python web/build_page.py`.", file=sys.stderr)
        return (PAGE / "index.html").is_file()
    npm = str(shutil.which("npm"))
    if needs_install():
        subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=WEB, check=True, stdout=sys.stderr)
    subprocess.run([npm, "run", "build"], cwd=WEB, check=True, stdout=sys.stderr)
    return True


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc]
    """Hatchling calls this before it packs a wheel or prepares an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the page; an sdist that carries a fresh one needs no Node. A wheel is never packed half-built."""
        try:
            build_page()
        except subprocess.CalledProcessError as error:
            if version != "editable":
                raise
            print(f"The web page could not be built, the API works without it: {error}", file=sys.stderr)


if __name__ == "__main__":
    build_page(force="--force" in sys.argv[1:])
