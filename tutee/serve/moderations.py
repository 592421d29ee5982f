"""POST /v1/moderations: which of 13 categories a text falls into (`safety/moderation.py`; docs/moderations.md).

Whatever `model` is asked for, the one that is here answers, and the reply says so.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from tutee.ids import new_id
from tutee.safety.moderation import FLAGGED, score
from tutee.serve.access.auth import MEMBER
from tutee.serve.body import Body, Fields
from tutee.serve.replies import reply

router = APIRouter(prefix="/v1")

NAME = "tutee-moderation-1"
MOST_INPUTS = 1024
MOST_CHARACTERS = 1_000_000


@router.post("/moderations", openapi_extra=MEMBER)
def create(body: Body) -> Response:
    """One result for each text; parts of one message are one text."""
    body.string("model")
    texts = _texts(body)
    body.close()
    return reply({"id": new_id("modr"), "model": NAME, "results": [_result(score(text)) for text in texts]})


def _texts(body: Fields) -> list[str]:
    body.need("input")
    value = body.take("input")
    if isinstance(value, str):
        texts = [value]
    elif not isinstance(value, list):
        body.refuse("input", "must be a string, a list of strings, or a list of parts", "invalid_type")
    elif not value:
        body.refuse("input", "must not be empty", "invalid_value")
    elif len(value) > MOST_INPUTS:
        body.refuse("input", f"has {len(value)} items; at most {MOST_INPUTS} are allowed", "array_above_max_length")
    elif isinstance(value[0], dict):
        texts = ["\n".join(_part(body, i, part) for i, part in enumerate(value))]
    else:
        texts = value
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            body.refuse(f"input[{i}]", "must be a string", "invalid_type")
        if len(text) > MOST_CHARACTERS:
            body.refuse(f"input[{i}]", f"has more than {MOST_CHARACTERS} characters", "string_above_max_length")
    return texts


def _part(body: Fields, i: int, part: Any) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "image_url":
        body.refuse(f"input[{i}]", "is an image, and only text can be judged here", "unsupported_value")
    if kind != "text" or not isinstance(part.get("text"), str):
        body.refuse(f"input[{i}]", "must be a part of type 'text' with a string 'text'", "invalid_type")
    text: str = part["text"]
    return text


def _result(scores: dict[str, float]) -> dict[str, Any]:
    categories = {name: value >= FLAGGED for name, value in scores.items()}
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": {name: ["text"] for name in scores},
    }
