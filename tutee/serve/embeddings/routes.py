"""POST /v1/embeddings: a text as a vector, from the served model's own hidden states or from an embedding model.

Where the operator named an embedding model (`encoder.py`), it answers to its own name and to OpenAI's. Every other name
is a served model. Its vector is the mean of the final hidden states (after the last norm) over the text's tokens, of
length 1. A language model was not trained for this: neighbours in meaning come out closer than strangers, but all
texts lie in one narrow cone, so compare similarities with each other, not with a fixed threshold.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from tutee.engine.readout import MeanHidden
from tutee.engine.request import SamplingParams
from tutee.errors import InvalidInput
from tutee.serve.access.auth import MEMBER, CallerDep
from tutee.serve.body import Body, Fields
from tutee.serve.completions.prompts import Ask, Bare, Turns, encode_prompts, read_prompts
from tutee.serve.embeddings.encoder import Encoder
from tutee.serve.live import answering_name
from tutee.serve.replies import reply
from tutee.serve.served import Served
from tutee.serve.services import Services, ServicesDep
from tutee.serve.streaming import Tap, wait_for

router = APIRouter(prefix="/v1")

MOST_INPUTS = 2048
ONE_TOKEN = SamplingParams(temperature=0.0, max_tokens=1)
"""The engine always draws a token; this one is thrown away."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """One request on its way."""

    served: Served
    inputs: list[list[int]]
    owner: str
    tap: Tap

    async def vectors(self) -> list[NDArray[np.float32]]:
        """Float32 [D] of length 1 for each input."""
        readouts = [MeanHidden() for _ in self.inputs]
        asks = [Ask(ids, ONE_TOKEN, readout) for ids, readout in zip(self.inputs, readouts, strict=True)]
        await Turns(self.tap, self.served, asks, self.owner).ended()
        return [_unit(readout) for readout in readouts]


@router.post("/embeddings", openapi_extra=MEMBER)
async def create(request: Request, caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """One vector for each input."""
    model = body.need_string("model")
    given = read_prompts(body, "input", most=MOST_INPUTS)
    packed = body.choice("encoding_format", ("float", "base64")) == "base64"
    body.string("user", most=512)
    encoder = services.encoder
    if encoder is not None and encoder.answers_to(model):
        name = encoder.name
        texts = _texts(given, encoder, body)
        tokens = await run_in_threadpool(encoder.count, texts, "input")
        vectors = list(await run_in_threadpool(encoder.vectors, texts))
    else:
        served = await run_in_threadpool(_resolve, services, model, body)
        name = answering_name(model, served.version)
        inputs = await run_in_threadpool(encode_prompts, served, given, ONE_TOKEN, "input")
        tokens = sum(len(ids) for ids in inputs)
        embedding = Embedding(served, inputs, caller.id, Tap(whole=True))
        vectors = await wait_for(request, embedding.vectors(), embedding.tap.abort)
    return reply(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": i, "embedding": _written(vector, packed)}
                for i, vector in enumerate(vectors)
            ],
            "model": name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def _texts(given: Sequence[Bare], encoder: Encoder, body: Fields) -> list[str]:
    """The inputs, which must be texts: ids of another tokenizer mean nothing to this model."""
    _check_width(body, encoder.name, encoder.width)
    body.close()
    for i, each in enumerate(given):
        if not isinstance(each, str):
            at = "input" if len(given) == 1 else f"input[{i}]"
            message = f"'{at}' must be a text: '{encoder.name}' has token ids of its own."
            raise InvalidInput(message, param=at, code="invalid_type")
    return [each for each in given if isinstance(each, str)]


def _resolve(services: Services, model: str, body: Fields) -> Served:
    """The model; its width is the one length of vectors that it has."""
    served = services.live.resolve(model)
    _check_width(body, model, served.model.config.hidden_size)
    body.close()
    return served


def _check_width(body: Fields, model: str, width: int) -> None:
    if body.integer("dimensions", 1) not in (None, width):
        message = f"cannot be chosen: vectors of '{model}' have {width} dimensions, and none may be left out"
        body.refuse("dimensions", message, "unsupported_parameter")


def _unit(readout: MeanHidden) -> NDArray[np.float32]:
    mean = readout.mean.cpu().numpy()
    return (mean / max(float(np.linalg.norm(mean)), 1e-12)).astype("<f4")


def _written(vector: NDArray[np.float32], packed: bool) -> Any:
    return base64.b64encode(vector.tobytes()).decode() if packed else vector.tolist()
