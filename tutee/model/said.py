"""What an assistant's text says: thoughts, words for the user, and calls of tools, read piece by piece as it comes.

The reader gives out at once what is certain and keeps back what may be the beginning of a tag. A call is begun when its
name is known to be one of the offered functions; its arguments then go out exactly as they were written. What looks
like a call and is none (broken JSON, an unknown function) stays text. Whole answers are read by the same code, so a
streamed answer joined is the answer in one piece. Knows text alone: no tokens, no HTTP.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from tutee.model.dialects import HERMES, LAYOUT, Dialect

THINK, END_THINK = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Thought:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class Words:
    """More of what the user reads."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """Call number `index` of this answer names its function."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the JSON text of a call's arguments."""

    index: int
    text: str


Piece = Thought | Words | CallBegun | Arguments


@dataclass(frozen=True, slots=True)
class Form:
    """What an answer may hold beside words.

    Args:
        thinks: the text may hold `<think>…</think>` at its beginning.
        thinking: it begins inside (the prompt ended with `<think>`).
        functions: names that may be called; empty: no calls are looked for.
        dialect: how calls are written.
    """

    thinks: bool = False
    thinking: bool = False
    functions: Collection[str] = ()
    dialect: Dialect = HERMES

    @property
    def plain(self) -> bool:
        """Whether every text is nothing but words."""
        return not (self.thinks or self.functions)


WORDS_ALONE = Form()


@dataclass(frozen=True, slots=True)
class Said:
    """An answer taken apart; calls are (function, arguments)."""

    reasoning: str | None
    content: str | None
    calls: tuple[tuple[str, str], ...]


