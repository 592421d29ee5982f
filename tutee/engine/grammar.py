"""Answers that must have a form: JSON of a schema, calls of tools, or any text in front of either.

A `Grammar` is text in llguidance's dialect of Lark and knows no tokenizer; a `Vocabulary` binds grammars to one, and a
`Matcher` follows one answer: before each token it says which may come (a bit a token), after it moves on. Schemas come
from strangers, so every stage has a budget (`LIMITS`): a grammar over it is refused, or ends its own answer with an
error, and delays nobody else. Does not know how tokens are drawn (`sampler.py`) nor what was asked for in HTTP.

Reported log-probs stay the model's own, over the whole vocabulary: they do not say that other tokens were forbidden, so
an answer under a grammar is not a sample that policy gradients may learn from.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from tutee.errors import InvalidInput
from tutee.model.pretrained import Pretrained
from tutee.model.tokenizer import Tokenizer

Mask = NDArray[np.int32]
"""Bit `t % 32` of word `t // 32` says whether token `t` may come."""

WHITESPACE = r"[ \n\t]{0,16}"
"""Between two marks of JSON. Bounded: small models like to go on with spaces for ever."""
MOST_CHARACTERS = 200_000
"""Of a schema as JSON."""
DEEPEST = 64
"""Levels of nesting of a schema."""
KEPT = 256
"""Compiled grammars kept for the next request that asks for the same."""
USES = 64
"""Answers that share what was learned of one compiled grammar, and its budget; then it is compiled again."""
LIMITS = LLParserLimits(
    max_items_in_row=1000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=100_000,
    step_max_items=25_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)


@dataclass(frozen=True, slots=True)
class Grammar:
    """The form of an answer, for any tokenizer. Equal texts are compiled once."""

    text: str
    param: str = "response_format"
    """The field of the request that asked for it: errors name it."""


class GrammarExhausted(InvalidInput):
    """A grammar went over its budget in mid-answer, or has no way on."""


def json_rule(schema: Mapping[str, Any] | bool, *, strict: bool, param: str, code: str = "invalid_json_schema") -> str:
    """A JSON Schema as the right side of a Lark rule (`%json {…}`), checked.

    Args:
        strict: refuse keywords that cannot be enforced (`not`, `uniqueItems`, …); otherwise they are ignored.
        param: the field to name in errors.

    Raises:
        InvalidInput: no valid schema, too large, or one that cannot be enforced; code `code`.
    """
    try:
        size, depth = len(json.dumps(schema)), _depth(schema)
    except RecursionError:
        size, depth = 0, DEEPEST + 1
    if size > MOST_CHARACTERS or depth > DEEPEST:
        limit = f"{MOST_CHARACTERS:,} characters and {DEEPEST} levels"
        raise InvalidInput(f"The schema in '{param}' is too large: at most {limit}.", param=param, code=code)
    options = {"whitespace_pattern": WHITESPACE, "coerce_one_of": True, "lenient": not strict}
    own = {"x-guidance": options} | dict(schema) if isinstance(schema, Mapping) else {"x-guidance": options}
    own["x-guidance"] = options  # The client's own would be obeyed too.
    rule = f"%json {json.dumps(own)}"
    problem = LLMatcher.validate_grammar(_document(f"start: {rule}"), limits=LIMITS)
    if problem and not problem.startswith("WARNING"):
        what = " ".join(problem.split())[:300]
        raise InvalidInput(f"The schema in '{param}' cannot be used: {what}", param=param, code=code)
    return rule


def json_grammar(schema: Mapping[str, Any], *, strict: bool, param: str = "response_format") -> Grammar:
    """An answer that is one JSON value of a schema. Raises as `json_rule`."""
    return compose({"start": json_rule(schema, strict=strict, param=param)}, param)


def json_object_grammar(param: str = "response_format") -> Grammar:
    """An answer that is some JSON object."""
    return json_grammar({"type": "object"}, strict=True, param=param)


def compose(rules: Mapping[str, str], param: str = "response_format") -> Grammar:
    """Named Lark rules as a grammar; `start` is where an answer begins. Not compiled yet: `Vocabulary.check` does."""
    return Grammar(_document("\n".join(f"{name}: {rule}" for name, rule in rules.items())), param)


def _document(rules: str) -> str:
    return LLMatcher.grammar_from_lark(f"%llguidance {{}}\n{rules}\n")


def _depth(value: Any) -> int:
    level, deep = [value], 0
    while level and deep <= DEEPEST:
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        deep += 1
    return deep


class Matcher:
    """Where one answer stands in its grammar. Used by one thread at a time."""

    def __init__(self, matcher: LLMatcher, param: str, words: int) -> None:
        self._matcher = matcher
        self._param = param
        self.words = words
        """Words of a mask."""

    def copy(self) -> Matcher:
        """One that goes its own way from here."""
        return Matcher(self._matcher.deep_copy(), self._param, self.words)

    def fill(self, mask: Mask) -> None:
        """Write which tokens may come next, a contiguous row of int32 words; other Python threads run meanwhile."""
        assert mask.flags.c_contiguous
        assert mask.size == self.words
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)

    def accept(self, token: int) -> None:
        """The token came."""
        self._matcher.consume_token(token)

    def problem(self, mask: Mask) -> GrammarExhausted | None:
        """Why it cannot go on, if it cannot; `mask` is what `fill` wrote."""
        if mask.any() and not self._matcher.is_error():
            return None
        return GrammarExhausted(
            f"The form asked for in '{self._param}' became too complex in the middle of this answer; simplify it.",
            param=self._param,
            code="grammar_too_complex",
        )


class Vocabulary:
    """A tokenizer's tokens as grammars see them, and the grammars compiled for it. Thread-safe.

    Args:
        size: V, the columns of the model's logits (may be more than the tokenizer has tokens).
        end_ids: tokens that end an answer; they may come when the grammar is complete, and only then.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, end_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._size = size
        self._end_ids = sorted(end_ids)
        self._lock = threading.Lock()
        self._tokens: LLTokenizer | None = None
        self._compiled: OrderedDict[str, tuple[Matcher, int]] = OrderedDict()
        """By text: where answers begin, and how many have begun there."""

    @classmethod
    def of(cls, model: Pretrained) -> Vocabulary:
        """A model's."""
        return cls(model.tokenizer, model.config.vocab_size, model.chat_format.stop_ids)

    @property
    def words(self) -> int:
        """Words of a mask."""
        return -(-self._size // 32)

    def begin(self, grammar: Grammar | None) -> Matcher | None:
        """`matcher`, where there is a grammar."""
        return None if grammar is None else self.matcher(grammar)

    def matcher(self, grammar: Grammar) -> Matcher:
        """A matcher at the beginning of an answer. The first use takes a fraction of a second (all tokens are read).

        Raises:
            InvalidInput: the grammar is wrong, or too complex from its first token on (code `invalid_json_schema`).
        """
        with self._lock:
            known, uses = self._compiled.get(grammar.text, (None, 0))
            if known is None or uses >= USES or self._first_problem(known) is not None:
                known, uses = self._compile(grammar), 0
            self._compiled[grammar.text] = known, uses + 1
            self._compiled.move_to_end(grammar.text)
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
            return known.copy()

    def _compile(self, grammar: Grammar) -> Matcher:
        if self._tokens is None:
            self._tokens = _read_tokens(self._tokenizer, self._size, self._end_ids)
        matcher = LLMatcher(self._tokens, grammar.text, log_level=0, limits=LIMITS)
        first = Matcher(matcher, grammar.param, self.words)
        if self._first_problem(first) is not None:
            what = " ".join(matcher.get_error().split())[:300] or "no answer has it, or it is too complex."
            message = f"The form asked for in '{grammar.param}' cannot be used: {what}"
            raise InvalidInput(message, param=grammar.param, code="invalid_json_schema")
        return first

    def _first_problem(self, matcher: Matcher) -> GrammarExhausted | None:
        mask: Mask = np.empty(self.words, dtype=np.int32)
        begun = matcher.copy()
        begun.fill(mask)
        return begun.problem(mask)


class _Tokens:
    """What llguidance asks of a tokenizer: bytes of every token, and ids of a text."""

    def __init__(self, tokenizer: Tokenizer, size: int, end_ids: Sequence[int]) -> None:
        self.eos_token_id = end_ids[0]
        self.bos_token_id = tokenizer.bos_id
        self.tokens = [tokenizer.token_bytes(id) for id in range(size)]
        self.special_token_ids = sorted(id for id in tokenizer.special_ids if id < size)
        self._tokenizer = tokenizer

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


def _read_tokens(tokenizer: Tokenizer, size: int, end_ids: Sequence[int]) -> LLTokenizer:
    if not end_ids:
        message = "This model has no token that ends an answer, so no answer of it can be given a form."
        raise InvalidInput(message, param="response_format", code="unsupported_parameter")
    return LLTokenizer(TokenizerWrapper(_Tokens(tokenizer, size, end_ids)), n_vocab=size, eos_token=list(end_ids))
