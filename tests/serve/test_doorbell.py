"""One ring for all, nobody forgotten, nobody held up."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from functools import partial
from typing import Any

from tutee.serve.doorbell import Doorbell, News


def test_one_wake_up_for_all_that_comes_before_the_loop_answers() -> None:
    async def run() -> tuple[int, list[int]]:
        loop, bell = asyncio.get_running_loop(), Doorbell.here()
        rings, called, real = 0, list[int](), loop.call_soon_threadsafe

        def counting(*args: Any) -> Any:
            nonlocal rings
            rings += 1
            return real(*args)

        loop.call_soon_threadsafe = counting  # type: ignore[method-assign, assignment]
        for i in range(64):
            bell.call(partial(called.append, i))
        await asyncio.sleep(0.01)
        return rings, called

    assert asyncio.run(run()) == (1, list(range(64)))


def test_what_comes_then_comes_after_all_of_the_ring() -> None:
    async def run() -> list[str]:
        bell, called = Doorbell.here(), list[str]()

        def first(name: str) -> None:
            called.append(name)
            bell.then(partial(called.append, f"then {name}"))

        bell.call(partial(first, "a"))
        bell.call(partial(first, "b"))
        await asyncio.sleep(0.01)
        bell.then(partial(called.append, "at once"))
        return called

    assert asyncio.run(run()) == ["a", "b", "then a", "then b", "at once"]


def test_one_that_fails_does_not_keep_the_others_waiting() -> None:
    async def run() -> tuple[list[str], list[str]]:
        bell, called, failed = Doorbell.here(), list[str](), list[str]()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(str(context["exception"])))

        def fail() -> None:
            raise ValueError("no bell of mine")

        bell.call(fail)
        bell.call(partial(called.append, "next"))
        await asyncio.sleep(0.01)
        return called, failed

    assert asyncio.run(run()) == (["next"], ["no bell of mine"])


def test_no_news_is_lost_between_threads() -> None:
    async def run() -> int:
        news, told, heard = News(), deque[int](), 0
        threads = _telling(news, told)
        while heard < 10_000:
            await asyncio.wait_for(news.wait(), 60)
            heard += len([told.popleft() for _ in range(len(told))])
        for thread in threads:
            thread.join()
        return heard

    assert asyncio.run(run()) == 10_000


def test_no_news_is_lost_on_a_listener_who_comes_and_goes() -> None:
    async def run() -> int:
        news, told, heard = News(), deque[int](), 0
        all_heard = asyncio.Event()

        def hear() -> None:
            nonlocal heard
            heard += len([told.popleft() for _ in range(len(told))])
            if heard == 10_000:
                all_heard.set()

        threads = _telling(news, told)
        while any(thread.is_alive() for thread in threads):
            news.listen(hear)
            await asyncio.sleep(0.001)
            news.listen(None)
            await asyncio.sleep(0.001)
        news.listen(hear)
        await asyncio.wait_for(all_heard.wait(), 60)
        return heard

    assert asyncio.run(run()) == 10_000


def _telling(news: News, told: deque[int]) -> list[threading.Thread]:
    """Two threads that tell 5,000 news each."""

    def tell() -> None:
        for i in range(5000):
            told.append(i)
            news.tell()

    threads = [threading.Thread(target=tell) for _ in range(2)]
    for thread in threads:
        thread.start()
    return threads
