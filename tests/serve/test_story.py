"""A story has readers who come at any time and ask for any number."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from tutee.serve.responses.story import Story
from tutee.store import Store

EVENTS = [b'{"type":"begun"}', b'{"type":"said"}', b'{"type":"ended"}']


@pytest.mark.parametrize(("after", "heard"), [(-1, EVENTS), (0, EVENTS[1:]), (1, EVENTS[2:]), (99, EVENTS[2:])])
@pytest.mark.parametrize("told_first", [0, 1, 3])
def test_everybody_hears_how_it_ended(after: int, heard: list[bytes], told_first: int) -> None:
    async def read() -> list[bytes]:
        story = Story(cast(Store, None), "resp_1")  # nothing is saved here
        story.add(EVENTS[:told_first])
        following = story.follow(after)
        reading = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        story.add(EVENTS[told_first:], over=True)
        return [*await reading, *(event for events in [part async for part in following] for event in events)]

    assert asyncio.run(read()) == heard
