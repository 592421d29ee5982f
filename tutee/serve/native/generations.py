"""Native routes of answers: ask for one or for two blind ones, follow the text from any point, stop.

An answer runs in the server until it ends or is stopped; closing the page does not end it. Everything that training
needs later is stored as it happens: token ids, log-probs, sampling with its seed, version and hashes, and how the
answers were shown.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, replace

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from tutee.conversation import Message, merge_system_messages
from tutee.engine.request import SamplingParams
from tutee.errors import InvalidInput, TuteeError
from tutee.serve.access.auth import Caller, CallerDep, owned
from tutee.serve.body import Body, Fields
from tutee.serve.chat.request import read_sampling
from tutee.serve.doorbell import News
from tutee.serve.live import ALIAS
from tutee.serve.native.answers import Following, LiveAnswer
from tutee.serve.native.conversations import parent_of
from tutee.serve.native.views import message_view
from tutee.serve.replies import reply
from tutee.serve.served import Prompt, Served
from tutee.serve.services import Services, ServicesDep
from tutee.serve.streaming import EventStream, event
from tutee.serve.wire import Live
from tutee.store.records import Showing, Start, StoredConversation, StoredMessage
from tutee.store.schema import ModelVersion

router = APIRouter(prefix="/v1/tutee")
log = logging.getLogger("tutee.serve")

DEFAULT_TEMPERATURE = 0.7
DEFAULT_MAX_TOKENS = 1024
SEED_BITS = 53
"""Seeds that we draw survive JavaScript's numbers."""


