"""What every handler may use, opened once by the app and handed to handlers as a dependency; no globals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from tutee.serve.access.auth import Doorkeeper
from tutee.serve.background import Background
from tutee.serve.embeddings.encoder import Encoder
from tutee.serve.evals.runner import EvalRunner
from tutee.serve.graders.judges import Judges
from tutee.serve.live import Live
from tutee.serve.metrics import Metrics
from tutee.serve.native.answers import Answers
from tutee.serve.native.chats import Chats, StoredChats
from tutee.serve.native.temporary import TemporaryChats, is_temporary
from tutee.serve.own_requests import OwnRequests
from tutee.serve.responses.running import RunningResponses
from tutee.settings import Settings
from tutee.store import Store


@dataclass(frozen=True, slots=True)
class Services:
    """The open parts of one server."""

    settings: Settings
    store: Store
    live: Live
    answers: Answers
    stored: StoredChats
    temporary: TemporaryChats
    metrics: Metrics
    doorkeeper: Doorkeeper
    own_requests: OwnRequests
    judges: Judges
    evals: EvalRunner
    background: Background
    responses: RunningResponses
    encoder: Encoder | None

    def chats(self, id: str) -> Chats:
        """Where the conversation or message called `id` is kept: in the database, or in memory."""
        return self.temporary if is_temporary(id) else self.stored


async def the_services(request: Request) -> Services:
    """Dependency: the services of the app that handles this request."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(the_services)]
