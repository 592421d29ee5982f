"""What a client asks of a fine-tuning job: every field of the body checked before a row is written.

Which hyperparameters a method has is in `data/hyperparameters.py`. Does not read the files: the worker does, and names
the bad line; nor does it know which models there are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from tutee.data.hyperparameters import HYPERPARAMETERS, LEAST_POSITIVE, Values, Words
from tutee.engine.grammar import json_rule
from tutee.errors import InvalidInput
from tutee.grade import Grader, parse_grader
from tutee.serve.body import Fields

SUFFIX = 64
SUFFIX_FORM = re.compile(r"[A-Za-z0-9._-]+")
"""A suffix becomes part of a model's name, `ft:base:org:suffix:id`, which people type and colons divide."""
OWN = {"x_settings": "settings", "x_exam": "exam"}
"""What a method takes beyond OpenAI's fields: the trainer's settings, and how thoroughly the new model is examined. The
worker checks them."""
INTEGRATIONS = ("tensorboard", "wandb")
"""Places for a job's curves that this machine has itself; what goes to a service is written here, and sent by hand."""
MOST_INTEGRATIONS = 5


@dataclass(frozen=True, slots=True)
class FineTuningRequest:
    """A checked body.

    Args:
        config: what the worker needs of the method: `hyperparameters` as given (`auto` included), and where they were
            given `settings` of ours, `grader`, `response_format`, `integrations`.
        grader: the same grader, parsed.
    """

    model: str
    method: str
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int | None
    metadata: dict[str, str] | None
    config: dict[str, Any] = field(default_factory=dict)
    grader: Grader | None = None


def read_fine_tuning_request(body: Fields) -> FineTuningRequest:
    """Check the body of a new job.

    Raises:
        InvalidInput: naming the field by its dotted path.
    """
    model = body.need_string("model")
    training_file = body.need_string("training_file")
    old_style = body.object("hyperparameters")
    method, config, grader = _method(body.object("method"), old_style)
    integrations = _integrations(body)
    if integrations:
        config["integrations"] = integrations
    asked = FineTuningRequest(
        model=model,
        method=method,
        training_file=training_file,
        validation_file=body.string("validation_file", least=1),
        suffix=read_suffix(body),
        seed=body.integer("seed", 0, 2**31 - 1),
        metadata=body.metadata(),
        config=config,
        grader=grader,
    )
    body.close()
    return asked


def read_suffix(body: Fields) -> str | None:
    """The part of a new model's name that its maker chooses."""
    suffix = body.string("suffix", least=1, most=SUFFIX)
    if suffix is not None and SUFFIX_FORM.fullmatch(suffix) is None:
        body.refuse("suffix", "may hold letters, digits, '.', '_' and '-' only", "invalid_value")
    return suffix


def _method(method: Fields | None, old_style: Fields | None) -> tuple[str, dict[str, Any], Grader | None]:
    """The method's name, the job's config and the grader."""
    if method is None:
        return "supervised", {"hyperparameters": _hyperparameters(old_style, "supervised")}, None
    name = method.need_string("type")
    if name not in HYPERPARAMETERS:
        method.refuse("type", f"is {name!r}; this server trains with {' or '.join(HYPERPARAMETERS)}", "invalid_value")
    for other in method.raw:
        if other not in ("type", name):
            message = f"'method' has type {name!r}, but '{other}' is given as well."
            raise InvalidInput(message, param="method", code="invalid_value")
    if old_style is not None and old_style.raw:
        message = "'hyperparameters' is the old place; give them in 'method' alone."
        raise InvalidInput(message, param="hyperparameters", code="invalid_value")
    own = method.object(name) or Fields({}, method.at(name))
    config: dict[str, Any] = {"hyperparameters": _hyperparameters(own.object("hyperparameters"), name)}
    for ours, key in OWN.items():
        given = own.object(ours)
        if given is not None and given.raw:
            config[key] = {name: given.take(name) for name in given.raw}
    grader = None
    if name == "reinforcement":
        grader = parse_grader(own.take("grader"), own.at("grader"))
        config["grader"] = dict(grader.definition)
        form = own.object("response_format")
        if form is not None:
            config["response_format"] = _response_format(form)
    own.refuse_unknown()
    return name, config, grader


