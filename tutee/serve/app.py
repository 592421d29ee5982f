"""The app: routes, the parts behind them, and how they open and close. Read this file to know what is served.

To add an endpoint: a folder with `routes.py`, one line in `ROUTERS`, an access rule beside its path
(`auth.PUBLIC`, `MEMBER`, `OPERATOR` or `owned(…)`; a test fails without one).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from tutee.grade.pythons import open_pythons
from tutee.lock import only_one
from tutee.serve import models, moderations, openapi, status, tokens
from tutee.serve.access import projects
from tutee.serve.access.auth import Doorkeeper, authorise
from tutee.serve.background import Background
from tutee.serve.batches import routes as batches
from tutee.serve.chat import routes as chat
from tutee.serve.chat import stored as stored_chat
from tutee.serve.completions import routes as completions
from tutee.serve.edge import Edge
from tutee.serve.embeddings import routes as embeddings
from tutee.serve.embeddings.encoder import Encoder
from tutee.serve.evals import gate as evals_gate
from tutee.serve.evals import routes as evals
from tutee.serve.evals.gate import GateRuns
from tutee.serve.evals.runner import EvalRunner
from tutee.serve.files import routes as files
from tutee.serve.files import uploads
from tutee.serve.fine_tuning import routes as fine_tuning
from tutee.serve.graders import routes as graders
from tutee.serve.graders.judges import Judges
from tutee.serve.graders.reward_scores import RewardScores
from tutee.serve.live import Live
from tutee.serve.metrics import Metrics
from tutee.serve.native import conversations, feedback, generations, improvement, me, versions
from tutee.serve.native.answers import Answers
from tutee.serve.native.chats import StoredChats
from tutee.serve.native.temporary import TemporaryChats
from tutee.serve.own_requests import OwnRequests
from tutee.serve.page import page_router
from tutee.serve.replies import install_error_handlers
from tutee.serve.responses import conversations as response_conversations
from tutee.serve.responses import routes as responses
from tutee.serve.responses.running import INTERRUPTED, RunningResponses
from tutee.serve.services import Services
from tutee.serve.supervisor import Supervisor, worker_command, worker_environment
from tutee.serve.webhooks import routes as webhooks
from tutee.settings import Settings
from tutee.store import Store

ROUTERS: tuple[APIRouter, ...] = (
    status.router,
    chat.router,
    completions.router,
    embeddings.router,
    moderations.router,
    tokens.router,
    responses.router,
    response_conversations.router,
    stored_chat.router,
    models.router,
    files.router,
    uploads.router,
    batches.router,
    webhooks.router,
    projects.router,
    fine_tuning.router,
    graders.router,
    evals.router,
    evals_gate.router,
    conversations.router,
    generations.router,
    feedback.router,
    improvement.router,
    versions.router,
    me.router,
    openapi.router,
    page_router(),  # last: it catches every other path
)


def routes() -> list[APIRoute]:
    """Every route that is served, with its access rule in `openapi_extra`."""
    return [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]


SETTLE_SECONDS = 2.0
"""Between a server's start and its worker's, whose imports would take a core from the first answer."""


@contextmanager
def open_services(settings: Settings, *, worker: bool = True) -> Iterator[Services]:
    """Take the home, open its database, load the model, start the worker; all closed again at the end.

    Args:
        worker: start and watch a worker process for training jobs.

    Raises:
        InvalidInput: a host that others can reach, without an admin key; no model in the base's folder.
        Busy: another server runs on this home.
    """
    Doorkeeper.check_settings(settings)
    with ExitStack() as opened:
        store = _open_home(settings, opened)
        services = _open_parts(settings, store, opened)
        if worker:
            supervisor = Supervisor(worker_command(), worker_environment(settings))
            opened.callback(supervisor.close)
            supervisor.start(after=SETTLE_SECONDS)
        yield services


def _open_home(settings: Settings, opened: ExitStack) -> Store:
    """The home is this process's alone; what the last one was writing is marked as interrupted."""
    here = f"a tutee server at http://{settings.host}:{settings.port}"
    opened.enter_context(only_one(settings.home / "server.lock", here))
    store = Store.open(settings.url, settings.home)
    opened.callback(store.close)
    store.generations.interrupted()
    store.responses.interrupted(INTERRUPTED)
    return store


def _open_parts(settings: Settings, store: Store, opened: ExitStack) -> Services:
    """Everything that handlers use; what has a thread or a process is closed in the opposite order."""
    live = Live(settings, store)
    opened.callback(live.close)
    answers = Answers()
    opened.callback(answers.close)
    live.open(settings.base_folder)
    doorkeeper = Doorkeeper(settings, store)
    own_requests = OwnRequests()
    opened.callback(own_requests.close)
    pythons = open_pythons(settings)
    if pythons is not None:
        opened.callback(pythons.close)
    judges = Judges(own_requests, pythons, live, RewardScores(live, settings.home))
    gate_runs = GateRuns(store)
    evals = EvalRunner(
        store, doorkeeper, own_requests, judges, finished=[gate_runs.finished], between=gate_runs.enqueue
    )
    opened.callback(evals.close)
    background = Background(settings, store, doorkeeper)
    opened.callback(background.close)
    metrics = Metrics()
    metrics.watch(lambda: live.stats, lambda: answers.count)
    return Services(
        settings=settings,
        store=store,
        live=live,
        answers=answers,
        stored=StoredChats(store),
        temporary=TemporaryChats(store.versions.ref),
        metrics=metrics,
        doorkeeper=doorkeeper,
        own_requests=own_requests,
        judges=judges,
        evals=evals,
        background=background,
        responses=RunningResponses(),
        encoder=Encoder(settings.embedding_folder) if settings.embedding_folder else None,
    )


def build_app(services: Services) -> ASGIApp:
    """The ASGI app over open services."""
    app = FastAPI(title="tutee", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.services = services
    install_error_handlers(app)
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(authorise)])
    edge = Edge(app, services.settings, services.metrics)
    services.own_requests.start(edge)
    services.evals.start()
    services.background.start(edge)
    return edge
