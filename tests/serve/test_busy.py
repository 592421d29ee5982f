"""A server with more to do than it can: every request is answered, or told when to come back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

import httpx

from tutee.settings import Settings

from .conftest import serving

ASK = {"model": "chat", "messages": [{"role": "user", "content": "x"}], "max_tokens": 40}


def test_beyond_the_queue_requests_are_refused_with_a_time(make_home: Callable[..., Settings]) -> None:
    with serving(make_home(max_batch=1, max_waiting=4)) as server, ThreadPoolExecutor(24) as pool:
        with server.http() as http:
            replies = list(pool.map(lambda _: http.post("/v1/chat/completions", json=ASK), range(24)))
            after = http.post("/v1/chat/completions", json=ASK)
        stats = server.services.live.engines[0].stats
    statuses = Counter(reply.status_code for reply in replies)
    assert set(statuses) == {200, 429}
    assert statuses[200] >= 3
    for reply in replies:
        if reply.status_code == 429:
            assert 1 <= int(reply.headers["retry-after"]) <= 60
            assert reply.json()["error"]["code"] == "rate_limit_exceeded"
    assert after.status_code == 200
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)


def test_a_crowd_of_one_leaves_room_for_others(make_home: Callable[..., Settings]) -> None:
    with serving(make_home(max_batch=1, max_waiting=8)) as server, ThreadPoolExecutor(24) as pool:

        def ask(actor: str) -> httpx.Response:
            with server.http(actor) as http:
                return http.post("/v1/chat/completions", json=ASK | {"max_tokens": 120})

        crowd = [pool.submit(ask, "crowd") for _ in range(16)]
        first = next(as_completed(crowd)).result()  # A refusal comes at once, an answer later.
        assert (first.status_code, "of your requests" in first.text) == (429, True)
        assert ask("other").status_code == 200
        assert {future.result().status_code for future in crowd} == {200, 429}
