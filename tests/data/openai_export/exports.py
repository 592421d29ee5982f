"""Exports as OpenAI makes them, small: ChatGPT's zip in both layouts, and what its SDK prints of API objects."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

T0 = 1_700_000_000.0


def node(id: str, parent: str | None, children: list[str], message: dict[str, Any] | None) -> dict[str, Any]:
    return {"id": id, "message": message, "parent": parent, "children": children}


def message(id: str, role: str, text: str | list[Any], second: float | None, **changes: Any) -> dict[str, Any]:
    parts = text if isinstance(text, list) else [text]
    plain: dict[str, Any] = {
        "id": id,
        "author": {"role": role, "name": None, "metadata": {}},
        "create_time": None if second is None else T0 + second,
        "update_time": None,
        "content": {"content_type": "text", "parts": parts},
        "status": "finished_successfully",
        "end_turn": True,
        "weight": 1.0,
        "metadata": {"model_slug": "gpt-4o", "finish_details": {"type": "stop"}} if role == "assistant" else {},
        "recipient": "all",
    }
    return plain | changes


def paris() -> dict[str, Any]:
    """A question with two answers (one regenerated), a tool call, a hidden turn and an image."""
    code = {"content_type": "code", "language": "python", "text": "print(1)"}
    mapping = {
        "root": node("root", None, ["sys"], None),
        "sys": node("sys", "root", ["ctx"], message("sys", "system", "", None)),
        "ctx": node(
            "ctx",
            "sys",
            ["q1"],
            message(
                "ctx",
                "user",
                "",
                None,
                content={"content_type": "user_editable_context", "user_instructions": "Answer briefly."},
                metadata={"is_visually_hidden_from_conversation": True},
            ),
        ),
        "q1": node("q1", "ctx", ["a1", "a2"], message("q1", "user", "Capital of France?", 1)),
        "a1": node("a1", "q1", [], message("a1", "assistant", "Lyon.", 2)),
        "a2": node("a2", "q1", ["q2"], message("a2", "assistant", "Paris.", 3)),
        "q2": node(
            "q2",
            "a2",
            ["t1"],
            message(
                "q2",
                "user",
                [{"content_type": "image_asset_pointer", "asset_pointer": "file-service://file-1"}, "What is 1?"],
                4,
                content=None,
            ),
        ),
        "t1": node("t1", "q2", ["t2"], message("t1", "assistant", "", 5, content=code, recipient="python")),
        "t2": node("t2", "t1", ["a3"], message("t2", "tool", "1", 6)),
        "a3": node("a3", "t2", [], message("a3", "assistant", "It is 1.", 7)),
    }
    picture = {"content_type": "image_asset_pointer", "asset_pointer": "file-service://file-1"}
    mapping["q2"]["message"]["content"] = {"content_type": "multimodal_text", "parts": [picture, "What is 1?"]}
    return {
        "title": "Capitals",
        "create_time": T0,
        "update_time": T0 + 10,
        "mapping": mapping,
        "current_node": "a3",
        "conversation_id": "chat-1",
        "id": "chat-1",
        "moderation_results": [],
        "is_archived": False,
    }


def short(name: str) -> dict[str, Any]:
    return {
        "title": f"Chat {name}",
        "create_time": T0 + 50,
        "update_time": T0 + 60,
        "mapping": {
            f"{name}-r": node(f"{name}-r", None, [f"{name}-q"], None),
            f"{name}-q": node(f"{name}-q", f"{name}-r", [f"{name}-a"], message(f"{name}-q", "user", f"Hi {name}", 51)),
            f"{name}-a": node(f"{name}-a", f"{name}-q", [], message(f"{name}-a", "assistant", f"Hello {name}", 52)),
        },
        "current_node": f"{name}-a",
        "id": name,
    }


FEEDBACK = [
    {
        "message_id": "a2",
        "conversation_id": "chat-1",
        "user_id": "user-1",
        "rating": "thumbsUp",
        "content": '{"text": "Right.", "tags": []}',
    },
    {"id": "a1", "conversation_id": "chat-1", "rating": "thumbs_down", "content": '{"tags": ["not-true"]}'},
    {"message_id": "gone", "conversation_id": "chat-9", "rating": "thumbsUp", "content": "{}"},
    {"message_id": "a3", "conversation_id": "chat-1", "rating": "none", "content": "{}"},
]
COMPARISONS = [
    {
        "id": "cmp-1",
        "user_id": "user-1",
        "create_time": "2023-11-14T22:13:25+00:00",
        "input": {"conversation_id": "chat-1", "feedback_version": "inline_regen_feedback:a:1.0"},
        "output": {
            "feedback_step_2": {
                "original_turn": [{"id": "a1"}],
                "new_turn": [{"id": "a2"}],
                "new_completion_placement": "not-applicable",
                "completion_comparison_rating": "new",
            }
        },
        "metadata": {},
    },
    {"input": {"conversation_id": "chat-1"}, "output": {"feedback_step_2": {"completion_comparison_rating": "new"}}},
]


def old_layout(path: Path) -> Path:
    """One `conversations.json`."""
    return write_zip(
        path,
        {
            "conversations.json": [paris(), short("s1")],
            "message_feedback.json": FEEDBACK,
            "model_comparisons.json": COMPARISONS,
            "user.json": {"id": "user-1", "email": "someone@example.org"},
            "shared_conversations.json": [],
            "chat.html": "<html></html>",
        },
    )


def new_layout(path: Path) -> Path:
    """The many-file layout: numbered conversations and a manifest."""
    return write_zip(
        path,
        {
            "conversations-000.json": [paris()],
            "conversations-001.json": [short("s1"), short("s2")],
            "message_feedback.json": FEEDBACK,
            "export_manifest.json": {"version": 2, "export_files": []},
            "user.json": {},
            "user_settings.json": {},
            "file-1.dat": "picture",
        },
    )


def write_zip(path: Path, files: dict[str, Any]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content if isinstance(content, str | bytes) else json.dumps(content, indent=1))
    return path


JOB: dict[str, Any] = {
    "id": "ftjob-old1",
    "object": "fine_tuning.job",
    "created_at": 1721764800,
    "finished_at": 1721768400,
    "model": "gpt-4o-mini-2024-07-18",
    "fine_tuned_model": "ft:gpt-4o-mini-2024-07-18:acme:support:abc123",
    "organization_id": "org-1",
    "result_files": ["file-result1"],
    "status": "succeeded",
    "validation_file": None,
    "training_file": "file-train1",
    "hyperparameters": {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.8},
    "trained_tokens": 5768,
    "error": {"code": None, "message": None, "param": None},
    "seed": 42,
    "metadata": {"team": "support"},
    "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}},
}
EVAL: dict[str, Any] = {
    "object": "eval",
    "id": "eval_old1",
    "name": "Sentiment",
    "created_at": 1721764900,
    "data_source_config": {"type": "custom", "schema": {"type": "object"}},
    "testing_criteria": [
        {
            "type": "string_check",
            "name": "match",
            "input": "{{sample.output_text}}",
            "reference": "{{item.label}}",
            "operation": "eq",
        }
    ],
    "metadata": {},
}
RUN: dict[str, Any] = {
    "object": "eval.run",
    "id": "evalrun_old1",
    "eval_id": "eval_old1",
    "report_url": "https://example.org",
    "status": "completed",
    "model": "gpt-4o-mini",
    "name": "first",
    "created_at": 1721765000,
    "result_counts": {"total": 2, "errored": 0, "failed": 1, "passed": 1},
    "per_testing_criteria_results": [{"testing_criteria": "match", "passed": 1, "failed": 1}],
    "data_source": {"type": "jsonl", "source": {"type": "file_id", "id": "file-items1"}},
    "error": None,
    "metadata": {},
}
ITEM: dict[str, Any] = {
    "object": "eval.run.output_item",
    "id": "outputitem_old1",
    "created_at": 1721765001,
    "run_id": "evalrun_old1",
    "eval_id": "eval_old1",
    "status": "pass",
    "datasource_item_id": 0,
    "datasource_item": {"input": "great", "label": "positive"},
    "results": [{"name": "match", "score": 1.0, "passed": True}],
    "sample": {"output": [{"role": "assistant", "content": "positive"}]},
}
COMPLETION: dict[str, Any] = {
    "object": "chat.completion",
    "id": "chatcmpl-old1",
    "model": "gpt-4o-2024-08-06",
    "created": 1738960610,
    "choices": [
        {"index": 0, "message": {"content": "Mind of circuits hum", "role": "assistant"}, "finish_reason": "stop"}
    ],
    "metadata": {"rating": "1"},
    "messages": [{"id": "chatcmpl-old1-0", "role": "user", "content": "write a haiku about ai", "name": None}],
}
TRAIN = b"".join(
    json.dumps(
        {"messages": [{"role": "user", "content": f"say {i}"}, {"role": "assistant", "content": f"{i}"}]}
    ).encode()
    + b"\n"
    for i in range(10)
)


def platform(folder: Path) -> Path:
    """What a script over OpenAI's SDK writes down before the lights go out."""
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "file-train1.jsonl").write_bytes(TRAIN)
    (folder / "files" / "step_metrics.csv").write_text("step,train_loss\n1,2.0\n")
    (folder / "items.jsonl").write_text('{"item": {"input": "great", "label": "positive"}}\nnot json\n')
    listed = [
        {
            "id": "file-train1",
            "object": "file",
            "bytes": len(TRAIN),
            "created_at": 1,
            "filename": "t.jsonl",
            "purpose": "fine-tune",
        },
        {"id": "file-result1", "object": "file", "filename": "step_metrics.csv", "purpose": "fine-tune-results"},
        {"id": "file-lost", "object": "file", "filename": "lost.jsonl", "purpose": "fine-tune"},
    ]
    write(folder / "files.json", {"object": "list", "data": listed, "has_more": False})
    write(folder / "jobs.json", [JOB, JOB | {"id": "ftjob-open", "status": "running"}])
    event = {"object": "fine_tuning.job.event", "id": "ftevent-old1", "created_at": 1721764801, "level": "info"}
    checkpoint = {"object": "fine_tuning.job.checkpoint", "id": "ftckpt_old1", "created_at": 1721764900}
    checkpoint |= {"fine_tuning_job_id": "ftjob-old1", "step_number": 10, "metrics": {"train_loss": 0.5}}
    checkpoint |= {"fine_tuned_model_checkpoint": "ft:x:ckpt-step-10"}
    lines = [event | {"message": "Created", "fine_tuning_job_id": "ftjob-old1"}, checkpoint]
    (folder / "a_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write(folder / "a_run.json", RUN)  # sorts before the eval that owns it
    write(folder / "evals.json", {"object": "list", "data": [EVAL]})
    write(folder / "output_items.json", [ITEM])
    bare = {key: value for key, value in COMPLETION.items() if key != "messages"}
    write(folder / "completions.json", [COMPLETION, bare | {"id": "chatcmpl-bare"}])
    return folder


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1), encoding="utf-8")
