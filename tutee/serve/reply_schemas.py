"""What OpenAI's routes answer, for the OpenAPI document: a schema by method and path.

The page's own routes are not OpenAI's, and are not described.
"""

from __future__ import annotations

from tutee.serve.api_schemas import BOOLEAN, GRADER, Schema, many, maybe, words
from tutee.serve.object_schemas import COUNT, TEXT, TIME, ref, whole_of


def page(name: str) -> Schema:
    """One page of a list."""
    ends = {"first_id": maybe(TEXT), "last_id": maybe(TEXT)}
    return whole_of("list", data=many(ref(name)), has_more=BOOLEAN, **ends)


def deleted(kind: str) -> Schema:
    return whole_of(kind, id=TEXT, deleted=BOOLEAN)


ITEMS = whole_of("list", data=many(ref("Item")), has_more=BOOLEAN, first_id=TEXT, last_id=TEXT)
JOBS, EVALS, HOOKS = "/v1/fine_tuning/jobs", "/v1/evals", "/v1/webhook_endpoints"
REPLIES: dict[tuple[str, str], Schema] = {
    ("POST", "/v1/chat/completions"): ref("ChatCompletion"),
    ("GET", "/v1/chat/completions"): page("ChatCompletion"),
    ("GET", "/v1/chat/completions/{id}"): ref("ChatCompletion"),
    ("POST", "/v1/chat/completions/{id}"): ref("ChatCompletion"),
    ("DELETE", "/v1/chat/completions/{id}"): deleted("chat.completion.deleted"),
    ("GET", "/v1/chat/completions/{id}/messages"): page("ChatMessage"),
    ("POST", "/v1/completions"): ref("Completion"),
    ("POST", "/v1/embeddings"): whole_of(
        "list", data=many(ref("Embedding")), model=TEXT, usage=whole_of(prompt_tokens=COUNT, total_tokens=COUNT)
    ),
    ("POST", "/v1/moderations"): whole_of(id=TEXT, model=TEXT, results=many(ref("Moderation"))),
    ("GET", "/v1/models"): whole_of("list", data=many(ref("Model"), least=1)),
    ("GET", "/v1/models/{model}"): ref("Model"),
    ("DELETE", "/v1/models/{model}"): deleted("model"),
    ("POST", "/v1/responses"): ref("Response"),
    ("GET", "/v1/responses/{id}"): ref("Response"),
    ("DELETE", "/v1/responses/{id}"): deleted("response"),
    ("POST", "/v1/responses/{id}/cancel"): ref("Response"),
    ("GET", "/v1/responses/{id}/input_items"): ITEMS,
    ("POST", "/v1/responses/input_tokens"): whole_of("response.input_tokens", input_tokens=COUNT),
    ("POST", "/v1/conversations"): ref("Conversation"),
    ("GET", "/v1/conversations/{id}"): ref("Conversation"),
    ("POST", "/v1/conversations/{id}"): ref("Conversation"),
    ("DELETE", "/v1/conversations/{id}"): deleted("conversation.deleted"),
    ("POST", "/v1/conversations/{id}/items"): ITEMS,
    ("GET", "/v1/conversations/{id}/items"): ITEMS,
    ("GET", "/v1/conversations/{id}/items/{item}"): ref("Item"),
    ("DELETE", "/v1/conversations/{id}/items/{item}"): ref("Conversation"),
    ("POST", "/v1/files"): ref("File"),
    ("GET", "/v1/files"): page("File"),
    ("GET", "/v1/files/{id}"): ref("File"),
    ("DELETE", "/v1/files/{id}"): deleted("file"),
    ("POST", "/v1/uploads"): ref("Upload"),
    ("POST", "/v1/uploads/{id}/complete"): ref("Upload"),
    ("POST", "/v1/uploads/{id}/cancel"): ref("Upload"),
    ("POST", "/v1/uploads/{id}/parts"): whole_of("upload.part", id=TEXT, created_at=TIME, upload_id=TEXT),
    ("POST", "/v1/batches"): ref("Batch"),
    ("GET", "/v1/batches"): page("Batch"),
    ("GET", "/v1/batches/{id}"): ref("Batch"),
    ("POST", "/v1/batches/{id}/cancel"): ref("Batch"),
    ("POST", HOOKS): ref("WebhookEndpoint"),
    ("GET", HOOKS): page("WebhookEndpoint"),
    ("GET", f"{HOOKS}/{{id}}"): ref("WebhookEndpoint"),
    ("POST", f"{HOOKS}/{{id}}"): ref("WebhookEndpoint"),
    ("DELETE", f"{HOOKS}/{{id}}"): deleted("webhook_endpoint.deleted"),
    ("POST", f"{HOOKS}/{{id}}/rotate_secret"): ref("WebhookEndpoint"),
    ("POST", JOBS): ref("FineTuningJob"),
    ("GET", JOBS): page("FineTuningJob"),
    **{("POST", f"{JOBS}/{{id}}/{verb}"): ref("FineTuningJob") for verb in ("cancel", "pause", "resume")},
    ("GET", f"{JOBS}/{{id}}"): ref("FineTuningJob"),
    ("GET", f"{JOBS}/{{id}}/events"): page("FineTuningEvent"),
    ("GET", f"{JOBS}/{{id}}/checkpoints"): page("FineTuningCheckpoint"),
    ("POST", "/v1/fine_tuning/alpha/graders/run"): ref("GraderRun"),
    ("POST", "/v1/fine_tuning/alpha/graders/validate"): whole_of(grader=GRADER),
    ("POST", EVALS): ref("Eval"),
    ("GET", EVALS): page("Eval"),
    ("GET", f"{EVALS}/{{id}}"): ref("Eval"),
    ("POST", f"{EVALS}/{{id}}"): ref("Eval"),
    ("DELETE", f"{EVALS}/{{id}}"): whole_of("eval.deleted", eval_id=TEXT, deleted=BOOLEAN),
    ("POST", f"{EVALS}/{{id}}/runs"): ref("EvalRun"),
    ("GET", f"{EVALS}/{{id}}/runs"): page("EvalRun"),
    ("GET", f"{EVALS}/{{id}}/runs/{{run_id}}"): ref("EvalRun"),
    ("POST", f"{EVALS}/{{id}}/runs/{{run_id}}"): ref("EvalRun"),
    ("POST", f"{EVALS}/{{id}}/runs/{{run_id}}/cancel"): ref("EvalRun"),
    ("DELETE", f"{EVALS}/{{id}}/runs/{{run_id}}"): whole_of("eval.run.deleted", run_id=TEXT, deleted=BOOLEAN),
    ("GET", f"{EVALS}/{{id}}/runs/{{run_id}}/output_items"): page("EvalItem"),
    ("GET", f"{EVALS}/{{id}}/runs/{{run_id}}/output_items/{{item_id}}"): ref("EvalItem"),
    ("GET", "/health"): whole_of(status=words("ok")),
    ("GET", "/version"): whole_of(version=TEXT),
}
"""By method and path. A path that is not here answers the page, a file or an object of our own."""
STREAMS = {
    ("POST", "/v1/chat/completions"): ref("ChatCompletionChunk"),
    ("POST", "/v1/completions"): ref("Completion"),
    ("POST", "/v1/responses"): ref("ResponseEvent"),
    ("GET", "/v1/responses/{id}"): ref("ResponseEvent"),
}
"""One event of routes that can stream."""
STATUSES = {
    ("POST", EVALS): 201,
    ("POST", f"{EVALS}/{{id}}/runs"): 201,
    ("POST", "/v1/tutee/conversations/{id}/generate"): 202,
}
"""Of routes that answer another one than 200."""
