"""Which scopes of a key open which route: one table, read from the top; the first row that fits counts.

A key that lacks one of them is answered 403. Work that asks models needs `model.request` besides the scope of its
route; where only what is asked for decides that (a grader that is a model), the route checks it itself. A route that
no row knows answers nobody but keys with all rights, and a test fails until it has one. What scopes there are, and
which includes which, is `store/keys.py`'s to say.
"""

from __future__ import annotations

import re
from functools import cache

READING = frozenset({"GET", "HEAD"})
ASKING = "model.request"
"""What it takes to ask a model, whichever way."""

TABLE: tuple[tuple[str, str], ...] = (
    (r"/health|/version|/openapi\.json|/|/\{.*|/v1/\{.*", ""),
    (r"/v1/organization/.*", ""),
    (r"POST /v1/(chat/completions|completions|embeddings|moderations)", "model.request"),
    (r"POST /v1/responses(/input_tokens)?", "model.request"),
    (r"POST /(v1/)?(tokenize|detokenize)", "model.request"),
    (r"POST /v1/batches", "batches.write model.request"),
    (r"POST /v1/tutee/conversations/\{id\}/generate", "tutee.write model.request"),
    (r"/v1/models.*|/(v1/)?(tokenizer_info|tokenize|detokenize)", "model"),
    (r"/v1/(chat/completions|responses|conversations)(/.*)?", "responses"),
    (r"/v1/(files|uploads)(/.*)?", "files"),
    (r"/v1/fine_tuning/.*", "fine_tuning"),
    (r"/v1/evals(/.*)?", "evals"),
    (r"/v1/batches(/.*)?", "batches"),
    (r"/v1/webhook_(endpoints|event_types)(/.*)?", "webhooks"),
    (r"/v1/tutee/.*|/metrics", "tutee"),
)
"""(METHOD and) path → scopes, or a group of scopes, whose `read` or `write` is needed; "" for none: these routes are
public, or the operator's."""


@cache
def scopes_of(method: str, path: str) -> tuple[str, ...] | None:
    """The scopes that a route needs, None when the table does not know it.

    Args:
        path: the route's template, such as `/v1/files/{id}`.
    """
    for pattern, scopes in TABLE:
        if re.fullmatch(pattern, f"{method} {path}" if pattern.startswith("POST ") else path):
            if not scopes or "." in scopes:
                return tuple(scopes.split())
            return (f"{scopes}.{'read' if method in READING else 'write'}",)
    return None
