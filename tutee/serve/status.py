"""/health, /version and /metrics: what a load balancer and an operator ask."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

import tutee
from tutee.errors import Unavailable
from tutee.serve.auth import OPERATOR, PUBLIC
from tutee.serve.replies import reply
from tutee.serve.services import Services, ServicesDep

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


def gauges(services: Services) -> dict[str, float]:
    """What the engines are doing now, summed."""
    stats = [engine.stats for engine in services.live.engines]
    names = ("running", "waiting", "blocks_used", "blocks_total", "tokens_per_second")
    found = {f"engine_{name}": float(sum(getattr(each, name) for each in stats)) for name in names}
    totals = ("preemptions_total", "steps_total")
    found |= {f"engine_{name}": float(sum(getattr(each, name) for each in stats)) for name in totals}
    return found | {"answers_being_written": float(services.answers.count)}
