"""Answers under a grammar: what may come, what is refused, and that nobody else notices."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema_rs import validator_for
from llguidance import LLParserLimits

from tutee.engine import drawing, sampler
from tutee.engine.engine import Engine
from tutee.engine.grammar import USES, Grammar, GrammarExhausted, Mask, Vocabulary, json_grammar, json_object_grammar
from tutee.engine.masks import MaskThread, compute
from tutee.engine.request import SamplingParams
from tutee.engine.sampler import SamplerState
from tutee.errors import InvalidInput
from tutee.model.matrix_unit import library
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.model.tokenizer import Tokenizer

VOCABULARY, END = 258, 257
SHIP = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["brig", "sloop", 'a "quoted" one']},
        "guns": {"type": "integer", "minimum": 0, "maximum": 99},
        "crew": {"type": "array", "items": {"$ref": "#/$defs/name"}, "maxItems": 2},
    },
    "required": ["kind", "guns", "crew"],
    "additionalProperties": False,
    "$defs": {"name": {"type": "string", "maxLength": 6}},
}
BOMB = {"type": "string", "pattern": "^(" + "|".join(f".*{letter}.{{400}}" for letter in "abcdefghijklm") + ")$"}
"""What came before changes what may follow in more and more ways."""


@pytest.fixture(scope="module")
def vocabulary(tiny_folder: Path) -> Vocabulary:
    return Vocabulary(Tokenizer(tiny_folder), VOCABULARY, [END])


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Pretrained:
    return load_pretrained(tiny_folder, "float32")


def allowed(mask: Mask) -> list[int]:
    return np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()


def wander(vocabulary: Vocabulary, grammar: Grammar, seed: int, most: int = 2000) -> bytes:
    """A random answer that a grammar allows; ends when it may. Ids below 256 are GPT-2's stand-ins for bytes."""
    matcher, mask, text = vocabulary.matcher(grammar), np.empty(vocabulary.words, dtype=np.int32), b""
    tokens = vocabulary._tokenizer
    for _ in range(most):
        matcher.fill(mask)
        if (problem := matcher.problem(mask)) is not None:
            raise problem
        choices = allowed(mask)
        if END in choices:
            return text
        token = random.Random(f"{seed} {len(text)}").choice(choices)
        matcher.accept(token)
        text += tokens.token_bytes(token)
    raise AssertionError(f"no end after {most} tokens: {text!r}")


@pytest.mark.parametrize("seed", range(5))
def test_every_answer_fits_its_schema(vocabulary: Vocabulary, seed: int) -> None:
    validator_for(SHIP).validate(json.loads(wander(vocabulary, json_grammar(SHIP, strict=True), seed)))


def test_some_object_is_an_object(vocabulary: Vocabulary) -> None:
    assert all(isinstance(json.loads(wander(vocabulary, json_object_grammar(), seed)), dict) for seed in range(5))


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "strin"}, False),
        ({"$ref": "#/$defs/missing"}, False),
        ({"$ref": "https://example.com/schema"}, False),
        ({"type": "array", "uniqueItems": True}, True),
        ({"type": "string", "format": "no-such-format"}, True),
        ({"type": "integer", "minimum": 2, "maximum": 1}, False),
        ({"enum": ["x" * 300_000]}, False),
        ({"anyOf": [{"type": "object", "properties": {f"k{i}": {}}} for i in range(5000)]}, False),
    ],
    ids=["type", "pointer", "remote", "unenforceable", "format", "empty", "long", "wide"],
)
def test_a_schema_that_cannot_be_used_is_refused(schema: dict[str, Any], strict: bool) -> None:
    with pytest.raises(InvalidInput) as caught:
        json_grammar(schema, strict=strict, param="text.format")
    assert (caught.value.param, caught.value.code) == ("text.format", "invalid_json_schema")


def test_what_cannot_be_enforced_is_let_go_unless_strict(vocabulary: Vocabulary) -> None:
    schema = {"type": "array", "items": {"enum": [1]}, "uniqueItems": True, "maxItems": 2}
    assert isinstance(json.loads(wander(vocabulary, json_grammar(schema, strict=False), 1)), list)


def test_a_schema_that_nothing_fits_is_refused_before_the_first_token(vocabulary: Vocabulary) -> None:
    endless = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}
    with pytest.raises(InvalidInput):
        vocabulary.matcher(json_grammar(endless, strict=False))


def test_a_deep_schema_is_refused_without_recursion() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(100_000):
        schema = {"items": schema}
    with pytest.raises(InvalidInput):
        json_grammar(schema, strict=False)