@router.post("/conversations/{id}/generate", openapi_extra=owned("conversation"))
def generate(id: str, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Start one answer to a turn, or with `compare` two blind ones in random order; replies at once."""
    chats = services.chats(id)
    conversation = chats.get(id, caller.id)
    body.need("parent_id")
    parent = parent_of(id, body, caller, services)
    assert parent is not None
    if parent.role != "user":
        body.refuse("parent_id", "must be something that a person said", "invalid_value")
    compare = body.boolean("compare") or False
    params = _sampling(body.object("sampling") or Fields({}, "sampling"))
    served = services.live.resolve(body.string("model") or ALIAS)
    plans, showing = _plan(services, served, _messages(conversation, chats.said(parent)), params, compare)
    presentation_id, messages = _start(services, caller, parent, plans, showing)
    shown = [message_view(message, services.answers) for message in messages]
    return reply({"presentation_id": presentation_id, "messages": shown}, 202)


@dataclass(frozen=True, slots=True)
class Plan:
    """One answer before its first token: who gives it, to which prompt, sampled how, and why this version."""

    served: Served
    prompt: Prompt
    params: SamplingParams
    arm: str

    @property
    def start(self) -> Start:
        """As the store keeps it."""
        sampling = {name: value for name, value in asdict(self.params).items() if name != "logprobs"}
        return Start(
            self.served.version.id,
            self.prompt.ids,
            sampling,
            weights_sha256=self.served.version.weights_sha256,
            tokenizer_sha256=self.served.tokenizer_sha256,
            template_sha256=self.served.template_sha256,
            arm=self.arm,
        )


def _sampling(fields: Fields) -> SamplingParams:
    given = read_sampling(fields, logprobs=0)
    fields.refuse_unknown()
    seed = secrets.randbits(SEED_BITS) if given.seed is None else given.seed
    temperature = DEFAULT_TEMPERATURE if fields.raw.get("temperature") is None else given.temperature
    return replace(given, seed=seed, temperature=temperature)


def _messages(conversation: StoredConversation, said: Sequence[tuple[str, str]]) -> list[Message]:
    system = [Message("system", conversation.system)] if conversation.system else []
    return merge_system_messages(system + [Message(role, text) for role, text in said if text])  # type: ignore[arg-type]


def _plan(
    services: Services, served: Served, messages: list[Message], params: SamplingParams, compare: bool
) -> tuple[list[Plan], Showing]:
    """Which versions answer, each with its prompt and sampling, in the order in which they are shown."""
    arms = [("live", served)]
    if compare:
        candidate = waiting_candidate(services) if served.version.id == services.live.chat.version.id else None
        arms.append(("live", served) if candidate is None else ("candidate", candidate))
        if params.temperature == 0 and candidate is None:
            message = "Two answers of one version at temperature 0 are the same; raise 'sampling.temperature'."
            raise InvalidInput(message, param="sampling.temperature", code="invalid_value")
    order_seed = secrets.randbits(31)
    random.Random(order_seed).shuffle(arms)
    plans = []
    for index, (arm, version) in enumerate(arms):
        prompt = version.prompt(messages)
        own = params.for_sample(index)
        if version.upstream:  # it has no log-probs to give
            own = replace(own, logprobs=None)
        if own.max_tokens is None:
            room = (version.context_length or DEFAULT_MAX_TOKENS) - len(prompt.ids)
            own = replace(own, max_tokens=max(1, min(DEFAULT_MAX_TOKENS, room)))
        plans.append(Plan(version, prompt, own, arm))
    if not compare:
        return plans, Showing()
    policy = "gate" if any(arm == "candidate" for arm, _ in arms) else "random"
    return plans, Showing("side_by_side", True, policy, order_seed)


def waiting_candidate(services: Services) -> Served | None:
    """The newest candidate that the gate cannot judge without more blind votes, if it can be loaded.

    What somebody fine-tunes by the API is theirs to try; only improvements are shown to people unasked.
    """
    candidates = services.store.versions.list(state="candidate")
    gates = services.store.gates.latest_for([version.id for version in candidates]) if candidates else {}
    for version in reversed(candidates):
        gate = gates.get(version.id)
        if gate is not None and gate.verdict == "insufficient" and _is_improvement(services, version):
            try:
                return services.live.serve(version)
            except TuteeError as error:
                log.error("candidate %s cannot be shown: %s", version.name, error.message)
    return None


def _is_improvement(services: Services, version: ModelVersion) -> bool:
    return version.job_id is None or services.store.jobs.get(version.job_id).method == "improve"


def _start(
    services: Services, caller: Caller, parent: StoredMessage, plans: Sequence[Plan], showing: Showing
) -> tuple[str, list[StoredMessage]]:
    """Ask the engine for every answer, then save the rows, so that a refusal saves nothing."""
    answers, conversation_id = services.answers, parent.conversation_id
    chats = services.chats(conversation_id)
    begun: list[LiveAnswer] = []
    try:
        for plan in plans:
            begun.append(answers.begin(plan.served, plan.prompt, plan.params, caller.id))
        starts = [plan.start for plan in plans]
        presentation_id, messages = chats.begin(conversation_id, parent.id, caller.id, starts, showing)
    except BaseException:
        for answer in begun:
            answers.drop(answer)
        raise
    for answer, message in zip(begun, messages, strict=True):
        answers.keep(answer, message, caller.id, chats)
    return presentation_id, messages


@router.get("/messages/{id}", openapi_extra=owned("message"))
def get_message(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """One message."""
    return reply(message_view(services.chats(id).message(id, caller.id), services.answers))


@router.post("/messages/{id}/stop", openapi_extra=owned("message"))
def stop(id: str, caller: CallerDep, services: ServicesDep) -> Response:
    """Stop an answer within one step of the engine; what it said so far is kept. A finished one is left as it is."""
    chats = services.chats(id)
    chats.message(id, caller.id)
    services.answers.stop(id)
    return reply(message_view(chats.message(id, caller.id), services.answers))


@router.get("/messages/{id}/stream", openapi_extra=owned("message"))
async def stream(id: str, caller: CallerDep, services: ServicesDep, offset: int = 0) -> Response:
    """Follow an answer from character `offset` (Unicode code points): deltas, then the whole message."""
    if offset < 0:
        raise InvalidInput("'offset' must not be negative.", param="offset", code="integer_below_min_value")
    chats = services.chats(id)
    answer = services.answers.get(id, caller.id)
    # asked for after the answer: once that is gone from memory, the store has all of it
    message = await run_in_threadpool(chats.message, id, caller.id) if answer is None else None

    following = answer.follow(offset) if answer is not None else None

    async def events() -> AsyncIterator[bytes | Live]:
        if following is not None:
            yield Telling(following)
        elif message is not None and message.content[offset:]:
            yield _delta(offset, message.content[offset:])
        finished = await run_in_threadpool(chats.message, id, caller.id)
        yield event({"type": "done", "message": message_view(finished, services.answers)})

    return EventStream(events(), close=following.close if following is not None else lambda: None)


@dataclass(slots=True)
class Telling:
    """An answer told to one of its readers while it is made (`wire.Live`)."""

    following: Following

    @property
    def news(self) -> News:
        return self.following.news

    @property
    def over(self) -> bool:
        return self.following.over

    def more(self) -> bytes:
        """The event of what came together."""
        offset, text = self.following.more()
        return _delta(offset, text) if text else b""


def _delta(offset: int, text: str) -> bytes:
    return event({"type": "delta", "offset": offset, "text": text})
