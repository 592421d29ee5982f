"""`tutee bench`: how fast this machine answers, in about half a minute. Knows the engine; nothing is stored."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tutee.cli.models import fetch
from tutee.cli.output import out, show_json, show_table
from tutee.cli.place import settings_of
from tutee.errors import Unavailable

if TYPE_CHECKING:
    from tutee.engine.engine import Engine

STREAMS = (1, 8, 64)
PROMPT_TOKENS = 64
LONG_PROMPT_TOKENS = 2048
FIRST_TOKENS = 5
"""Prompts whose time to the first token is taken; the middle one counts."""


def bench(
    context: typer.Context,
    seconds: Annotated[float, typer.Option(min=0.1, max=60, help="Time to measure each number of streams.")] = 5.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure this machine: tokens a second for 1, 8 and 64 answers at once, reading a long prompt, first tokens."""
    import torch

    from tutee.engine.engine import Engine
    from tutee.model.pretrained import load_pretrained

    settings = settings_of(context)
    if not settings.base_folder.is_dir():
        fetch(settings.model, settings.home / "models")
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    model = load_pretrained(settings.base_folder, settings.dtype, name=settings.base_folder.name)
    engine = Engine(model, max_batch=max(STREAMS), cache_tokens=32 * 1024, precision=settings.precision)
    try:
        found: dict[str, Any] = {
            "model": model.name,
            "dtype": settings.precision or settings.dtype,
            "threads": torch.get_num_threads(),
        }
        found["first_token_ms"] = round(first_token_s(engine, model.config.vocab_size) * 1000, 1)
        found["prompt_tok_s"] = round(prompt_speed(engine, model.config.vocab_size))
        for streams in STREAMS:
            speed = answer_speed(engine, model.config.vocab_size, streams, seconds)
            found[f"streams_{streams}_tok_s"] = round(speed, 1)
    finally:
        engine.close()
    if json:
        show_json(found)
        return
    out.print(f"{found['model']}, {found['dtype']}, {found['threads']} threads")
    rows = [(f"{n} at once", found[f"streams_{n}_tok_s"], "tokens/s") for n in STREAMS]
    rows.append(("reading a long prompt", found["prompt_tok_s"], "tokens/s"))
    rows.append((f"first token after {PROMPT_TOKENS}", found["first_token_ms"], "ms"))
    show_table("Speed", ["what", "speed", "unit"], rows)


def first_token_s(engine: Engine, vocabulary: int) -> float:
    """Seconds to the first token of a short prompt on an idle engine; the first, cold one is left out."""
    found = [_alone(engine, _prompt(vocabulary, PROMPT_TOKENS)) for _ in range(1 + FIRST_TOKENS)]
    return statistics.median(found[1:])


def prompt_speed(engine: Engine, vocabulary: int) -> float:
    """Tokens a second of a long prompt, up to its first answer token."""
    length = min(LONG_PROMPT_TOKENS, engine.context_length - 1)
    return length / _alone(engine, _prompt(vocabulary, length))


def answer_speed(engine: Engine, vocabulary: int, streams: int, seconds: float) -> float:
    """Tokens a second of all streams together, once every one of them has begun.

    Raises:
        Unavailable: the engine failed.
    """
    with _running(engine, vocabulary, streams):
        begun, before = time.perf_counter(), engine.stats.generated_tokens_total
        time.sleep(seconds)
        return (engine.stats.generated_tokens_total - before) / (time.perf_counter() - begun)


def _prompt(vocabulary: int, length: int) -> list[int]:
    return random.choices(range(vocabulary), k=length)


def _alone(engine: Engine, prompt: list[int]) -> float:
    from tutee.engine.request import SamplingParams

    done = engine.generate([prompt], SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True))[0][0]
    assert done.ttft_s is not None
    return done.ttft_s


@contextmanager
def _running(engine: Engine, vocabulary: int, streams: int) -> Iterator[None]:
    from tutee.engine.request import SamplingParams

    room = engine.context_length - PROMPT_TOKENS
    params = SamplingParams(temperature=0.7, max_tokens=room, ignore_eos=True)
    length = min(PROMPT_TOKENS, engine.context_length // 2)
    requests = [engine.submit(_prompt(vocabulary, length), params) for _ in range(streams)]
    try:
        for request in requests:
            if next(iter(request)).finish_reason == "error":
                raise Unavailable(f"The engine failed: {request.error}.")
        yield
    finally:
        for request in requests:
            request.abort()
        for request in requests:
            request.result()
