"""How a client asks for one page of a list: `limit`, `order`, `metadata[key]=value`; `after` is any route's own text.

The pages themselves are `replies.page_of`'s and the store's (`store/paging.py`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query, Request

Limit = Annotated[int, Query(ge=1, le=100)]
Order = Literal["asc", "desc"]


def metadata_filter(request: Request) -> dict[str, str] | None:
    """`metadata[key]=value` of the query string; None when there is no such filter, empty for `metadata=null`, which
    is how OpenAI's API asks for what has no metadata."""
    found = {
        name[len("metadata[") : -1]: value
        for name, value in request.query_params.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    return found or ({} if request.query_params.get("metadata") == "null" else None)