class AnswerReader:
    """Reads one answer."""

    def __init__(self, form: Form) -> None:
        self._functions = frozenset(form.functions)
        self._dialect = form.dialect
        self._held = ""
        self._gap = ""
        """White space that goes out before more words, and is layout before a call or at the end of calls."""
        self._thought = False
        self._calls = 0
        self._opening = ""
        """What was taken for the beginning of the call that is being read."""
        self._depth = 0
        self._in_string = self._escaped = False
        self._out: list[Piece] = []
        self._answer = self._first if self._functions and self._dialect.bare else self._words
        self._read = self._thoughts if form.thinking else self._begin if form.thinks else self._answer

    @property
    def thinking(self) -> bool:
        """Whether what comes next may be thoughts."""
        return self._read in (self._begin, self._thoughts)

    def push(self, text: str, last: bool = False) -> list[Piece]:
        """The pieces that became certain with this text; with `last`, everything that was kept back."""
        self._held += text
        self._out = []
        before = None
        while before != (before := (self._read, self._held)):
            self._read(last)
        if last and self._gap and not self._calls:
            self._out.append(Words(self._gap))
        return _joined(self._out)

    def _begin(self, last: bool) -> None:
        """Before the first word: thoughts may come."""
        text = self._held.lstrip()
        if text.startswith(THINK):
            self._held, self._read = text[len(THINK) :], self._thoughts
        elif last or not THINK.startswith(text):
            self._read = self._answer

    def _thoughts(self, last: bool) -> None:
        if not self._thought:
            self._held = self._held.lstrip()
        self._thought = self._thought or bool(self._held)
        thought, closed, rest = self._held.partition(END_THINK)
        if closed:
            self._out.append(Thought(thought.rstrip()))
            self._held, self._read = rest, self._after_thoughts
        else:
            keep = 0 if last else _blank_before(self._held, _overlap(self._held, END_THINK))
            self._out.append(Thought(self._take(len(self._held) - keep)))

    def _after_thoughts(self, last: bool) -> None:
        """White space between thoughts and words belongs to neither."""
        self._held = self._held.lstrip()
        if self._held:
            self._read = self._answer

    def _first(self, last: bool) -> None:
        """Before the first word: a call may stand there without an opening."""
        text = self._held.lstrip()
        if text.startswith("{"):
            self._opening, self._held, self._read = self._held[: len(self._held) - len(text)], text, self._call
        elif text or last:
            self._read = self._words

    def _words(self, last: bool) -> None:
        if not self._functions:
            self._out.append(Words(self._take(len(self._held))))
            return
        openings = self._dialect.openings
        at, opening = min(((self._held.find(each), each) for each in openings if each in self._held), default=(-1, ""))
        if opening:
            self._say_words(self._take(at))
            self._opening, self._read = self._take(len(opening)), self._call
        else:
            keep = 0 if last else max(_overlap(self._held, each) for each in openings)
            self._say_words(self._take(len(self._held) - keep))

    def _call(self, last: bool) -> None:
        """Inside a call, before its arguments."""
        head = self._dialect.head.match(self._held)
        if head and head["name"] in self._functions:
            self._begin_call(head["name"])
            self._held, self._read = self._held[head.end() :], self._arguments
            return
        found = self._dialect.whole(self._held)
        if found is None and not last:
            return
        length, call = found or (len(self._held), None)
        body = self._take(length)
        if call is not None and call[0] in self._functions:
            self._begin_call(call[0])
            self._out.append(Arguments(self._calls - 1, call[1]))
            self._read = self._after_call
        else:
            self._say_words(self._opening + body)
            self._read = self._words

    def _begin_call(self, name: str) -> None:
        self._gap = ""
        self._out.append(CallBegun(self._calls, name))
        self._calls += 1

    def _arguments(self, last: bool) -> None:
        """Up to the bracket that closes the object."""
        for i, character in enumerate(self._held):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self._out.append(Arguments(self._calls - 1, self._take(i + 1)))
                    self._read = self._tail
                    return
        self._out.append(Arguments(self._calls - 1, self._take(len(self._held))))

    def _tail(self, last: bool) -> None:
        """From the end of the arguments to the end of the call."""
        tail = self._dialect.tail.match(self._held)
        if tail is not None:
            self._held, self._read = self._held[tail.end() :], self._after_call
        elif len(self._held) > LAYOUT:
            self._read = self._words
        elif last:
            self._held = ""

    def _after_call(self, last: bool) -> None:
        """Where another call may follow, or what closes them."""
        for pattern, following in ((self._dialect.further, self._call), (self._dialect.close, self._words)):
            found = pattern.match(self._held) if pattern is not None else None
            if found is not None:
                self._opening, self._read = self._take(found.end()), following
                return
        if last or len(self._held) > LAYOUT or (self._dialect.further or self._dialect.close) is None:
            self._read = self._words

    def _take(self, count: int) -> str:
        taken, self._held = self._held[:count], self._held[count:]
        return taken

    def _say_words(self, text: str) -> None:
        """Words, all but the white space at their end."""
        body = text.rstrip()
        if body:
            self._out.append(Words(self._gap + body))
            self._gap = ""
        self._gap += text[len(body) :]


def read_answer(text: str, form: Form) -> Said:
    """A whole answer taken apart; `content` and `reasoning` are None where there is none."""
    thoughts, words, calls = "", "", []
    for piece in AnswerReader(form).push(text, last=True):
        match piece:
            case Thought(more):
                thoughts += more
            case Words(more):
                words += more
            case CallBegun(_, name):
                calls.append((name, ""))
            case Arguments(index, more):
                calls[index] = (calls[index][0], calls[index][1] + more)
    return Said(thoughts or None, words or (None if calls else ""), tuple(calls))


def _overlap(text: str, tag: str) -> int:
    """Length of the longest end of `text` that begins `tag`."""
    return next((size for size in range(min(len(text), len(tag) - 1), 0, -1) if text.endswith(tag[:size])), 0)


def _blank_before(text: str, keep: int) -> int:
    """`keep` last characters and the white space before them."""
    return len(text) - len(text[: len(text) - keep].rstrip())


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbours of one kind put together, empty ones left out."""
    out: list[Piece] = []
    for piece in pieces:
        before = out[-1] if out else None
        match before, piece:
            case Thought(a), Thought(b):
                out[-1] = Thought(a + b)
            case Words(a), Words(b):
                out[-1] = Words(a + b)
            case Arguments(i, a), Arguments(j, b) if i == j:
                out[-1] = Arguments(i, a + b)
            case _, CallBegun():
                out.append(piece)
            case _ if piece.text:
                out.append(piece)
    return out
