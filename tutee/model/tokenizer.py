"""Text to token ids and back, from a folder's `tokenizer.json`; streaming that never splits a character.

Knows nothing of chats or of models.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from tutee.errors import InvalidInput

BYTE_TOKEN = re.compile("<0x[0-9A-Fa-f]{2}>")


class Tokenizer:
    """A model's tokenizer.

    Raises (on construction):
        InvalidInput: `tokenizer.json` is missing or unreadable.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "tokenizer.json"
        try:
            content = path.read_bytes()
            self._backend: Backend = Backend.from_buffer(content)
            self._plain: Backend = Backend.from_buffer(content)
        except Exception as error:  # the Rust library raises a bare Exception
            raise InvalidInput(
                f"{folder} has no readable tokenizer.json ({error}).", param="model", code="not_a_model"
            ) from None
        self._plain.encode_special_tokens = True
        settings = _read_json(folder / "tokenizer_config.json")
        self.sha256 = hashlib.sha256(content).hexdigest()
        """Of `tokenizer.json`; stored with every generation."""
        self.vocab_size = self._backend.get_vocab_size()
        self.bos_id = self._named(settings, "bos_token")
        self.eos_id = self._named(settings, "eos_token")
        self.pad_id = self._named(settings, "pad_token")
        added = self._backend.get_added_tokens_decoder()
        self._added_ids = frozenset(added)
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        self.special_tokens = {added[id].content: id for id in self.special_ids}
        self.chat_template = _chat_template(folder, settings)
        """From `chat_template.jinja` or `tokenizer_config.json`, or None."""
        self._byte_level = b"ByteLevel" in content

    def _named(self, settings: dict[str, Any], name: str) -> int | None:
        token = settings.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        return self._backend.token_to_id(text) if isinstance(text, str) else None

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Ids of `text`. With `special`, special tokens written in it become their ids; else they are plain text."""
        return list((self._backend if special else self._plain).encode(text, add_special_tokens=False).ids)

    def encode_document(self, text: str) -> list[int]:
        """Ids of a text that stands alone, as transformers encodes it: special tokens written in it become their ids,
        and the tokenizer puts around it what it puts around every text (a beginning-of-text token, if anything)."""
        return list(self._backend.encode(text, add_special_tokens=True).ids)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return str(self._backend.decode(list(ids), skip_special_tokens=skip_special))

    def token_text(self, id: int) -> str:
        """The token as text, special ones included; bytes that are no UTF-8 on their own become U+FFFD."""
        return self.token_bytes(id).decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token stands for (OpenAI's `logprobs.content[].bytes`); empty for an id without a token."""
        token = self._backend.id_to_token(id)
        if token is None:
            return b""
        if id in self._added_ids:
            return token.encode()
        if self._byte_level:
            return b"".join(BYTE_OF_CHARACTER.get(character, character.encode()) for character in token)
        if BYTE_TOKEN.fullmatch(token):
            return bytes.fromhex(token[3:5])
        return token.replace("▁", " ").encode()


class Detokenizer:
    """Turns a stream of ids into a stream of text, holding back a character until all its bytes are there.

    What it says, joined, is what `Tokenizer.decode` says of all the ids.

    Args:
        spoken: special tokens that are text all the same.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True, spoken: Collection[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids.difference(spoken) if skip_special else frozenset[int]()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        # SentencePiece decoders drop the space before the first word.
        self._strip_space = not tokenizer._byte_level

    def add(self, id: int) -> str:
        """The text that became certain with this token (may be empty)."""
        if id in self._skipped:
            return ""
        data = self._tokenizer.token_bytes(id)
        if self._strip_space and data:
            data = data.removeprefix(b" ")
            self._strip_space = False
        return self._decoder.decode(data)

    def finish(self) -> str:
        """What was held back; incomplete bytes become U+FFFD."""
        return self._decoder.decode(b"", final=True)


def _byte_table() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte: printable Latin-1 is itself, the rest follow from U+0100."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(0x100 + i): byte for i, byte in enumerate(rest)}


BYTE_OF_CHARACTER = {character: bytes([byte]) for character, byte in _byte_table().items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path} cannot be read ({error}).", param="model", code="not_a_model") from None
    return raw if isinstance(raw, dict) else {}


def _chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    raw = settings.get("chat_template")
    if isinstance(raw, list):  # several by name; the one called default is for chat
        raw = next((item.get("template") for item in raw if item.get("name") == "default"), None)
    return raw if isinstance(raw, str) else None
