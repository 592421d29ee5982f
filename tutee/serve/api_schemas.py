"""JSON Schemas of request bodies, for the OpenAPI document: what a client may send where, written by hand.

Frozen on purpose: they say what this server takes, whatever OpenAI's own documents say next year. The readers
(`chat/request.py` and its like) are what enforces; these describe, and fuzzing holds the two together. Extra fields are
allowed everywhere, as the server takes them.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def record(*required: str, **properties: Schema) -> Schema:
    """An object with these fields."""
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def maybe(schema: Schema) -> Schema:
    """The same, or null, which counts as absent."""
    return {"anyOf": [schema, {"type": "null"}]}


def text(most: int | None = None, **more: Any) -> Schema:
    return {"type": "string", **({} if most is None else {"maxLength": most}), **more}


def words(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


def whole(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def number(low: float, high: float) -> Schema:
    return {"type": "number", "minimum": low, "maximum": high}


def many(items: Schema, most: int | None = None, least: int = 0) -> Schema:
    limits = {"minItems": least} if least else {}
    return {"type": "array", "items": items, **limits, **({} if most is None else {"maxItems": most})}


def either(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


BOOLEAN: Schema = {"type": "boolean"}
ANY: Schema = {"type": "object"}
MODEL = text(description="A model's name, id or number, `chat`, or an alias.", example="chat")
METADATA = maybe({"type": "object", "maxProperties": 16, "additionalProperties": text(512)})
TOKENS = many(whole(0, 2**31 - 1))
SEED = maybe(whole(-(2**63), 2**63 - 1))
STOP = maybe(either(text(), many(text(), 4, 1)))
PART = record("type", type=words("text", "image_url", "input_audio", "file", "refusal"), text=text())
CONTENT = maybe(either(text(), many(PART)))
CALL = record(
    "id", "type", "function", id=text(), type=words("function"), function=record(name=text(), arguments=text())
)
MESSAGE = record(
    "role",
    role=words("developer", "system", "user", "assistant", "tool"),
    content=CONTENT,
    name=maybe(text()),
    tool_calls=maybe(many(CALL)),
    tool_call_id=maybe(text()),
)
FUNCTION = record("name", name=text(64), description=maybe(text()), parameters=maybe(ANY), strict=maybe(BOOLEAN))
TOOL = record("type", "function", type=words("function"), function=FUNCTION)
NAMED = record("type", "function", type=words("function"), function=record("name", name=text()))
FORMAT = record(
    "type",
    type=words("text", "json_object", "json_schema"),
    json_schema=record("name", name=text(64), schema=ANY, strict=maybe(BOOLEAN)),
)
SAMPLING: dict[str, Schema] = {
    "temperature": maybe(number(0, 2)),
    "top_p": maybe(number(0, 1)),
    "presence_penalty": maybe(number(-2, 2)),
    "frequency_penalty": maybe(number(-2, 2)),
    "logit_bias": maybe({"type": "object", "additionalProperties": number(-100, 100)}),
    "seed": SEED,
    "stop": STOP,
    "stream": maybe(BOOLEAN),
    "stream_options": maybe(record(include_usage=maybe(BOOLEAN))),
    "user": maybe(text()),
}
CHAT = record(
    "model",
    "messages",
    model=MODEL,
    messages=many(MESSAGE, least=1),
    n=maybe(whole(1, 128)),
    max_tokens=maybe(whole(1, 2**31 - 1)),
    max_completion_tokens=maybe(whole(1, 2**31 - 1)),
    logprobs=maybe(BOOLEAN),
    top_logprobs=maybe(whole(0, 20)),
    tools=maybe(many(TOOL, 128)),
    tool_choice=maybe(either(words("none", "auto", "required"), NAMED)),
    parallel_tool_calls=maybe(BOOLEAN),
    response_format=maybe(FORMAT),
    reasoning_effort=maybe(words("none", "minimal", "low", "medium", "high", "xhigh")),
    store=maybe(BOOLEAN),
    metadata=METADATA,
    **SAMPLING,
)
COMPLETION = record(
    "model",
    "prompt",
    model=MODEL,
    prompt=either(text(), many(text()), TOKENS, many(TOKENS)),
    max_tokens=maybe(whole(0, 2**31 - 1)),
    n=maybe(whole(1, 128)),
    best_of=maybe(whole(1, 20)),
    logprobs=maybe(whole(0, 20)),
    echo=maybe(BOOLEAN),
    **SAMPLING,
)
ITEM = record("role", type=words("message"), role=words("user", "assistant", "system", "developer"), content=CONTENT)
FLAT_TOOL = record("type", "name", type=words("function"), name=text(64), parameters=maybe(ANY), strict=maybe(BOOLEAN))
ASKED: dict[str, Schema] = {
    "model": MODEL,
    "input": either(text(), many(ITEM)),
    "instructions": maybe(text(200_000)),
    "previous_response_id": maybe(text()),
    "conversation": maybe(either(text(), record("id", id=text()))),
    "max_output_tokens": maybe(whole(16, 2**31 - 1)),
    "tools": maybe(many(FLAT_TOOL, 128)),
    "text": maybe(record(format=ANY)),
    "truncation": maybe(words("auto", "disabled")),
    "temperature": maybe(number(0, 2)),
    "top_p": maybe(number(0, 1)),
    "top_logprobs": maybe(whole(0, 20)),
    "metadata": METADATA,
}
RESPONSE = record("model", **ASKED, store=maybe(BOOLEAN), stream=maybe(BOOLEAN), background=maybe(BOOLEAN))
AUTO = words("auto")
HYPERPARAMETERS = record(
    n_epochs=either(AUTO, whole(1, 50)),
    batch_size=either(AUTO, whole(1, 256)),
    learning_rate_multiplier=either(AUTO, {"type": "number", "exclusiveMinimum": 0}),
    beta=either(AUTO, {"type": "number", "exclusiveMinimum": 0, "maximum": 2}),
)
GRADER = record(
    "type",
    "name",
    type=words("string_check", "text_similarity", "score_model", "label_model", "python", "multi"),
    name=text(),
    input=either(text(), many(MESSAGE)),
    reference=text(),
    operation=words("eq", "ne", "like", "ilike"),
    evaluation_metric=words("fuzzy_match", "bleu", "gleu", "meteor", "cosine", "rouge_1", "rouge_l"),
    pass_threshold=number(0, 1),
    source=text(),
    graders=either({"type": "object", "additionalProperties": ANY}, many(ANY)),
    calculate_output=text(),
    model=MODEL,
    labels=many(text()),
    passing_labels=many(text()),
    range=many({"type": "number"}, 2, 2),
)
METHOD = record(
    "type",
    type=words("supervised", "dpo", "reinforcement", "reward_model"),
    supervised=record(hyperparameters=HYPERPARAMETERS),
    dpo=record(hyperparameters=HYPERPARAMETERS),
    reinforcement=record(grader=GRADER, hyperparameters=HYPERPARAMETERS),
)
JOB = record(
    "model",
    "training_file",
    model=MODEL,
    training_file=text(),
    validation_file=maybe(text()),
    suffix=maybe(text(64, minLength=1)),
    seed=maybe(whole(0, 2**31 - 1)),
    metadata=METADATA,
    method=maybe(METHOD),
    hyperparameters=maybe(HYPERPARAMETERS),
)
EVAL = record(
    "data_source_config",
    "testing_criteria",
    name=maybe(text(512)),
    data_source_config=record(
        "type", type=words("custom", "logs", "stored_completions"), item_schema=ANY, include_sample_schema=BOOLEAN
    ),
    testing_criteria=many(GRADER, least=1),
    metadata=METADATA,
)
SOURCE = record(
    "type",
    type=words("file_content", "file_id", "stored_completions", "responses"),
    id=text(),
    content=many(ANY, 10_000, 1),
)
RUN = record(
    "data_source",
    name=maybe(text(512)),
    data_source=record(
        "type",
        type=words("jsonl", "completions", "responses"),
        model=MODEL,
        source=SOURCE,
        input_messages=record("type", type=words("template", "item_reference"), template=many(MESSAGE)),
    ),
    metadata=METADATA,
)
FILE = record(
    "file",
    "purpose",
    file=text(format="binary"),
    purpose=words("assistants", "batch", "fine-tune", "vision", "user_data", "evals"),
)
RENAMED = record(name=maybe(text(512)), metadata=METADATA)
TAGGED = record("metadata", metadata=METADATA)
BODIES: dict[tuple[str, str], Schema] = {
    ("POST", "/v1/chat/completions"): CHAT,
    ("POST", "/v1/chat/completions/{id}"): TAGGED,
    ("POST", "/v1/completions"): COMPLETION,
    ("POST", "/v1/embeddings"): record(
        "model",
        "input",
        model=MODEL,
        input=either(text(), many(text(), 2048), TOKENS, many(TOKENS, 2048)),
        encoding_format=maybe(words("float", "base64")),
        dimensions=maybe(whole(1, 2**31 - 1)),
    ),
    ("POST", "/v1/moderations"): record(
        "input",
        input=either(text(), many(text()), many(record("type", type=words("text", "image_url"), text=text()))),
        model=maybe(text()),
    ),
    ("POST", "/v1/responses"): RESPONSE,
    ("POST", "/v1/responses/input_tokens"): record(**ASKED),
    ("POST", "/v1/conversations"): record(items=maybe(many(ITEM, 20)), metadata=METADATA),
    ("POST", "/v1/conversations/{id}"): TAGGED,
    ("POST", "/v1/conversations/{id}/items"): record("items", items=many(ITEM, 20)),
    ("POST", "/v1/uploads"): record(
        "bytes",
        "filename",
        "mime_type",
        "purpose",
        bytes=whole(1, 8 * 1024**3),
        filename=text(),
        mime_type=text(),
        purpose=FILE["properties"]["purpose"],
    ),
    ("POST", "/v1/uploads/{id}/complete"): record("part_ids", part_ids=many(text()), md5=maybe(text())),
    ("POST", "/v1/batches"): record(
        "input_file_id",
        "endpoint",
        "completion_window",
        input_file_id=text(),
        endpoint=words("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"),
        completion_window=words("24h"),
        metadata=METADATA,
    ),
    ("POST", "/v1/webhook_endpoints"): record(
        "name", "url", "event_types", name=text(), url=text(), event_types=many(text())
    ),
    ("POST", "/v1/webhook_endpoints/{id}"): record(name=maybe(text()), url=maybe(text()), event_types=many(text())),
    ("POST", "/v1/fine_tuning/jobs"): JOB,
    ("POST", "/v1/fine_tuning/alpha/graders/validate"): record("grader", grader=GRADER),
    ("POST", "/v1/fine_tuning/alpha/graders/run"): record(
        "grader", "model_sample", grader=GRADER, model_sample=text(), item=ANY
    ),
    ("POST", "/v1/evals"): EVAL,
    ("POST", "/v1/evals/{id}"): RENAMED,
    ("POST", "/v1/evals/{id}/runs"): RUN,
    ("POST", "/tokenize"): record(model=MODEL, prompt=text(), messages=many(MESSAGE)),
    ("POST", "/detokenize"): record("tokens", model=MODEL, tokens=TOKENS),
    ("POST", "/v1/tutee/conversations"): record(title=maybe(text()), system=maybe(text()), temporary=maybe(BOOLEAN)),
    ("PATCH", "/v1/tutee/conversations/{id}"): record(title=text(), train=maybe(BOOLEAN), head_message_id=text()),
    ("POST", "/v1/tutee/conversations/{id}/messages"): record("content", content=text(), parent_id=maybe(text())),
    ("POST", "/v1/tutee/conversations/{id}/generate"): record(
        "parent_id", parent_id=text(), compare=maybe(BOOLEAN), model=maybe(MODEL), sampling=maybe(record(**SAMPLING))
    ),
    ("POST", "/v1/tutee/feedback"): record(
        "kind",
        kind=words("thumb", "compare", "edit", "demo", "flag", "comment"),
        message_id=text(),
        presentation_id=text(),
        conversation_id=text(),
        value=whole(-1, 1),
        winner=words("a", "b", "tie", "both_bad"),
        content=text(),
        category=text(),
        comment=maybe(text()),
        reasons=maybe(many(text())),
    ),
    ("PUT", "/v1/tutee/consent"): record("train", train=BOOLEAN),
}
"""Bodies by method and path; a path that is not here takes no body, or an object of fields that all are optional."""
FORMS: dict[tuple[str, str], Schema] = {
    ("POST", "/v1/files"): FILE,
    ("POST", "/v1/uploads/{id}/parts"): record("data", data=text(format="binary")),
}
"""The same for forms (multipart/form-data)."""
