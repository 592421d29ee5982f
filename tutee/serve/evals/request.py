"""What a client asks of an eval or of a run of one: every field checked before a row is written.

Does not know how rows are answered or graded; the checks of graders and data are `tutee.evaluate`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tutee.errors import InvalidInput
from tutee.evaluate.criteria import Criterion, read_criteria
from tutee.evaluate.eval_data import STORED, DataSource, read_data_source, schema_of
from tutee.serve.body import Fields
from tutee.serve.evals.sampling import check_sampling
from tutee.serve.evals.stored import read_wanted

NAME = 512
CONFIGS = ("custom", "logs", "stored_completions")
STORED_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "model": {"type": "string"},
        "input": {"type": "array"},
        "instructions": {"type": ["string", "null"]},
        "output_text": {"type": "string"},
        "output_tools": {"type": "array"},
        "metadata": {"type": "object"},
        "created_at": {"type": "integer"},
    },
    "required": ["output_text"],
}
"""What an item of stored completions or responses holds; the latter has `instructions`, and no `input` where what was
said before it is gone."""
SAMPLE_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "output_text": {"type": "string"},
        "output_json": {},
        "output_tools": {"type": "array"},
        "choices": {"type": "array"},
        "model": {"type": "string"},
    },
    "required": ["output_text"],
}


@dataclass(frozen=True, slots=True)
class EvalRequest:
    """A checked new eval."""

    name: str
    data_source_config: dict[str, Any]
    criteria: list[Criterion]
    metadata: dict[str, str] | None


def read_eval_request(body: Fields) -> EvalRequest:
    """Check the body of a new eval. Raises InvalidInput naming the field at fault."""
    body.need("data_source_config")
    config = body.object("data_source_config")
    assert config is not None
    asked = EvalRequest(
        name=body.string("name", most=NAME) or "",
        data_source_config=_config(config),
        criteria=read_criteria(body.take("testing_criteria")),
        metadata=body.metadata(),
    )
    body.close()
    return asked


def _config(config: Fields) -> dict[str, Any]:
    """The config as it is kept: `item_schema` as it came, so that items can be checked against it."""
    config.need("type")
    kind = config.choice("type", CONFIGS)
    if kind != "custom":
        metadata = config.object("metadata")
        found = {} if metadata is None else {name: metadata.take(name) for name in metadata.raw}
        return {"type": kind, "metadata": found}
    config.need("item_schema")
    schema = config.take("item_schema")
    schema_of(schema, config.at("item_schema"))
    return {
        "type": kind,
        "item_schema": schema,
        "include_sample_schema": config.boolean("include_sample_schema") or False,
    }


def schema_shown(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `schema` of OpenAI's reply: what a row of a run holds."""
    properties: dict[str, Any] = {"item": config.get("item_schema", STORED_SCHEMA)}
    if config.get("include_sample_schema", True):
        properties["sample"] = SAMPLE_SCHEMA
    return {"type": "object", "properties": properties, "required": list(properties)}


def read_run_source(body: Fields, config: Mapping[str, Any], name: str = "data_source") -> DataSource:
    """The checked `data_source` of a new run.

    Raises:
        InvalidInput: naming the field, or the inline row that does not fit the eval's `item_schema`.
    """
    body.need(name)
    source = read_data_source(body.take(name), name)
    if source.source["type"] in STORED:
        read_wanted(source.source, f"{name}.source")
    if source.model is not None:
        check_sampling(source, name)
    schema = config.get("item_schema")
    if schema is not None and source.source["type"] == "file_content":
        wrong = schema_of(schema, "item_schema")
        for i, row in enumerate(source.source["content"]):
            if (what := wrong(row["item"])) is not None:
                at = f"{name}.source.content[{i}].item"
                message = f"'{at}' does not fit the eval's item_schema: {what}"
                raise InvalidInput(message, param=at, code="invalid_item")
    return source
