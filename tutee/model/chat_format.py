"""Messages to tokens by the model's own chat template: the only renderer, for serving and (with a loss mask) training.

Text that people write can never become a special token: `<|im_end|>` in a message stays text. Where an assistant turn
begins and ends the text is cut, and each piece is turned into tokens on its own, so that what is trained has the same
prompt ids as what was served.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tutee.conversation import Function, Message
from tutee.errors import InvalidInput
from tutee.model.chat_template import Template, TemplateRefusedError
from tutee.model.dialects import HERMES, dialect_of
from tutee.model.said import THINK
from tutee.model.tokenizer import Tokenizer
from tutee.model.tool_format import in_turns, one_call_a_turn

BREAK = "\uf8f5"
"""A private-use character that cuts special tokens apart in people's text while the template runs."""
PROBE = "Qxz"
SPARING = ("none", "minimal")
"""Reasoning efforts at which a model that can leave thinking out does so."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a rendered conversation; `turn` is the index of the assistant message it is, or None."""

    text: str
    turn: int | None


@dataclass(frozen=True, slots=True)
class _Form:
    """A conversation as the template is given it."""

    messages: list[Message]
    guarded: list[dict[str, Any]]
    """The same as JSON, special tokens in people's text cut apart."""
    tools: list[dict[str, Any]]
    options: Mapping[str, Any]


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
        self.takes_tools = "tools" in self._compiled.variables
        """Whether the template says by itself what tools there are; else `tool_format` does."""
        self.dialect = dialect_of(template) if self.takes_tools else HERMES
        """How calls of functions are written."""
        self.spoken = {
            token: id
            for token, id in tokenizer.special_tokens.items()
            if any(token in text for text in self.dialect.texts)
        }
        """Special tokens that calls are written with, by their text: part of an answer that may hold calls."""
        self.thinks = THINK in template
        """Whether the model was made to think between `<think>` tags before it answers."""
        self.takes_effort = bool({"enable_thinking", "reasoning_effort"} & self._compiled.variables)
        """Whether `effort` changes anything."""
        eos = set(eos_ids) | ({tokenizer.eos_id} if tokenizer.eos_id is not None else set())
        self.stop_ids = frozenset(eos | self._end_of_turn())
        """Tokens that end an assistant turn: the model's eos ids and the template's own end-of-turn token."""

    def render(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        functions: Sequence[Function] = (),
        effort: str | None = None,
    ) -> list[int]:
        """Prompt ids.

        Args:
            functions: what the assistant may call.
            effort: how much it should think, where the template has a way to say so (`takes_effort`).

        Raises:
            InvalidInput: the template refuses these messages, throws, or goes over its budget.
        """
        form, text = self._accepted(messages, add_generation_prompt, functions, self._options(effort))
        pieces = self._cut(form, text)
        return self._encode(text) if pieces is None else [id for piece in pieces for id in self._encode(piece.text)]

    def ends_thinking(self, ids: Sequence[int]) -> bool:
        """Whether a prompt ends with `<think>`, so that the answer begins inside its thoughts."""
        return self.thinks and self._tokenizer.decode(ids[-8:], skip_special=False).rstrip().endswith(THINK)

    @cached_property
    def begins_thinking(self) -> bool:
        """Whether the prompt of a plain question ends with `<think>`."""
        try:
            return self.ends_thinking(self.render([Message("user", PROBE)]))
        except InvalidInput:
            return False

    def _options(self, effort: str | None) -> dict[str, Any]:
        if effort is None:
            return {}
        options = {"enable_thinking": effort not in SPARING, "reasoning_effort": effort}
        return {name: value for name, value in options.items() if name in self._compiled.variables}

    def render_training(
        self, messages: Sequence[Message], functions: Sequence[Function] = ()
    ) -> tuple[list[int], list[int]]:
        """(ids, mask): mask is 1 on each token that an assistant turn of weight ≠ 0 says, end-of-turn token included.

        The ids before an assistant turn are what `render` gives for the messages before it.

        Raises:
            InvalidInput: as `render`; or the template rewrites earlier turns so that a mask cannot be placed.
        """
        form, text = self._accepted(messages, False, functions)
        pieces = self._cut(form, text)
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
            learned = piece.turn is not None and form.messages[piece.turn].weight != 0
            mask += [int(learned)] * len(piece_ids)
        return ids, mask

    def render_answer(
        self, prompt: Sequence[Message], answer: Message, functions: Sequence[Function] = ()
    ) -> tuple[list[int], list[int]]:
        """(prompt ids, ids of `answer` with its end-of-turn token): the prompt is what `render` gives, whatever the
        template does to earlier turns.

        Raises:
            InvalidInput: as `render`; or the template rewrites even its last turn.
        """
        form, text = self._accepted([*prompt, answer], False, functions)
        span = self._turn(form, len(form.messages) - 1, text)
        if span is None:
            raise InvalidInput(
                "The model's chat template rewrites the last assistant turn, so what to learn cannot be marked.",
                param="messages",
                code="invalid_template",
            )
        return self.render(prompt, functions=functions), self._encode(text[span[0] : span[1]])

    def _accepted(
        self,
        messages: Sequence[Message],
        prompt: bool,
        functions: Sequence[Function] = (),
        options: Mapping[str, Any] | None = None,
    ) -> tuple[_Form, str]:
        """The messages in the form that the template takes, and its text for them.

        Tools that the template does not know become text (`tool_format`), and `developer` becomes `system` where it is
        not known. When the template refuses, system messages are merged into one at the front, and if it refuses that,
        put before the first user message.
        """
        form = list(messages)
        if not self.takes_tools:
            form, functions = in_turns(form, functions), ()
        elif self.dialect.between is None:
            form = one_call_a_turn(form)
        if not self._knows_developer:
            form = [replace(m, role="system") if m.role == "developer" else m for m in form]
        refusal = ""
        for candidate in (form, _system_first(form), _system_in_user(form)):
            accepted = self._form(candidate, functions, options or {})
            try:
                return accepted, self._text(accepted, len(candidate), prompt)
            except TemplateRefusedError as error:
                refusal = refusal or str(error)
        raise InvalidInput(
            f"The model's chat template refuses these messages: {refusal}", param="messages", code="invalid_value"
        )

    def _form(self, messages: list[Message], functions: Sequence[Function], options: Mapping[str, Any]) -> _Form:
        tools: list[dict[str, Any]] = [self._guard(function.to_dict()) for function in functions]
        return _Form(messages, [self._guarded(message) for message in messages], tools, options)

    def _text(self, form: _Form, count: int, prompt: bool) -> str:
        """The template's text for the first `count` messages."""
        return self._compiled.render(form.guarded[:count], prompt, form.tools, form.options)

    def _guarded(self, message: Message) -> dict[str, Any]:
        """The message for the template, special tokens in its text cut apart."""
        raw = message.to_dict()
        for call in raw.get("tool_calls", ()):  # Templates write the arguments as JSON themselves.
            call["function"]["arguments"] = _object(call["function"]["arguments"])
            call["id"] = self.dialect.call_id(call["id"])
        if "tool_call_id" in raw:
            raw["tool_call_id"] = self.dialect.call_id(raw["tool_call_id"])
        return {key: self._guard(value) for key, value in raw.items() if key != "weight"}

    def _guard(self, value: Any) -> Any:
        if isinstance(value, str):
            text = value.replace(BREAK, "")
            return text if self._special is None else self._special.sub(lambda m: m[0][0] + BREAK + m[0][1:], text)
        if isinstance(value, list):
            return [self._guard(item) for item in value]
        if isinstance(value, dict):
            return {self._guard(key): self._guard(item) for key, item in value.items()}
        return value

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

    def _cut(self, form: _Form, text: str) -> list[Piece] | None:
        """The text cut where assistant turns begin and end; None if the template does not let us find them."""
        pieces: list[Piece] = []
        position = 0
        for i, message in enumerate(form.messages):
            if message.role != "assistant":
                continue
            span = self._turn(form, i, text)
            if span is None or span[0] < position:
                return None
            pieces += [Piece(text[position : span[0]], None), Piece(text[span[0] : span[1]], i)]
            position = span[1]
        return [piece for piece in (*pieces, Piece(text[position:], None)) if piece.text]

    def _turn(self, form: _Form, i: int, text: str) -> tuple[int, int] | None:
        """Where assistant message `i` begins and ends in `text`, its end-of-turn token included."""
        messages = form.guarded
        try:
            before = self._text(form, i, True)
        except TemplateRefusedError:
            return None
        if not text.startswith(before):
            return None
        content = messages[i]["content"].strip()
        found = text.find(content, len(before))
        if found < 0:
            return None
        end = found + len(content)
        match = self._mark_after(text, end)
        if match is None:
            return len(before), len(text) if i == len(messages) - 1 else end
        next_turn = text.find(messages[i + 1]["content"], end) if i + 1 < len(messages) else len(text)
        return len(before), match.end() if match.end() <= next_turn or next_turn < 0 else end

    def _mark_after(self, text: str, start: int) -> re.Match[str] | None:
        """The first special token from `start` on that no call is written with."""
        found = self._special.finditer(text, start) if self._special is not None else iter(())
        return next((match for match in found if match[0] not in self.spoken), None)

    def _end_of_turn(self) -> set[int]:
        """The special token that the template writes after an assistant's text, if it writes one."""
        messages = [Message("user", PROBE), Message("assistant", PROBE + PROBE)]
        try:
            text = self._text(self._form(messages, (), {}), len(messages), False)
        except TemplateRefusedError:
            return set()
        after = text.rpartition(PROBE + PROBE)[2]
        ids = self._tokenizer.encode(after.strip(), special=True)
        return {ids[0]} & self._tokenizer.special_ids if ids else set()


def _object(text: str) -> Any:
    """The arguments of a call as an object; a text that is none stays one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


def _system_first(messages: list[Message]) -> list[Message]:
    texts = [message.content for message in messages if message.role == "system"]
    rest = [message for message in messages if message.role != "system"]
    return [Message("system", "\n\n".join(texts)), *rest] if texts else rest


def _system_in_user(messages: list[Message]) -> list[Message]:
    merged = _system_first(messages)
    if len(merged) < 2 or merged[0].role != "system" or merged[1].role != "user":
        return merged
    return [replace(merged[1], content=f"{merged[0].content}\n\n{merged[1].content}"), *merged[2:]]
