"""JSON Schemas of the objects that OpenAI's routes answer with, by name, for the OpenAPI document.

Written by hand like those of the bodies (`api_schemas.py`), and whole: a test holds the replies of a running server to
them, and a field that is not described here fails it. Which route gives which is `reply_schemas.py`'s.
"""

from __future__ import annotations

from tutee.serve.api_schemas import (
    ANY,
    BOOLEAN,
    CALL,
    GRADER,
    METADATA,
    Schema,
    either,
    many,
    maybe,
    number,
    text,
    words,
)

WHOLE: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
REAL: Schema = {"type": "number"}
TIME: Schema = {"type": "integer", "minimum": 0, "description": "Seconds since 1970."}
TEXT = text()
NULL: Schema = {"type": "null"}
ANYTHING: Schema = {}


def whole_of(kind: str | None = None, /, **properties: Schema) -> Schema:
    """An object that always has all of these fields; `kind` is what `object` says."""
    if kind is not None:
        properties = {"object": words(kind), **properties}
    return {"type": "object", "properties": properties, "required": list(properties)}


def with_some(schema: Schema, **properties: Schema) -> Schema:
    """The same with fields that are there sometimes."""
    return {**schema, "properties": schema["properties"] | properties}


def ref(name: str) -> Schema:
    """An object of `OBJECTS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def by_name(schema: Schema) -> Schema:
    return {"type": "object", "additionalProperties": schema}


CATEGORIES = (
    *("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm"),
    *("self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence", "violence/graphic"),
)
FINISH = words("stop", "length", "tool_calls", "content_filter")
SCORED_TOKEN = whole_of(token=TEXT, logprob=REAL, bytes=many(WHOLE))
SCORED = with_some(SCORED_TOKEN, top_logprobs=many(SCORED_TOKEN))
LOGPROBS = maybe(whole_of(content=many(SCORED), refusal=NULL))
COUNTS = {"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT}
USAGE = whole_of(
    **COUNTS,
    prompt_tokens_details=whole_of(cached_tokens=COUNT, audio_tokens=COUNT),
    completion_tokens_details=whole_of(
        reasoning_tokens=COUNT,
        audio_tokens=COUNT,
        accepted_prediction_tokens=COUNT,
        rejected_prediction_tokens=COUNT,
    ),
)
THOUGHTS = {"reasoning": maybe(TEXT), "reasoning_content": maybe(TEXT)}
MESSAGE = with_some(
    whole_of(role=words("assistant"), content=maybe(TEXT), refusal=maybe(TEXT), annotations=many(ANY)),
    tool_calls=many(CALL),
    **THOUGHTS,
)
DELTA: Schema = {
    "type": "object",
    "properties": {
        "role": words("assistant"),
        "content": maybe(TEXT),
        **THOUGHTS,
        "tool_calls": many(
            with_some(
                whole_of(index=COUNT, function=with_some(whole_of(arguments=TEXT), name=TEXT)),
                id=TEXT,
                type=words("function"),
            )
        ),
    },
}
STAMP = {"id": TEXT, "created": TIME, "model": TEXT, "system_fingerprint": TEXT}
PART = with_some(whole_of(type=TEXT), text=TEXT, refusal=TEXT, annotations=many(ANY), logprobs=many(ANY))
ITEM_STATUS = words("in_progress", "completed", "incomplete")
ITEM = with_some(
    whole_of(id=TEXT, type=words("message", "function_call", "function_call_output", "reasoning"), status=ITEM_STATUS),
    role=words("user", "assistant", "system", "developer"),
    content=many(PART),
    summary=many(PART),
    call_id=TEXT,
    name=TEXT,
    arguments=TEXT,
    output=either(TEXT, many(PART)),
)
RESPONSE_STATUS = words("queued", "in_progress", "completed", "incomplete", "failed", "cancelled")
RESPONSE = whole_of(
    "response",
    id=TEXT,
    created_at=TIME,
    completed_at=maybe(TIME),
    status=RESPONSE_STATUS,
    error=maybe(whole_of(code=TEXT, message=TEXT)),
    incomplete_details=maybe(whole_of(reason=TEXT)),
    model=TEXT,
    output=many(ref("Item")),
    usage=maybe(
        whole_of(
            input_tokens=COUNT,
            input_tokens_details=whole_of(cached_tokens=COUNT, cache_write_tokens=COUNT),
            output_tokens=COUNT,
            output_tokens_details=whole_of(reasoning_tokens=COUNT),
            total_tokens=COUNT,
        )
    ),
    background=BOOLEAN,
    conversation=maybe(whole_of(id=TEXT)),
    instructions=maybe(TEXT),
    max_output_tokens=maybe(COUNT),
    metadata=METADATA,
    parallel_tool_calls=BOOLEAN,
    previous_response_id=maybe(TEXT),
    prompt_cache_key=maybe(TEXT),
    reasoning=whole_of(effort=maybe(TEXT), summary=maybe(TEXT)),
    safety_identifier=maybe(TEXT),
    service_tier=TEXT,
    store=BOOLEAN,
    temperature=number(0, 2),
    text=whole_of(format=ANY),
    tool_choice=either(TEXT, ANY),
    tools=many(ANY),
    top_logprobs=COUNT,
    top_p=number(0, 1),
    truncation=words("auto", "disabled"),
    user=maybe(TEXT),
)
HYPERPARAMETERS = {"type": "object", "additionalProperties": either(TEXT, REAL)}
METHOD = with_some(whole_of(type=TEXT), supervised=ANY, dpo=ANY, reinforcement=ANY, reward_model=ANY)
JOB_STATUS = words("validating_files", "queued", "running", "succeeded", "failed", "cancelled", "paused")
RUN_STATUS = words("queued", "in_progress", "completed", "failed", "canceled")
RUN_ERROR = whole_of(code=TEXT, message=TEXT)
SAMPLE = whole_of(
    error=RUN_ERROR,
    finish_reason=TEXT,
    input=many(whole_of(role=TEXT, content=TEXT)),
    output=many(with_some(whole_of(role=TEXT, content=TEXT), tool_calls=many(ANY))),
    model=TEXT,
    max_completion_tokens=COUNT,
    seed=WHOLE,
    temperature=REAL,
    top_p=REAL,
    usage=whole_of(**COUNTS, cached_tokens=COUNT),
)
MOMENTS = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")

OBJECTS: dict[str, Schema] = {
    "ChatCompletion": whole_of(
        "chat.completion",
        **STAMP,
        choices=many(whole_of(index=COUNT, message=MESSAGE, logprobs=LOGPROBS, finish_reason=FINISH), least=1),
        usage=USAGE,
        service_tier=TEXT,
        metadata=METADATA,
    ),
    "ChatCompletionChunk": with_some(
        whole_of(
            "chat.completion.chunk",
            **STAMP,
            choices=many(whole_of(index=COUNT, delta=DELTA, logprobs=LOGPROBS, finish_reason=maybe(FINISH))),
            service_tier=TEXT,
        ),
        usage=maybe(USAGE),
        obfuscation=TEXT,
    ),
    "ChatMessage": whole_of(
        id=TEXT, role=TEXT, content=maybe(TEXT), content_parts=maybe(many(ANY)), refusal=maybe(TEXT), name=maybe(TEXT)
    ),
    "Completion": whole_of(
        "text_completion",
        **STAMP,
        choices=many(
            whole_of(
                index=COUNT,
                text=TEXT,
                finish_reason=maybe(FINISH),
                logprobs=maybe(
                    whole_of(
                        tokens=many(TEXT),
                        token_logprobs=many(maybe(REAL)),
                        top_logprobs=maybe(many(maybe(by_name(REAL)))),
                        text_offset=many(COUNT),
                    )
                ),
            )
        ),
        usage=maybe(whole_of(**COUNTS, prompt_tokens_details=whole_of(cached_tokens=COUNT))),
    ),
    "Embedding": whole_of("embedding", index=COUNT, embedding=either(many(REAL), text(description="base64, float32"))),
    "Moderation": whole_of(
        flagged=BOOLEAN,
        categories=whole_of(**dict.fromkeys(CATEGORIES, BOOLEAN)),
        category_scores=whole_of(**dict.fromkeys(CATEGORIES, number(0, 1))),
        category_applied_input_types=whole_of(**dict.fromkeys(CATEGORIES, many(words("text")))),
    ),
    "Model": whole_of("model", id=TEXT, created=TIME, owned_by=TEXT),
    "File": whole_of(
        "file",
        id=TEXT,
        bytes=COUNT,
        created_at=TIME,
        filename=TEXT,
        purpose=TEXT,
        status=words("uploaded", "processed", "error"),
        expires_at=maybe(TIME),
        status_details=maybe(TEXT),
    ),
    "Upload": whole_of(
        "upload",
        id=TEXT,
        bytes=COUNT,
        created_at=TIME,
        expires_at=TIME,
        filename=TEXT,
        purpose=TEXT,
        status=words("pending", "completed", "cancelled", "expired"),
        file=maybe(ref("File")),
    ),
    "Item": ITEM,
    "Response": RESPONSE,
    "ResponseEvent": {
        "type": "object",
        "properties": {"type": TEXT, "sequence_number": COUNT, "response": ref("Response"), "item": ref("Item")},
        "required": ["type", "sequence_number"],
        "description": "An event of the stream; its other fields are those of its `type`.",
    },
    "Conversation": whole_of("conversation", id=TEXT, created_at=TIME, metadata=METADATA),
    "Batch": whole_of(
        "batch",
        id=TEXT,
        endpoint=TEXT,
        model=maybe(TEXT),
        errors=maybe(whole_of("list", data=many(ANY))),
        input_file_id=TEXT,
        completion_window=TEXT,
        status=words("validating", "failed", "in_progress", "finalizing", "completed", "expired", *MOMENTS[5:]),
        output_file_id=maybe(TEXT),
        error_file_id=maybe(TEXT),
        created_at=TIME,
        expires_at=TIME,
        **{f"{name}_at": maybe(TIME) for name in MOMENTS},
        request_counts=whole_of(total=COUNT, completed=COUNT, failed=COUNT),
        usage=whole_of(
            input_tokens=COUNT,
            input_tokens_details=whole_of(cached_tokens=COUNT),
            output_tokens=COUNT,
            output_tokens_details=whole_of(reasoning_tokens=COUNT),
            total_tokens=COUNT,
        ),
        metadata=METADATA,
    ),
    "WebhookEndpoint": with_some(
        whole_of(
            "webhook_endpoint",
            id=TEXT,
            name=TEXT,
            url=TEXT,
            event_types=many(TEXT),
            created_at=TIME,
            updated_at=TIME,
            signing_secret_hint=TEXT,
        ),
        signing_secret=TEXT,
    ),
    "FineTuningJob": whole_of(
        "fine_tuning.job",
        id=TEXT,
        created_at=TIME,
        finished_at=maybe(TIME),
        model=TEXT,
        fine_tuned_model=maybe(TEXT),
        organization_id=TEXT,
        status=JOB_STATUS,
        hyperparameters=HYPERPARAMETERS,
        method=METHOD,
        training_file=TEXT,
        validation_file=maybe(TEXT),
        result_files=many(TEXT),
        trained_tokens=maybe(COUNT),
        error=maybe(whole_of(code=maybe(TEXT), message=maybe(TEXT), param=maybe(TEXT))),
        seed=WHOLE,
        suffix=maybe(TEXT),
        estimated_finish=maybe(TIME),
        integrations=maybe(many(ANY)),
        metadata=METADATA,
    ),
    "FineTuningEvent": whole_of(
        "fine_tuning.job.event",
        id=TEXT,
        created_at=TIME,
        level=words("info", "warn", "error"),
        message=TEXT,
        type=words("message", "metrics"),
        data=maybe(ANY),
    ),
    "FineTuningCheckpoint": whole_of(
        "fine_tuning.job.checkpoint",
        id=TEXT,
        created_at=TIME,
        fine_tuned_model_checkpoint=TEXT,
        fine_tuning_job_id=TEXT,
        step_number=COUNT,
        metrics=by_name(maybe(REAL)),
    ),
    "Eval": whole_of(
        "eval",
        id=TEXT,
        name=TEXT,
        created_at=TIME,
        data_source_config=with_some(whole_of(type=TEXT, schema=ANY), metadata=METADATA),
        testing_criteria=many(GRADER),
        metadata=METADATA,
    ),
    "EvalRun": whole_of(
        "eval.run",
        id=TEXT,
        eval_id=TEXT,
        name=TEXT,
        status=RUN_STATUS,
        model=TEXT,
        created_at=TIME,
        data_source=ANY,
        error=RUN_ERROR,
        metadata=METADATA,
        result_counts=whole_of(total=COUNT, passed=COUNT, failed=COUNT, errored=COUNT),
        per_testing_criteria_results=many(whole_of(testing_criteria=TEXT, passed=COUNT, failed=COUNT)),
        per_model_usage=many(whole_of(model_name=TEXT, invocation_count=COUNT, **COUNTS, cached_tokens=COUNT)),
        report_url=TEXT,
    ),
    "EvalItem": whole_of(
        "eval.run.output_item",
        id=TEXT,
        eval_id=TEXT,
        run_id=TEXT,
        created_at=TIME,
        status=words("pass", "fail", "error"),
        datasource_item_id=COUNT,
        datasource_item=ANY,
        sample=SAMPLE,
        results=many(ANY),
    ),
    "GraderRun": whole_of(
        reward=maybe(REAL),
        sub_rewards=by_name(REAL),
        metadata=whole_of(
            name=TEXT,
            type=TEXT,
            scores=by_name(REAL),
            execution_time=REAL,
            token_usage=maybe(COUNT),
            sampled_model_name=maybe(TEXT),
            errors=ANY,
            x_errors=by_name(TEXT),
        ),
        model_grader_token_usage_per_model=ANY,
    ),
}
