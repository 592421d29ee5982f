"""GET /openapi.json: what is served, as OpenAPI 3.1: every route of `app.ROUTERS` with its parameters and its body.

Paths and parameters come from the routes themselves, so the document cannot forget one; bodies come from
`api_schemas.py`. Of replies only the one error shape is described: the rest is OpenAI's, and the official SDK checks it
in the tests.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.responses import Response

import tutee
from tutee.serve.access.auth import PUBLIC, RULE
from tutee.serve.api_schemas import BODIES, FORMS, Schema, record

router = APIRouter()
PATH = "/openapi.json"
ERROR = record(
    "error",
    error=record(
        "message",
        "type",
        "param",
        "code",
        message={"type": "string"},
        type={"type": "string"},
        param={"type": ["string", "null"]},
        code={"type": ["string", "null"]},
    ),
)
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
    components = {"schemas": {"Error": ERROR}, "securitySchemes": {"key": KEY}}
    return {"openapi": "3.1.0", "info": found["info"], "paths": paths, "components": components}


def _complete(operation: dict[str, Any], method: str, path: str) -> None:
    """Add the body and the error, take out what is the framework's own."""
    rule = operation.get(RULE)
    operation["security"] = [] if rule == "public" else [{"key": []}]
    # A handler under two paths would have one id twice.
    operation["operationId"] = f"{method.lower()} {path}".replace("/", " ").replace("  ", " ").strip().replace(" ", "_")
    error = {"description": "What is wrong.", "content": _json({"$ref": "#/components/schemas/Error"})}
    operation["responses"] = {"200": {"description": "Done."}, "4XX": error, "5XX": error}
    if (form := FORMS.get((method, path))) is not None:
        operation["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    elif (body := BODIES.get((method, path))) is not None:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    elif method in ("POST", "PUT", "PATCH"):
        operation["requestBody"] = {"required": False, "content": _json({"type": "object"})}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