def _hyperparameters(given: Fields | None, method: str) -> dict[str, Any]:
    """What was given; null is as good as nothing."""
    allowed = HYPERPARAMETERS[method]
    out: dict[str, Any] = {}
    for name in () if given is None else given.raw:
        assert given is not None
        if name not in allowed:
            known = ", ".join(allowed)
            given.refuse(name, f"is not a hyperparameter of this method; it has {known}", "unknown_parameter")
        if (value := given.take(name)) is not None:
            auto = value == "auto" and not isinstance(allowed[name], Words)
            out[name] = value if auto else _value(given, name, allowed[name])
    if out.get("reasoning_effort", "default") != "default":
        assert given is not None
        given.refuse(
            "reasoning_effort", "must be 'default': no model here reasons longer on request", "unsupported_value"
        )
    return out


def _value(given: Fields, name: str, values: Values) -> int | float | str | None:
    if isinstance(values, Words):
        return given.choice(name, values.allowed)
    if values.whole:
        return given.integer(name, int(values.least), int(values.most))
    value = given.number(name, -math.inf, values.most)
    if value is not None and value < values.least:
        above = "0" if values.least == LEAST_POSITIVE else f"{values.least:g}"
        given.refuse(name, f"is {value}; it must be above {above}", "decimal_below_min_value")
    return value


def _response_format(form: Fields) -> dict[str, Any]:
    """The form that answers must have, as it was given: text, or JSON of a schema."""
    kind = form.need_string("type")
    if kind not in ("text", "json_schema"):
        form.refuse("type", f"is {kind!r}; it must be text or json_schema", "invalid_value")
    if kind == "text":
        form.refuse_unknown()
        return {"type": "text"}
    form.need("json_schema")
    inner = form.object("json_schema")
    assert inner is not None
    inner.need_string("name", most=64)
    inner.need("schema")
    schema = inner.object("schema")
    assert schema is not None
    strict = inner.boolean("strict") or False
    inner.string("description")
    json_rule(schema.raw, strict=strict, param=schema.path)
    for name in schema.raw:
        schema.take(name)
    form.refuse_unknown()
    return dict(form.raw)


def _integrations(body: Fields) -> list[Mapping[str, Any]]:
    """Those that can run here; the job's curves go to TensorBoard files whether anybody asks or not."""
    listed = body.array("integrations", most=MOST_INTEGRATIONS) or []
    for i, raw in enumerate(listed):
        at = f"integrations[{i}]"
        if not isinstance(raw, dict):
            body.refuse(at, "must be an object", "invalid_type")
        one = Fields(raw, at)
        kind = one.need_string("type")
        if kind not in INTEGRATIONS:
            here = "the job's curves are in its events, its result file and as TensorBoard files in its folder"
            one.refuse("type", f"is {kind!r}, a service that this server does not send to; {here}", "unsupported_value")
        if kind == "wandb":
            _wandb(one)
        one.refuse_unknown()
    return listed


def _wandb(integration: Fields) -> None:
    """A run of Weights & Biases, written offline where its package is installed (`worker/wandb_run.py`)."""
    if find_spec("wandb") is None:
        why = "is 'wandb', and that package is not installed here: `pip install 'tutee[wandb]'` where the server runs"
        integration.refuse("type", why, "unsupported_value")
    integration.need("wandb")
    run = integration.object("wandb")
    assert run is not None
    run.need_string("project", most=128)
    for name in ("name", "entity"):
        run.string(name, least=1, most=128)
    run.strings("tags", most=50, longest=64)
