"""Rows of an eval that were answered before: stored completions and responses, narrowed as OpenAI's sources say.

Both are read alike: page by page in an order that stays, none from after the run began, so a run that is resumed sees
the same rows. An item holds what was asked (`input`), the answer, and what it can be found by; its answer is the row's
sample. Does not know who asks again, nor how anything is graded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tutee.errors import InvalidInput, NotFound
from tutee.grade import Sample
from tutee.serve.body import INT64, Fields
from tutee.serve.chat.request import EFFORTS
from tutee.serve.responses.items import read_items, text_of, to_messages
from tutee.store import Store
from tutee.store.records import Page
from tutee.store.schema import Completion, EvalRun, Response

PAGE = 100


@dataclass(frozen=True, slots=True)
class Wanted:
    """The filters of a source; None: any. Those below `limit` are for responses alone."""

    model: str | None
    metadata: Mapping[str, str]
    created_after: int
    created_before: int
    limit: int
    instructions_search: str | None = None
    has_tool_calls: bool | None = None
    parallel_tool_calls: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    reasoning_effort: str | None = None
    users: tuple[str, ...] | None = None
    tools: tuple[str, ...] = ()

    def takes(self, row: Response) -> bool:
        """Whether a response fits; its model was asked for by the query."""
        body = row.body
        said = self.instructions_search
        offered = {tool["name"] for tool in body["tools"]}
        same = (
            (self.parallel_tool_calls, body["parallel_tool_calls"]),
            (self.temperature, body["temperature"]),
            (self.top_p, body["top_p"]),
            (self.reasoning_effort, body["reasoning"]["effort"]),
            (self.has_tool_calls, bool(_calls(body))),
        )
        return (
            self.metadata.items() <= body["metadata"].items()
            and (said is None or said.casefold() in (body["instructions"] or "").casefold())
            and all(wanted is None or wanted == found for wanted, found in same)
            and (self.users is None or body["user"] in self.users)
            and offered.issuperset(self.tools)
        )


def read_wanted(source: Mapping[str, Any], param: str) -> Wanted:
    """The checked filters of a source of type `stored_completions` or `responses`.

    Raises:
        InvalidInput: naming the field at fault, also one that is no filter.
    """
    fields = Fields(source, param)
    asked: dict[str, Any] = {}
    if fields.string("type") == "responses":
        users = fields.strings("users", most=100, longest=512)
        asked = {
            "instructions_search": fields.string("instructions_search"),
            "has_tool_calls": fields.boolean("has_tool_calls"),
            "parallel_tool_calls": fields.boolean("allow_parallel_tool_calls"),
            "temperature": fields.number("temperature", 0, 2),
            "top_p": fields.number("top_p", 0, 1),
            "reasoning_effort": fields.choice("reasoning_effort", EFFORTS),
            "users": None if users is None else tuple(users),
            "tools": tuple(fields.strings("tools", most=100, longest=64) or ()),
        }
    after, before = fields.integer("created_after", 0), fields.integer("created_before", 0)
    limit = fields.integer("limit", 1)
    wanted = Wanted(
        model=fields.string("model"),
        metadata=fields.metadata() or {},
        created_after=0 if after is None else after,
        created_before=INT64 if before is None else before,
        limit=INT64 if limit is None else limit,
        **asked,
    )
    fields.refuse_unknown()
    return wanted


class StoredRows:
    """The stored rows of the person whose run it is, as `evaluate.eval_data.rows` takes them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def rows(self, run: EvalRun, source: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The rows of a checked source, oldest first."""
        wanted = read_wanted(source, "data_source.source")
        left, after = wanted.limit, None
        while True:
            page = self._page(run, source["type"], wanted, after)
            for row in page:
                if not wanted.created_after <= int(row.created_at) <= wanted.created_before:
                    continue
                if isinstance(row, Response) and not wanted.takes(row):
                    continue
                yield _of_completion(row) if isinstance(row, Completion) else self._of_response(row)
                left -= 1
                if left == 0:
                    return
            if not page.has_more:
                return
            after = page.last_id

    def _page(self, run: EvalRun, kind: str, wanted: Wanted, after: str | None) -> Page[Completion] | Page[Response]:
        if kind == "responses":
            return self._store.responses.answered(run.actor_id, run.created_at, wanted.model, PAGE, after)
        page = self._store.completions.list(
            run.actor_id, wanted.model, wanted.metadata, limit=PAGE, after=after, order="asc"
        )
        old = [row for row in page if row.created_at < run.created_at]
        return Page(old, page.has_more and len(old) == len(page))

    def _of_response(self, row: Response) -> dict[str, Any]:
        body, calls = row.body, _calls(row.body)
        finish = "length" if row.status == "incomplete" else "tool_calls" if calls else "stop"
        text = "".join(text_of(item["content"]) for item in body["output"] if item["type"] == "message")
        answer = Sample(text, calls, finish, row.model)
        item = _item(row.id, row.model, answer, body["metadata"], row.created_at)
        item["instructions"] = body["instructions"]
        asked = self._asked(row)
        return {"item": item if asked is None else {**item, "input": asked}, "sample": answer.namespace()}

    def _asked(self, row: Response) -> list[dict[str, Any]] | None:
        """What a response answered, instructions first, as items; None when what was said before it is gone."""
        own = self._store.responses.asked(row.id)
        try:
            if row.previous_id is not None:
                before = self._store.responses.thread(row.previous_id, row.actor_id)
            elif row.conversation_id is not None:
                said = self._store.openai_conversations.said(row.conversation_id, row.actor_id)
                first = (own or row.body["output"])[0]["id"]
                before = said[: [item["id"] for item in said].index(first)]
            else:
                before = []
        except (InvalidInput, NotFound, LookupError, ValueError):
            return None
        said_first = row.body["instructions"]
        lead = [{"type": "message", "role": "system", "content": said_first}] if said_first else []
        return [*lead, *before, *own]


def _of_completion(row: Completion) -> dict[str, Any]:
    choice = row.response["choices"][0]
    message = choice["message"]
    answer = Sample(message.get("content") or "", message.get("tool_calls") or (), choice["finish_reason"], row.model)
    item = _item(row.id, row.model, answer, row.metadata_, row.created_at)
    return {"item": {**item, "input": list(row.messages)}, "sample": answer.namespace()}


def _item(id: str, model: str, answer: Sample, metadata: Mapping[str, str], created: float) -> dict[str, Any]:
    return {
        "id": id,
        "model": model,
        "output_text": answer.text,
        "output_tools": list(answer.tools),
        "metadata": dict(metadata),
        "created_at": int(created),
    }


def _calls(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A response's calls of functions, as an assistant message of a chat holds them."""
    return [
        {"id": item["call_id"], "type": "function", "function": {"name": item["name"], "arguments": item["arguments"]}}
        for item in body["output"]
        if item["type"] == "function_call"
    ]


def as_chat(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Items in the form of responses as messages of a chat completion.

    Raises:
        InvalidInput: an item that nobody can read, a result without its call.
    """
    read = read_items(Fields({"input": items}), lambda id: None, "input")
    return [message.to_dict() for message in to_messages(read, None)]
