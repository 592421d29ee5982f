"""Native routes of answers: ask for one or for two blind ones, follow the text from any point, stop.

An answer runs in the server until it ends or is stopped; closing the page does not end it. Everything that training
needs later is stored as it happens: token ids, log-probs, sampling with its seed, version and hashes, and how the
answers were shown.
"""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, replace

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from tutee.conversation import Message
from tutee.engine.request import SamplingParams
from tutee.errors import InvalidInput, TuteeError
from tutee.serve.answers import Record
from tutee.serve.auth import Caller, CallerDep, owned
from tutee.serve.body import Body, Fields
from tutee.serve.chat_request import merge_system_messages, read_sampling
from tutee.serve.chats import Plan, Showing
from tutee.serve.conversations import parent_of
from tutee.serve.live import ALIAS, Served
from tutee.serve.replies import reply
from tutee.serve.services import Services, ServicesDep
from tutee.serve.streaming import EventStream, event
from tutee.serve.views import message_view
from tutee.store.records import StoredConversation, StoredMessage
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
    plans, params_by_plan, showing = _plan(
        services, served, _messages(conversation, chats.history(parent)), params, compare
    )
    if showing.layout == "single" and any(m.parent_id == parent.id for m in chats.tree(id, caller.id)):
        showing = replace(showing, selection_policy="regenerate")
    presentation_id, message_ids = _start(services, caller, parent, plans, params_by_plan, showing)
    shown = [message_view(chats.message(message_id, caller.id), services.answers) for message_id in message_ids]
    return reply({"presentation_id": presentation_id, "messages": shown}, 202)


def _sampling(fields: Fields) -> SamplingParams:
    given = read_sampling(fields, logprobs=0)
    fields.refuse_unknown()
    seed = secrets.randbits(SEED_BITS) if given.seed is None else given.seed
    temperature = DEFAULT_TEMPERATURE if fields.raw.get("temperature") is None else given.temperature
    return replace(given, seed=seed, temperature=temperature)


def _messages(conversation: StoredConversation, history: Sequence[StoredMessage]) -> list[Message]:
    system = [Message("system", conversation.system)] if conversation.system else []
    said = [Message(turn.role, turn.content) for turn in history if turn.content]  # type: ignore[arg-type]
    return merge_system_messages(system + said)


def _plan(
    services: Services, served: Served, messages: list[Message], params: SamplingParams, compare: bool
) -> tuple[list[Plan], list[SamplingParams], Showing]:
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
    plans, params_by_plan = [], []
    for index, (arm, version) in enumerate(arms):
        prompt = version.model.chat_format.render(messages)
        own = params.for_sample(index)
        if own.max_tokens is None:
            room = version.engine.context_length - len(prompt)
            own = replace(own, max_tokens=max(1, min(DEFAULT_MAX_TOKENS, room)))
        sampling = {name: value for name, value in asdict(own).items() if name != "logprobs"}
        plans.append(Plan(version, prompt, sampling, arm))
        params_by_plan.append(own)
    if not compare:
        return plans, params_by_plan, Showing("single", blind=False, selection_policy="random")
    policy = "gate" if any(arm == "candidate" for arm, _ in arms) else "random"
    return plans, params_by_plan, Showing("side_by_side", True, policy, order_seed)


def waiting_candidate(services: Services) -> Served | None:
    """The newest candidate that the gate cannot judge without more blind votes, if it can be loaded.

    What somebody fine-tunes by the API is theirs to try; only improvements are shown to people unasked.
    """
    candidates = [version for version in services.store.versions.list() if version.state == "candidate"]
    gates = services.store.gates.latest_for([version.id for version in candidates])
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
    services: Services,
    caller: Caller,
    parent: StoredMessage,
    plans: Sequence[Plan],
    params: Sequence[SamplingParams],
    showing: Showing,
) -> tuple[str, list[str]]:
    """Ask the engine for every answer, then save the rows, so that a refusal saves nothing."""
    chats, answers = services.chats(parent.conversation_id), services.answers
    begun = []
    opened: list[tuple[str, str, Record]] = []
    try:
        for plan, each in zip(plans, params, strict=True):
            begun.append(answers.begin(plan.served, plan.prompt_ids, each))
        for plan in plans:
            opened.append(chats.open_answer(parent.conversation_id, parent.id, plan, head=not opened))
        presentation_id = chats.present(caller.id, [generation_id for _, generation_id, _ in opened], showing)
    except BaseException:
        for answer in begun:
            answers.drop(answer)
        for _, _, record in opened:
            with contextlib.suppress(Exception):
                record.finish("error", None, None)
        raise
    for answer, (message_id, _, record) in zip(begun, opened, strict=True):
        answers.keep(answer, message_id, record)
    return presentation_id, [message_id for message_id, _, _ in opened]


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
    answer = services.answers.get(id)  # before the message: once it is gone from here, the store has all of it
    message = await run_in_threadpool(chats.message, id, caller.id)

    async def events() -> AsyncIterator[bytes]:
        if answer is None:
            if message.content[offset:]:
                yield event({"type": "delta", "offset": offset, "text": message.content[offset:]})
        else:
            async for position, text in answer.follow(offset):
                yield event({"type": "delta", "offset": position, "text": text})
        finished = await run_in_threadpool(chats.message, id, caller.id)
        yield event({"type": "done", "message": message_view(finished, services.answers)})

    return EventStream(events(), close=lambda: None)
