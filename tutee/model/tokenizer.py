"""Text to token ids and back, from a folder's `tokenizer.json`; streaming that never splits a character.

Knows nothing of chats or of models.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class Tokenizer:
    """A model's tokenizer.

    Raises (on construction):
        InvalidInput: `tokenizer.json` is missing or unreadable.
    """

    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    sha256: str
    """Of `tokenizer.json`; stored with every generation."""
    chat_template: str | None
    """From `chat_template.jinja` or `tokenizer_config.json`."""
    special_ids: frozenset[int]

    def __init__(self, folder: Path) -> None:
        raise NotImplementedError

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Ids of `text`. With `special`, special tokens written in the text become their ids; else they are plain text."""
        raise NotImplementedError

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        raise NotImplementedError

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token stands for (OpenAI's `logprobs.content[].bytes`)."""
        raise NotImplementedError

    def token_text(self, id: int) -> str:
        """The token as text, special ones included."""
        raise NotImplementedError


class Detokenizer:
    """Turns a stream of ids into a stream of text, holding back a character until all its bytes are there."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True) -> None:
        raise NotImplementedError

    def add(self, id: int) -> str:
        """The text that became certain with this token (may be empty)."""
        raise NotImplementedError

    def finish(self) -> str:
        """What was held back; incomplete bytes become U+FFFD."""
        raise NotImplementedError
