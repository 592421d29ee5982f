"""The load of `bench/soak.py`: requests of every kind, and what became of each of them."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

WORDS = ("cat", "mat", "rain", "roof", "boat", "home", "salt", "rope", "lamp", "road", "bread", "river", "chess", "owl")


@dataclass
class Load:
    """Sends requests of every kind and counts what became of them."""

    http: httpx.AsyncClient
    dice: random.Random
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    retry_after: list[float] = field(default_factory=list)
    first_text: list[float] = field(default_factory=list)

    async def one(self) -> None:
        """One request of a random kind, from a random one of eight people."""
        kind, send = self.dice.choices(KINDS, WEIGHTS)[0]
        headers = {"X-Tutee-Actor": f"person{self.dice.randrange(8)}"}
        try:
            outcome = await send(self, headers)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            outcome = f"wrong: {type(error).__name__} {error}"
        self.outcomes[outcome if outcome in ("answered", "refused", "left") else "wrong"] += 1
        if outcome.startswith("wrong"):
            self.wrong.append(f"{kind}: {outcome}"[:300])

    def question(self, words: int) -> dict[str, Any]:
        content = "Go on: " + self.words(words)
        return {
            "model": "chat",
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.dice.randint(16, 64),
            "temperature": 0.8,
        }

    def refused(self, reply: httpx.Response) -> str:
        if reply.status_code != 429 or not reply.headers.get("retry-after", "").isdigit():
            return f"wrong: {reply.status_code} retry-after {reply.headers.get('retry-after')}"
        self.retry_after.append(float(reply.headers["retry-after"]))
        return "refused"

    async def whole(self, headers: dict[str, str], words: int = 12, **more: Any) -> str:
        reply = await self.http.post("/v1/chat/completions", json=self.question(words) | more, headers=headers)
        if reply.status_code != 200:
            return self.refused(reply)
        choices = reply.json()["choices"]
        complete = len(choices) == more.get("n", 1) and all(c["finish_reason"] in ("stop", "length") for c in choices)
        return "answered" if complete else f"wrong: {choices}"

    async def post(self, path: str, headers: dict[str, str], **body: Any) -> str:
        """A request that is not a chat completion."""
        reply = await self.http.post(path, json={"model": "chat", **body}, headers=headers)
        return self.refused(reply) if reply.status_code != 200 else whole_answer(path, reply.json())

    def words(self, count: int) -> str:
        return " ".join(self.dice.choices(WORDS, k=count))

    async def stream(self, headers: dict[str, str], words: int = 12, leave_after: int | None = None) -> str:
        question, begin = self.question(words) | {"stream": True}, time.monotonic()
        async with self.http.stream("POST", "/v1/chat/completions", json=question, headers=headers) as reply:
            if reply.status_code != 200:
                return self.refused(reply)
            last, events = "", 0
            async for line in reply.aiter_lines():
                if not line:
                    continue
                last, events = line, events + 1
                if events == 2:
                    self.first_text.append(time.monotonic() - begin)
                if leave_after is not None and events > leave_after:
                    return "left"
        return "answered" if last == "data: [DONE]" else f"wrong: the stream ended with {last!r}"


def whole_answer(path: str, answer: dict[str, Any]) -> str:
    """Whether an answer of another route than chat is complete."""
    if path == "/v1/embeddings":
        complete = len(answer["data"]) == 4
    elif path == "/v1/responses":
        complete = answer["status"] in ("completed", "incomplete") and answer["error"] is None
    else:
        complete = len(answer["choices"]) == 1 and len(answer["choices"][0]["logprobs"]["tokens"]) > 60
    return "answered" if complete else f"wrong: {answer}"


FORM: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"enum": list(WORDS)}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "count"],
    "additionalProperties": False,
}

ECHO: dict[str, Any] = {"echo": True, "logprobs": 1, "max_tokens": 1}

Send = Callable[[Load, dict[str, str]], Awaitable[str]]
KINDS: list[tuple[str, Send]] = [
    ("stream", lambda load, headers: load.stream(headers)),
    ("whole", lambda load, headers: load.whole(headers)),
    ("long prompt", lambda load, headers: load.stream(headers, words=1200)),
    ("group", lambda load, headers: load.whole(headers, n=4)),
    ("stored", lambda load, headers: load.whole(headers, store=True, metadata={"soak": "yes"})),
    ("leaves", lambda load, headers: load.stream(headers, leave_after=5)),
    ("form", lambda load, headers: load.whole(headers, max_tokens=64, response_format=json_form(load))),
    ("response", lambda load, headers: load.post("/v1/responses", headers, input=load.words(12), max_output_tokens=32)),
    ("scored", lambda load, headers: load.post("/v1/completions", headers, prompt=load.words(80), **ECHO)),
    ("embedded", lambda load, headers: load.post("/v1/embeddings", headers, input=[load.words(9) for _ in range(4)])),
]
WEIGHTS = [44, 12, 7, 7, 6, 8, 6, 4, 3, 3]


def json_form(load: Load) -> dict[str, Any]:
    """A schema that was not seen before, one time in four."""
    title = f"form{load.dice.randrange(10**6)}" if load.dice.random() < 0.25 else "form"
    schema = FORM | {"properties": {**FORM["properties"], title: {"type": "boolean"}}}
    return {"type": "json_schema", "json_schema": {"name": "form", "schema": schema}}
