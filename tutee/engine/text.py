"""From sampled tokens to streamed text: whole code points only, and nothing of a stop string.

Knows one answer's text. Text that may turn out to begin a stop string is held back until it is clear that it does not.
"""

from __future__ import annotations

from collections.abc import Sequence

from tutee.model.tokenizer import Detokenizer


class TextStream:
    """The text of one answer as it grows."""

    def __init__(self, detokenizer: Detokenizer, stop: Sequence[str] = ()) -> None:
        self._detokenizer = detokenizer
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False
        """A stop string was completed: what came before it has been returned, nothing more will be."""

    def push(self, token: int, *, look_for_stop: bool = True) -> str:
        """Take one token, return the text that can be shown now (often that token's, sometimes none or several)."""
        text = self._held + self._detokenizer.add(token)
        self._held = ""
        if not self._stop or not look_for_stop:
            return text
        begin = min((at for at in map(text.find, self._stop) if at >= 0), default=-1)
        if begin >= 0:
            self.stopped = True
            return text[:begin]
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """The rest, at the end of the answer: held text, and a replacement character for a broken code point."""
        if self.stopped:
            return ""
        text, self._held = self._held + self._detokenizer.finish(), ""
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
