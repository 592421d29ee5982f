"""A model made for embeddings, read from a folder in the form of sentence-transformers, beside the one that chats.

`TUTEE_EMBEDDING_MODEL` names the folder. The work is the library's (`pip install 'tutee[embeddings]'`): encoders of any
kind with their own pooling, from safetensors only and without code from the folder. Texts run one request at a time,
because the cores are the chat's too. Knows nothing of HTTP.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tutee.errors import InvalidInput

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SETTING = "TUTEE_EMBEDDING_MODEL"
OPENAI = "text-embedding-"
"""What OpenAI's own embedding models begin with: scripts that name one get this model."""
AT_ONCE = 32
"""Texts in one pass through the model."""


class Encoder:
    """Texts to vectors. All methods may be called from any thread.

    Raises:
        InvalidInput: the library is missing, `folder` holds no such model, or it holds pickles (param: the setting).
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        self.since = folder.stat().st_mtime if folder.is_dir() else 0.0
        """When the folder was last changed, in unix seconds."""
        self._model = _load(folder)
        self._lock = threading.Lock()

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return int(self._model.get_embedding_dimension() or 0)

    def answers_to(self, name: str) -> bool:
        """Whether a request for the model called `name` is for this one."""
        return name == self.name or name.startswith(OPENAI)

    def count(self, texts: Sequence[str], param: str) -> int:
        """Tokens of all texts.

        Raises:
            InvalidInput: a text is longer than the model reads, which would be cut in silence (code
                `context_length_exceeded`).
        """
        most = self._model.max_seq_length
        lengths = [len(ids) for ids in self._model.tokenizer(list(texts))["input_ids"]]
        for i, length in enumerate(lengths):
            if most is not None and length > most:
                at = param if len(texts) == 1 else f"{param}[{i}]"
                message = f"'{at}' has {length} tokens; '{self.name}' reads at most {most}."
                raise InvalidInput(message, param=at, code="context_length_exceeded")
        return sum(lengths)

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Float32 [B, D], each row of length 1."""
        with self._lock:
            found: Any = self._model.encode(
                list(texts), batch_size=AT_ONCE, normalize_embeddings=True, show_progress_bar=False
            )
        return np.asarray(found, dtype="<f4")


def _load(folder: Path) -> SentenceTransformer:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        message = f"{SETTING} needs a package more: pip install 'tutee[embeddings]'."
        raise InvalidInput(message, param=SETTING) from None
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        message = (
            f"{SETTING}: {folder} holds no model that sentence-transformers reads (no modules.json, no config.json)."
        )
        raise InvalidInput(message, param=SETTING)
    for pickled in sorted([*folder.rglob("*.bin"), *folder.rglob("*.pt"), *folder.rglob("*.pth")]):
        if not list(pickled.parent.glob("*.safetensors")):
            message = f"{SETTING}: {pickled} may be a pickle, which can run code; only safetensors are read."
            raise InvalidInput(message, param=SETTING)
    try:
        return SentenceTransformer(
            str(folder), device="cpu", local_files_only=True, model_kwargs={"use_safetensors": True}
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise InvalidInput(f"{SETTING}: {folder} cannot be read: {error}", param=SETTING) from error
