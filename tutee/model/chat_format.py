"""Messages to tokens by the model's own chat template: the only renderer, for serving and (with a loss mask) training.

Text that people write can never become a special token: `<|im_end|>` in a message stays text. Where an assistant turn
begins and ends the text is cut, and each piece is turned into tokens on its own, so that what is trained has the same
prompt ids as what was served.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tutee.conversation import Message
from tutee.errors import InvalidInput
from tutee.model.chat_template import Template, TemplateRefusedError
from tutee.model.tokenizer import Tokenizer

BREAK = "\uf8f5"
"""A private-use character that cuts special tokens apart in people's text while the template runs."""
PROBE = "Qxz"


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a rendered conversation; `turn` is the index of the assistant message it is, or None."""

    text: str
    turn: int | None


class ChatFormat:
    """A chat template bound to a tokenizer.

    Raises (on construction):
        InvalidInput: no template, or one that does not compile (code `invalid_template`).
    """

    def __init__(self, template: str | None, tokenizer: Tokenizer, eos_ids: Sequence[int] = ()) -> None:
        if not template:
            raise InvalidInput(
                "The model has no chat template; use an instruction-tuned model.",
                param="model",
                code="invalid_template",
            )
        self.template = template
        self.sha256 = hashlib.sha256(template.encode()).hexdigest()
        """Of the template's text."""
        self._tokenizer = tokenizer
        named = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
        self._compiled = Template(template, {k: tokenizer.token_text(id) for k, id in named.items() if id is not None})
        tokens = sorted(tokenizer.special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, tokens))) if tokens else None
        self._knows_developer = "developer" in template
        eos = set(eos_ids) | ({tokenizer.eos_id} if tokenizer.eos_id is not None else set())
        self.stop_ids = frozenset(eos | self._end_of_turn())
        """Tokens that end an assistant turn: the model's eos ids and the template's own end-of-turn token."""

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """Prompt ids.

        Raises:
            InvalidInput: the template refuses these messages, throws, or goes over its budget.
        """
        adapted, text = self._accepted(messages, add_generation_prompt)
        pieces = self._cut(adapted, text)
        return self._encode(text) if pieces is None else [id for piece in pieces for id in self._encode(piece.text)]

    def render_training(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """(ids, mask): mask is 1 on each token that an assistant turn of weight ≠ 0 says, end-of-turn token included.

        The ids before an assistant turn are what `render` gives for the messages before it.

        Raises:
            InvalidInput: as `render`; or the template rewrites earlier turns so that a mask cannot be placed.
        """
        adapted, text = self._accepted(messages, False)
        pieces = self._cut(adapted, text)
        if pieces is None:
            raise InvalidInput(
                "The model's chat template drops or rewrites earlier assistant turns, so what to learn cannot be "
                "marked. "
                "Give one assistant turn per example.",
                param="messages",
                code="invalid_template",
            )
        ids: list[int] = []
        mask: list[int] = []
        for piece in pieces:
            piece_ids = self._encode(piece.text)
            ids += piece_ids
            learned = piece.turn is not None and adapted[piece.turn].weight != 0
            mask += [int(learned)] * len(piece_ids)
        return ids, mask

    def render_answer(self, prompt: Sequence[Message], answer: Message) -> tuple[list[int], list[int]]:
        """(prompt ids, ids of `answer` with its end-of-turn token): the prompt is what `render` gives, whatever the
        template does to earlier turns.

        Raises:
            InvalidInput: as `render`; or the template rewrites even its last turn.
        """
        adapted, text = self._accepted([*prompt, answer], False)
        span = self._turn([self._guarded(message) for message in adapted], len(adapted) - 1, text)
        if span is None:
            raise InvalidInput(
                "The model's chat template rewrites the last assistant turn, so what to learn cannot be marked.",
                param="messages",
                code="invalid_template",
            )
        return self.render(prompt), self._encode(text[span[0] : span[1]])

    def _accepted(self, messages: Sequence[Message], prompt: bool) -> tuple[list[Message], str]:
        """The messages in the form that the template takes, and its text for them.

        `developer` becomes `system` where the template does not know it. When the template refuses, system messages are
        merged into one at the front, and if it refuses that, put before the first user message.
        """
        form = list(messages)
        if not self._knows_developer:
            form = [replace(m, role="system") if m.role == "developer" else m for m in form]
        refusal = ""
        for candidate in (form, _system_first(form), _system_in_user(form)):
            try:
                return candidate, self._text(candidate, prompt)
            except TemplateRefusedError as error:
                refusal = refusal or str(error)
        raise InvalidInput(
            f"The model's chat template refuses these messages: {refusal}", param="messages", code="invalid_value"
        )

    def _text(self, messages: Sequence[Message], prompt: bool) -> str:
        return self._compiled.render([self._guarded(message) for message in messages], prompt)

    def _guarded(self, message: Message) -> dict[str, Any]:
        """The message for the template, special tokens in its text cut apart."""
        return {key: self._guard(value) for key, value in message.to_dict().items() if key != "weight"}

    def _guard(self, value: Any) -> Any:
        if isinstance(value, str):
            text = value.replace(BREAK, "")
            return text if self._special is None else self._special.sub(lambda m: m[0][0] + BREAK + m[0][1:], text)
        if isinstance(value, list):
            return [self._guard(item) for item in value]
        return {key: self._guard(item) for key, item in value.items()} if isinstance(value, dict) else value

    def _encode(self, text: str) -> list[int]:
        if BREAK not in text or self._special is None:
            return self._tokenizer.encode(text, special=True)
        ids: list[int] = []
        position = 0
        for match in self._special.finditer(text):
            ids += self._tokenizer.encode(text[position : match.start()].replace(BREAK, ""))
            ids.append(self._tokenizer.special_tokens[match[0]])
            position = match.end()
        return ids + self._tokenizer.encode(text[position:].replace(BREAK, ""))

    def _cut(self, messages: list[Message], text: str) -> list[Piece] | None:
        """The text cut where assistant turns begin and end; None if the template does not let us find them."""
        pieces: list[Piece] = []
        position = 0
        guarded = [self._guarded(message) for message in messages]
        for i, message in enumerate(messages):
            if message.role != "assistant":
                continue
            span = self._turn(guarded, i, text)
            if span is None or span[0] < position:
                return None
            pieces += [Piece(text[position : span[0]], None), Piece(text[span[0] : span[1]], i)]
            position = span[1]
        return [piece for piece in (*pieces, Piece(text[position:], None)) if piece.text]

    def _turn(self, messages: list[dict[str, Any]], i: int, text: str) -> tuple[int, int] | None:
        """Where assistant message `i` begins and ends in `text`, its end-of-turn token included."""
        try:
            before = self._compiled.render(messages[:i], True)
        except TemplateRefusedError:
            return None
        if not text.startswith(before):
            return None
        content = messages[i]["content"].strip()
        found = text.find(content, len(before))
        if found < 0:
            return None
        end = found + len(content)
        match = self._special.search(text, end) if self._special is not None else None
        if match is None:
            return len(before), len(text) if i == len(messages) - 1 else end
        next_turn = text.find(messages[i + 1]["content"], end) if i + 1 < len(messages) else len(text)
        return len(before), match.end() if match.end() <= next_turn or next_turn < 0 else end

    def _end_of_turn(self) -> set[int]:
        """The special token that the template writes after an assistant's text, if it writes one."""
        messages = [Message("user", PROBE), Message("assistant", PROBE + PROBE)]
        try:
            text = self._text(messages, False)
        except TemplateRefusedError:
            return set()
        after = text.rpartition(PROBE + PROBE)[2]
        ids = self._tokenizer.encode(after.strip(), special=True)
        return {ids[0]} & self._tokenizer.special_ids if ids else set()


def _system_first(messages: list[Message]) -> list[Message]:
    texts = [message.content for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    return [Message("system", "\n\n".join(texts)), *rest] if texts else rest


def _system_in_user(messages: list[Message]) -> list[Message]:
    merged = _system_first(messages)
    if len(merged) < 2 or merged[0].role != "system" or merged[1].role != "user":
        return merged
    return [replace(merged[1], content=f"{merged[0].content}\n\n{merged[1].content}"), *merged[2:]]
