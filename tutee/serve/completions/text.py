"""Text with the older API's log-probs: four lists of one entry a token, prompt tokens and new ones alike.

A token's name is its text; one that is no whole character on its own is named `bytes:\\xe2\\x82`, so that no two tokens
share a name by being broken alike. Knows tokens and text, not where they come from.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tutee.engine.readout import PromptLogprobs
from tutee.engine.request import Chunk, TopLogprobs
from tutee.model.tokenizer import Tokenizer
from tutee.serve.chat.logprobs import LEAST

Entry = tuple[str, float | None, dict[str, float] | None, int]
"""A token's name, its log-prob, the likeliest tokens in its place, and where it begins in the choice's text."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of a choice and the tokens that came with it; `entries` is None when no log-probs were asked for."""

    text: str = ""
    entries: tuple[Entry, ...] | None = None

    def __bool__(self) -> bool:
        return bool(self.text or self.entries)

    def then(self, other: Piece) -> Piece:
        """This piece and the next."""
        if self.entries is None and other.entries is None:
            return Piece(self.text + other.text)
        return Piece(self.text + other.text, (self.entries or ()) + (other.entries or ()))

    def choice(self, index: int, finish_reason: str | None) -> dict[str, Any]:
        """As OpenAI's JSON."""
        logprobs = None
        if self.entries is not None:
            tokens, values, top, offsets = zip(*self.entries, strict=True) if self.entries else ((), (), (), ())
            logprobs = {"tokens": tokens, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets}
        return {"index": index, "text": self.text, "logprobs": logprobs, "finish_reason": finish_reason}


class TextWriter:
    """One choice as it grows.

    Args:
        logprobs: whether they were asked for; the likeliest tokens are named beside the chosen one.
    """

    def __init__(self, tokenizer: Tokenizer, logprobs: bool) -> None:
        self._tokenizer = tokenizer
        self._logprobs = logprobs
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def prompt(self, text: str, ids: Sequence[int], readout: PromptLogprobs | None) -> Piece:
        """The prompt, with what was read off it. The first token has nothing before it: null."""
        if not self._logprobs:
            return Piece(text)
        assert readout is not None, "log-probs were asked for, so the prompt is read"
        values, best = [None, *readout.logprobs], [None, *readout.top_logprobs]
        entries = []
        for token, value, top in zip(ids, values, best, strict=True):
            # A token that the tokenizer puts before every text is not part of it.
            shown = token not in self._tokenizer.special_ids or text.startswith(self._name(token), self._offset)
            entries.append(self._entry(token, value, top, shown))
        return Piece(text, tuple(entries))

    def add(self, chunk: Chunk) -> Piece:
        """What the model says next. Tokens never wait for their text; the one that ended the answer is among them."""
        if not self._logprobs:
            return Piece(chunk.text)
        top = chunk.top_logprobs or ((),) * len(chunk.token_ids)
        entries = (
            self._entry(token, value, best, token not in self._tokenizer.special_ids)
            for token, value, best in zip(chunk.token_ids, chunk.logprobs, top, strict=True)
        )
        return Piece(chunk.text, tuple(entries))

    def _entry(self, token: int, logprob: float | None, top: TopLogprobs | None, shown: bool) -> Entry:
        name, offset = self._name(token), self._offset
        if shown:
            self._offset += len(self._decoder.decode(self._tokenizer.token_bytes(token)))
        if logprob is None:
            return name, None, None, offset
        named: dict[str, float] = {}
        for other, value in (*(top or ()), (token, logprob)):  # of two tokens of one name the likelier, which is first
            named.setdefault(self._name(other), max(value, LEAST))
        return name, max(logprob, LEAST), named, offset

    def _name(self, token: int) -> str:
        data = self._tokenizer.token_bytes(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
