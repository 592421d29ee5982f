"""GET /openapi.json: what is served, as OpenAPI 3.1: every route of `app.ROUTERS` with its parameters and its body.

Paths and parameters come from the routes themselves, so the document cannot forget one; bodies come from
`api_schemas.py`, replies from `reply_schemas.py`, and every error has the one shape.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

import tutee
from tutee.serve.access.auth import PUBLIC, RULE
from tutee.serve.api_schemas import BODIES, FORMS, Schema, maybe
from tutee.serve.object_schemas import OBJECTS, whole_of
from tutee.serve.reply_schemas import REPLIES, STATUSES, STREAMS

router = APIRouter()
PATH = "/openapi.json"
WORDS = {"type": "string"}
ERROR = whole_of(error=whole_of(message=WORDS, type=WORDS, param=maybe(WORDS), code=maybe(WORDS)))
KEY = {"type": "http", "scheme": "bearer", "description": "An API key; on loopback any is taken, or none."}


@router.get(PATH, openapi_extra=PUBLIC)
def document(request: Request) -> Response:
    """This document."""
    app: FastAPI = request.app
    if not hasattr(app.state, "openapi"):
        app.state.openapi = msgspec.json.encode(describe(app))
    return Response(app.state.openapi, media_type="application/json")


def describe(app: FastAPI) -> dict[str, Any]:
    """The document of an app whose routers are all included."""
    found = get_openapi(
        title="tutee",
        version=tutee.__version__,
        summary="OpenAI's API over a model of your own, and the routes of the page.",
        routes=app.routes,
    )
    paths: dict[str, Any] = {
        path: operations for path, operations in found["paths"].items() if not path.endswith("{path}")
    }
    for path, operations in paths.items():
        for method, operation in operations.items():
            _complete(operation, method.upper(), path)
    components = {"schemas": {"Error": ERROR, **OBJECTS}, "securitySchemes": {"key": KEY}}
    return {"openapi": "3.1.0", "info": found["info"], "paths": paths, "components": components}


def _complete(operation: dict[str, Any], method: str, path: str) -> None:
    """Add the body and the error, take out what is the framework's own."""
    rule = operation.get(RULE)
    operation["security"] = [] if rule == "public" else [{"key": []}]
    # A handler under two paths would have one id twice.
    operation["operationId"] = f"{method.lower()} {path}".replace("/", " ").replace("  ", " ").strip().replace(" ", "_")
    error = {"description": "What is wrong.", "content": _json({"$ref": "#/components/schemas/Error"})}
    status = str(STATUSES.get((method, path), 200))
    operation["responses"] = {status: _done(method, path), "4XX": error, "5XX": error}
    if (form := FORMS.get((method, path))) is not None:
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    elif (body := BODIES.get((method, path))) is not None:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    elif method in ("POST", "PUT", "PATCH"):
        operation["requestBody"] = {"required": False, "content": _json({"type": "object"})}


def _done(method: str, path: str) -> dict[str, Any]:
    """A successful reply."""
    content: dict[str, Any] = {}
    if (schema := REPLIES.get((method, path))) is not None:
        content |= _json(schema)
    if (event := STREAMS.get((method, path))) is not None:
        content["text/event-stream"] = {"schema": event}
    return {"description": "Done."} | ({"content": content} if content else {})


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
