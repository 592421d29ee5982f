"""The web page: files that were built into `tutee/serve/page/`, or a word on how to build them.

Hashed assets may be cached for ever; everything else is asked for again. A page that is built while the server runs is
served at once. No path, link or name reaches outside the folder.
"""

from __future__ import annotations

import mimetypes
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

from tutee.serve.access.auth import PUBLIC

PAGE = Path(__file__).parent / "page"
FOREVER = "public, max-age=31536000, immutable"
NOT_BUILT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>tutee</title>
<h1>The API is running; the page is not built yet</h1>
<p>Install Node.js 20 or newer with npm, then run <code>make serve</code> again, or
<code>python web/build_page.py</code>.</p>
<p>Until then the API answers under <code>/v1</code>, and <code>tutee chat</code> talks in the terminal.</p>
</html>
"""
TYPES = {".js": "text/javascript", ".svg": "image/svg+xml", ".woff2": "font/woff2", ".webmanifest": "application/json"}


class PagePath(PathConvertor):
    """Any path outside the API, where an unknown path is a 404 and a wrong method a 405: not the page's to say."""

    regex = r"(?!v1/).*"


register_url_convertor("page", PagePath())


def page_router(folder: Path = PAGE) -> APIRouter:
    """Routes for the page in `folder`."""
    router = APIRouter()

    @router.get("/", openapi_extra=PUBLIC)
    async def root() -> Response:
        index = find(folder, "index.html")
        if index is None:
            return Response(NOT_BUILT, media_type="text/html")
        return FileResponse(index, media_type="text/html", headers={"cache-control": "no-cache"})

    @router.get("/{path:page}", openapi_extra=PUBLIC)
    async def file(path: str, request: Request) -> Response:
        found = find(folder, path)
        if found is None:
            raise HTTPException(404)
        kind = TYPES.get(Path(path).suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"
        cache = FOREVER if path.startswith("assets/") else "no-cache"
        return FileResponse(found, media_type=kind, headers={"cache-control": cache})

    return router


def find(folder: Path, path: str) -> Path | None:
    """The file that `path` names inside `folder`."""
    try:
        found = (folder / path).resolve()
        return found if found.is_relative_to(folder.resolve()) and found.is_file() else None
    except (OSError, ValueError):  # a name too long, a NUL
        return None
