"""The page's files, and what is said when it is not built."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from tutee.serve.page import page_router
from tutee.serve.replies import install_error_handlers


def client(folder: Path) -> TestClient:
    app = FastAPI()
    install_error_handlers(app)
    app.include_router(page_router(folder))
    return TestClient(app)


@pytest.fixture
def built(tmp_path: Path) -> Path:
    folder = tmp_path / "page"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<title>built</title>")
    (folder / "assets" / "index-0a1b.js").write_text("1")
    (folder / "icon.svg").write_text("<svg/>")
    (tmp_path / "secret.txt").write_text("secret")
    return folder


def test_the_page_and_its_hashed_assets(built: Path) -> None:
    http = client(built)
    assert "built" in http.get("/").text
    assert http.get("/").headers["cache-control"] == "no-cache"
    script = http.get("/assets/index-0a1b.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "immutable" in script.headers["cache-control"]
    assert http.get("/icon.svg").headers["cache-control"] == "no-cache"


OUTSIDE = ["/../secret.txt", "/%2e%2e/secret.txt", "/assets/..%2f..%2fsecret.txt", "//etc/passwd", "/link.txt"]


@pytest.mark.parametrize("path", [*OUTSIDE, "/nope.js", "/assets", "/a%00b", "/" + "x" * 5000])
def test_nothing_else_is_reachable(built: Path, path: str) -> None:
    (built / "link.txt").symlink_to(built.parent / "secret.txt")
    reply = client(built).get(path)
    assert reply.status_code == 404
    assert "error" in reply.json()


def test_a_page_that_is_built_later_is_served(built: Path) -> None:
    http = client(built)
    (built / "assets" / "index-2c3d.js").write_text("2")
    assert http.get("/assets/index-2c3d.js").text == "2"


def test_without_a_build_the_root_says_what_to_install(tmp_path: Path) -> None:
    reply = client(tmp_path / "none").get("/")
    assert reply.status_code == 200
    assert "Node.js 20" in reply.text
    assert "make serve" in reply.text
