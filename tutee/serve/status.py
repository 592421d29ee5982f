"""/health, /version and /metrics: what a load balancer and an operator ask."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

import tutee
from tutee.errors import Unavailable
from tutee.serve.access.auth import OPERATOR, PUBLIC
from tutee.serve.replies import reply
from tutee.serve.services import ServicesDep

router = APIRouter()


@router.get("/health", openapi_extra=PUBLIC)
async def health(services: ServicesDep) -> Response:
    """200 once answers can be made."""
    if not services.live.ready:
        raise Unavailable("The model is still being loaded.")
    return reply({"status": "ok"})


@router.get("/version", openapi_extra=PUBLIC)
async def version() -> Response:
    """The version of the program."""
    return reply({"version": tutee.__version__})


@router.get("/metrics", openapi_extra=OPERATOR)
def metrics(services: ServicesDep) -> Response:
    """Prometheus' text format."""
    return Response(services.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
