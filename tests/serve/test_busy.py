"""A server with more to do than it can: every request is answered, or told when to come back."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice

import httpx

from tutee.settings import Settings

from .conftest import halted, serving

ASK = {"model": "chat", "messages": [{"role": "user", "content": "x"}], "max_tokens": 40}


def test_beyond_the_queue_requests_are_refused_with_a_time(make_home: Callable[..., Settings]) -> None:
    with serving(make_home(max_batch=1, max_waiting=4)) as server, ThreadPoolExecutor(24) as pool:
        engine = server.services.live.base.engine
        with server.http() as http:

            def ask() -> httpx.Response:
                return http.post("/v1/chat/completions", json=ASK, timeout=120)

            with halted(engine):
                asked = [pool.submit(ask)]
                while not engine.stats.running:
                    time.sleep(0.01)
                asked += [pool.submit(ask) for _ in range(23)]
                refused = [future.result() for future in islice(as_completed(asked), 21)]
            statuses = sorted(future.result().status_code for future in asked)
            after = ask()
        stats = engine.stats
    assert statuses == [200] * 3 + [429] * 21
    for reply in refused:
        assert reply.status_code == 429
        assert 1 <= int(reply.headers["retry-after"]) <= 600
        assert reply.json()["error"]["code"] == "rate_limit_exceeded"
    assert after.status_code == 200
    assert (stats.running, stats.waiting, stats.blocks_used) == (0, 0, 0)


def test_a_crowd_of_one_leaves_room_for_others(make_home: Callable[..., Settings]) -> None:
    with serving(make_home(max_batch=1, max_waiting=8)) as server, ThreadPoolExecutor(24) as pool:

        def ask(actor: str) -> httpx.Response:
            with server.http(actor) as http:
                return http.post("/v1/chat/completions", json=ASK, timeout=120)

        with halted(server.services.live.base.engine):
            crowd = [pool.submit(ask, "crowd") for _ in range(16)]
            first = next(as_completed(crowd)).result()  # an answer cannot come
            assert (first.status_code, "of your requests" in first.text) == (429, True)
        assert ask("other").status_code == 200
        assert {future.result().status_code for future in crowd} == {200, 429}
