"""Log-probs as OpenAI's clients read them: one entry a token, whose bytes joined are the bytes of the text.

The engine reports tokens at once and text later (a character may be incomplete, a stop string may be beginning), and
its tokens include the one that ended the answer. Entries therefore wait until the text has caught up with them; what is
left at a natural end is not part of the text and is dropped.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection
from typing import Any

from tutee.engine.request import Chunk
from tutee.model.tokenizer import Tokenizer

LEAST = -9999.0
"""Stands for minus infinity, which JSON cannot hold."""


class LogprobEntries:
    """The entries of one choice, in step with its text.

    Args:
        spoken: special tokens that are part of the text.
    """

    def __init__(self, tokenizer: Tokenizer, spoken: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._silent = tokenizer.special_ids.difference(spoken)
        self._waiting: list[tuple[int, dict[str, Any]]] = []  # where the token ends, in characters; its entry
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._token_end = 0
        self._text_end = 0

    def add(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The entries that this chunk's text completes."""
        for i, token in enumerate(chunk.token_ids):
            top = chunk.top_logprobs[i] if i < len(chunk.top_logprobs) else ()
            entry = self._entry(token, chunk.logprobs[i])
            entry["top_logprobs"] = [self._entry(other, value) for other, value in top]
            self._token_end += len(self._decoder.decode(bytes(entry["bytes"])))
            in_character = bool(self._decoder.getstate()[0])
            self._waiting.append((self._token_end + in_character, entry))
        self._text_end += len(chunk.text)
        cut_by_length = chunk.finish_reason == "length"
        ready = [entry for end, entry in self._waiting if cut_by_length or end <= self._text_end]
        del self._waiting[: len(ready)]
        if chunk.finish_reason == "stop":
            ready = [entry for entry in ready if entry["bytes"]]
        return ready

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        data = b"" if token in self._silent else self._tokenizer.token_bytes(token)
        text = self._tokenizer.token_text(token) if not data else data.decode("utf-8", "replace")
        return {"token": text, "logprob": max(logprob, LEAST), "bytes": list(data)}