@pytest.fixture
def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 256 tokens even a bomb is cheap; over a real vocabulary it is over the usual budget after some words."""
    monkeypatch.setattr("tutee.engine.grammar.LIMITS", LLParserLimits(max_lexer_states=600))


def test_a_bomb_ends_its_own_answer_and_not_the_next(tiny_folder: Path, small_budget: None) -> None:
    vocabulary = Vocabulary(Tokenizer(tiny_folder), VOCABULARY, [END])
    grammar = json_grammar(BOMB, strict=True)
    for seed in range(3):
        with pytest.raises(GrammarExhausted) as caught:
            wander(vocabulary, grammar, seed, most=100_000)
        assert caught.value.code == "grammar_too_complex"
        vocabulary.matcher(grammar)


def test_a_grammar_is_compiled_again_after_many_answers(vocabulary: Vocabulary) -> None:
    grammar = json_grammar({"enum": ["once"]}, strict=True)
    for _ in range(2 * USES + 1):
        vocabulary.matcher(grammar)
    assert vocabulary._compiled[grammar.text][1] == 1


def test_copies_go_their_own_ways(vocabulary: Vocabulary) -> None:
    first = vocabulary.matcher(json_grammar({"enum": ["ab", "cd"]}, strict=True))
    second, mask = first.copy(), np.empty(vocabulary.words, dtype=np.int32)
    for byte in b'"a':
        first.accept(vocabulary._tokenizer.encode(chr(byte))[0])
    first.fill(mask)
    assert [vocabulary._tokenizer.token_bytes(token) for token in allowed(mask)] == [b"b"]
    second.fill(mask)
    assert {vocabulary._tokenizer.token_bytes(token) for token in allowed(mask)} == {b'"'}


@pytest.mark.parametrize("name", ["ignore_eos", "min_tokens"])
def test_what_would_forbid_the_end_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        SamplingParams(grammar=json_object_grammar(), **{name: 1})  # type: ignore[arg-type]
    assert caught.value.param == name


SAMPLERS = [sampler, pytest.param(drawing, marks=pytest.mark.skipif(library() is None, reason="no matrix unit"))]


@pytest.mark.parametrize("module", SAMPLERS, ids=["torch", "c"])
@pytest.mark.parametrize("style", [{}, {"temperature": 0.0}, {"top_p": 0.5}, {"top_k": 40}, {"min_p": 0.1}], ids=str)
def test_a_sampler_takes_what_is_allowed_and_leaves_others_alone(
    vocabulary: Vocabulary, module: Any, style: dict[str, float]
) -> None:
    grammar = json_grammar({"enum": ["ab", "cd"]}, strict=True)
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(6, VOCABULARY, generator=generator) * 3

    def states(constrained: bool) -> list[SamplerState]:
        params = [SamplingParams(seed=i, logprobs=2, **style) for i in range(6)]  # type: ignore[arg-type]
        matchers = [vocabulary.matcher(grammar) if constrained and i % 2 else None for i in range(6)]
        return [SamplerState(each, i, matcher=matchers[i]) for i, each in enumerate(params)]

    mine = states(True)
    masks, problems = compute(mine)
    assert not problems
    drawn = module.sample(logits.clone(), mine, masks)
    free = module.sample(logits.clone(), states(False))
    begin = vocabulary._tokenizer.encode('"')[0]
    assert [drawn.tokens[i] for i in (1, 3, 5)] == [begin] * 3
    assert [drawn.tokens[i] for i in (0, 2, 4)] == [free.tokens[i] for i in (0, 2, 4)]
    assert drawn.top_logprobs == free.top_logprobs  # the model's own, over the whole vocabulary
    own = torch.log_softmax(logits, -1)[1, begin].item()
    assert drawn.logprobs[1] == pytest.approx(own, abs=1e-5)


def test_without_a_grammar_no_thread_is_started() -> None:
    thread = MaskThread()
    assert thread.begin([SamplerState(SamplingParams(), 0)]).result([]) is None
    assert thread._pool is None


def test_the_engine_answers_in_form_beside_others_who_notice_nothing(tiny: Pretrained) -> None:
    free = SamplingParams(seed=1, max_tokens=30, ignore_eos=True)
    formed = SamplingParams(seed=2, max_tokens=400, grammar=json_grammar(SHIP, strict=True))
    engine = Engine(tiny, autostart=False, speculation="always")
    prompts = [[1, 2, 3], [4, 5, 6]]
    alone = engine.generate(prompts[:1], free)[0][0]
    together = engine.generate(prompts, [free, formed])
    again = engine.generate(prompts[1:], formed)[0][0]
    assert together[0][0].token_ids == alone.token_ids
    assert together[1][0].token_ids == again.token_ids
    assert again.finish_reason == "stop"
    validator_for(SHIP).validate(json.loads(again.text))


def test_a_stop_string_ends_an_answer_of_a_form(tiny: Pretrained) -> None:
    engine = Engine(tiny, autostart=False)
    params = SamplingParams(
        seed=1, max_tokens=60, stop=("brig",), grammar=json_grammar({"enum": ["a brig"]}, strict=True)
    )
    assert engine.generate([[1, 2]], params)[0][0].text == '"a '


def test_a_bomb_fails_its_request_alone(tiny: Pretrained, small_budget: None) -> None:
    engine = Engine(tiny, autostart=False)
    bomb = engine.submit([1, 2], SamplingParams(seed=1, max_tokens=400, grammar=json_grammar(BOMB, strict=True)))
    other = engine.submit([1, 2], SamplingParams(seed=1, max_tokens=40, ignore_eos=True))
    while engine.step():
        pass
    assert bomb.result().finish_reason == "error"
    assert isinstance(bomb.error, GrammarExhausted)
    assert other.result().generated_tokens == 40
