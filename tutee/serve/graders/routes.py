"""/v1/fine_tuning/alpha/graders: check a grader's definition, and try it on one answer before a job or an eval does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from tutee.errors import InvalidInput
from tutee.grade import Failure, Grade, Sample, parse_grader
from tutee.grade.result import FLAGS, Flag
from tutee.serve.access.auth import MEMBER, CallerDep, may_ask_models
from tutee.serve.body import Body, Fields
from tutee.serve.replies import reply
from tutee.serve.services import ServicesDep

router = APIRouter(prefix="/v1/fine_tuning/alpha/graders")


@router.post("/validate", openapi_extra=MEMBER)
def validate(body: Body) -> Response:
    """The definition as it will be used, defaults filled in; a 400 names the field that is wrong."""
    raw = body.take("grader")
    body.close()
    return reply({"grader": dict(parse_grader(raw).definition)})


@router.post("/run", openapi_extra=MEMBER)
def run(caller: CallerDep, services: ServicesDep, body: Body) -> Response:
    """Grade one answer. What the grader, the item or a judge did wrong is in `metadata.errors`, not an error here."""
    body.need("grader")
    raw = body.take("grader")
    body.need("model_sample")
    text = body.string("model_sample") or ""
    item = body.object("item")
    names = {} if item is None else _whole(item)
    body.close()
    try:
        grader = parse_grader(raw)
    except InvalidInput as error:
        return reply(_of_wrong_definition(error, raw).to_dict())
    if grader.models():
        may_ask_models(caller)
    return reply(grader.grade(names, Sample(text), services.judges.tools(caller)).to_dict())


def _of_wrong_definition(error: InvalidInput, raw: Mapping[str, Any]) -> Grade:
    """A formula or a placeholder that cannot be read is a grading error in OpenAI's reply; anything else is a 400."""
    flag = next((flag for flag in FLAGS if flag == error.code), None)
    if flag is None:
        raise error
    return _failed(flag, error, str(raw.get("name", "")), str(raw.get("type", "")))


def _failed(flag: Flag, error: InvalidInput, name: str, kind: str) -> Grade:
    return Grade.of_failure(name, kind, Failure(flag, error.message))


def _whole(fields: Fields) -> dict[str, Any]:
    """An object of which every field is wanted."""
    return {name: fields.take(name) for name in fields.raw}
