"""Who does not read waits for himself alone, and costs no memory."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

import pytest

from tutee.serve.doorbell import News
from tutee.serve.wire import COMMENT, Wire

T = TypeVar("T")
asking: ContextVar[str] = ContextVar("asking", default="nobody")


class Sink:
    """ASGI's `send`, of a client that reads only while `reads` is set."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()
        self.reads.set()
        self.bodies: list[bytes] = []
        self.ended = False
        self.waiting = 0

    async def send(self, message: Any) -> None:
        self.waiting += 1
        await self.reads.wait()
        self.waiting -= 1
        if message["body"]:
            self.bodies.append(message["body"])
        self.ended = not message["more_body"]


class Talk:
    """Something that is told word by word; a word of None is the end."""

    def __init__(self) -> None:
        self.news = News()
        self.words: list[bytes | None] = []
        self.over = False
        self.heard_by = ""

    def say(self, *words: bytes | None) -> None:
        self.words += words
        self.news.tell()

    def more(self) -> bytes:
        self.heard_by = asking.get()
        words, self.words = self.words, []
        self.over = self.over or None in words
        return b"".join(word for word in words if word is not None)


async def turn() -> None:
    """Let the loop go round a few times."""
    for _ in range(5):
        await asyncio.sleep(0)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 60))


def test_each_word_is_sent_as_it_comes_and_needs_no_task() -> None:
    async def work() -> None:
        sink, talk = Sink(), Talk()
        wire = Wire(sink.send)
        following = asyncio.ensure_future(wire.follow(talk))
        await turn()
        before = len(asyncio.all_tasks())
        for word in (b"a", b"b", b"c"):
            talk.say(word)
            await turn()
        assert sink.bodies == [b"a", b"b", b"c"]
        assert len(asyncio.all_tasks()) == before
        talk.say(b"d", None)
        await following
        await wire.end()
        assert sink.bodies == [b"a", b"b", b"c", b"d"]
        assert sink.ended

    run(work())


def test_a_slow_reader_holds_one_piece_and_gets_the_rest_in_one() -> None:
    async def work() -> None:
        slow, quick = (Sink(), Talk()), (Sink(), Talk())
        slow[0].reads.clear()
        following = [asyncio.ensure_future(Wire(sink.send).follow(talk)) for sink, talk in (slow, quick)]
        await turn()
        for i in range(100):
            for _, talk in (slow, quick):
                talk.say(b"%02d " % i)
            await turn()
        assert len(quick[0].bodies) == 100
        assert slow[0].waiting == 1
        assert len(slow[1].words) == 99  # not put into bytes before somebody wants them
        slow[1].say(None)
        quick[1].say(None)
        slow[0].reads.set()
        await asyncio.gather(*following)
        assert len(slow[0].bodies) == 2
        assert b"".join(slow[0].bodies) == b"".join(quick[0].bodies)

    run(work())


def test_the_end_waits_for_a_slow_reader_too() -> None:
    async def work() -> None:
        sink, talk = Sink(), Talk()
        wire = Wire(sink.send)
        sink.reads.clear()
        following = asyncio.ensure_future(wire.follow(talk))
        talk.say(b"all", None)
        await turn()
        assert not following.done()
        sink.reads.set()
        await following
        await wire.write(b"last")
        await wire.end()
        assert (sink.bodies, sink.ended) == ([b"all", b"last"], True)

    run(work())


def test_closing_gives_up_what_a_reader_did_not_take() -> None:
    async def work() -> None:
        sink, talk = Sink(), Talk()
        wire = Wire(sink.send)
        following = asyncio.ensure_future(wire.follow(talk))
        await turn()
        sink.reads.clear()
        talk.say(b"lost")
        await turn()
        following.cancel()
        wire.close()
        await turn()
        sink.reads.set()
        talk.say(b"more")
        await turn()
        assert sink.bodies == []
        assert len(asyncio.all_tasks()) == 2  # this one, and the one that waits for it

    run(work())


def test_errors_of_the_talk_and_of_sending_come_out() -> None:
    async def work() -> None:
        class Broken(Talk):
            def more(self) -> bytes:
                raise ValueError("of the talk")

        async def refuse(message: Any) -> None:
            raise OSError("at once")

        async def refuse_later(message: Any) -> None:
            await asyncio.sleep(0.01)
            raise OSError("later")

        with pytest.raises(ValueError, match="of the talk"):
            await Wire(Sink().send).follow(Broken())
        for send, error in ((refuse, "at once"), (refuse_later, "later")):
            talk = Talk()
            talk.say(b"word")
            with pytest.raises(OSError, match=error):
                await Wire(send).follow(talk)

    run(work())


def test_it_is_told_for_whom_it_is_followed_whoever_rings() -> None:
    async def work() -> str:
        talk = Talk()
        asking.set("me")
        following = asyncio.ensure_future(Wire(Sink().send).follow(talk))
        await turn()
        asking.set("somebody else")
        talk.say(b"word", None)
        await following
        return talk.heard_by

    assert run(work()) == "me"


def test_the_end_goes_the_usual_way() -> None:
    async def work() -> None:
        usual, straight = Sink(), Sink()
        wire = Wire(usual.send, straight.send)
        await wire.write(b"piece")
        await wire.end()
        assert (usual.bodies, usual.ended) == ([], True)
        assert (straight.bodies, straight.ended) == ([b"piece"], False)

    run(work())


def test_who_has_only_now_read_the_last_piece_was_not_in_silence() -> None:
    async def work() -> None:
        sink, talk = Sink(), Talk()
        wire = Wire(sink.send, keepalive=600)
        following = asyncio.ensure_future(wire.follow(talk))
        await turn()
        sink.reads.clear()
        talk.say(b"word")
        await turn()
        wire._spoke_at -= 1000  # so long did he not read
        sink.reads.set()
        await turn()
        wire._break_silence()
        assert sink.bodies == [b"word"]
        wire._spoke_at -= 1000
        wire._break_silence()
        assert sink.bodies == [b"word", COMMENT]
        talk.say(None)
        await following
        wire.close()

    run(work())


def test_silence_is_broken_by_comments_and_only_silence() -> None:
    async def work() -> None:
        sink, talk = Sink(), Talk()
        wire = Wire(sink.send, keepalive=0.2)
        following = asyncio.ensure_future(wire.follow(talk))
        while COMMENT not in sink.bodies:
            await asyncio.sleep(0.01)
        sink.bodies.clear()
        sink.reads.clear()  # who does not read gets no comments either
        talk.say(b"word")
        await asyncio.sleep(0.7)
        talk.say(None)
        sink.reads.set()
        await following
        wire.close()
        assert sink.bodies == [b"word"]

    run(work())
