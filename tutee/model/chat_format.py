"""Messages to tokens by the model's own chat template: the only renderer, for serving and for training (with loss mask).

Text that people write can never become a special token: `<|im_end|>` in a message stays text.
"""

from __future__ import annotations

from collections.abc import Sequence

from tutee.conversation import Message
from tutee.model.tokenizer import Tokenizer


class ChatFormat:
    """A chat template bound to a tokenizer.

    Raises (on construction):
        InvalidInput: no template, or one that does not compile (code `invalid_template`).
    """

    template: str
    sha256: str
    """Of the template's text."""
    stop_ids: frozenset[int]
    """Tokens that end an assistant turn: the model's eos ids and the template's own end-of-turn token."""

    def __init__(self, template: str | None, tokenizer: Tokenizer, eos_ids: Sequence[int] = ()) -> None:
        raise NotImplementedError

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """Prompt ids.

        Raises:
            InvalidInput: the template refuses these messages, throws, or goes over its budget.
        """
        raise NotImplementedError

    def render_training(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """(ids, mask): mask is 1 on each token that an assistant turn of weight ≠ 0 says, its end-of-turn token included.

        The ids before an assistant turn are what `render` gives for the messages before it.

        Raises:
            InvalidInput: as `render`; or the template rewrites earlier turns so that a mask cannot be placed.
        """
        raise NotImplementedError
