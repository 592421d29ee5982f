"""What weights as integers cost in quality: perplexity and greedy agreement on text that nobody trained on here.

    python bench/precision.py --model ~/.tutee/models/smollm2-135m-instruct --text held_out.txt

Perplexity is taken through the engine that serves (`PromptLogprobs`), in pieces of `--length` tokens, each on its own.
Agreement: after the first 64 tokens of each piece, the part of pieces whose first token at temperature 0 is that
of bfloat16, and how many of `--new` tokens are the same before the first that differs. float32 is the exact model. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from tutee.engine.engine import Engine
from tutee.engine.readout import PromptLogprobs
from tutee.engine.request import SamplingParams
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.settings import load_settings

KINDS = {
    "float32": ("float32", ""),
    "bfloat16": ("bfloat16", ""),
    "int8": ("bfloat16", "int8"),
    "int4": ("bfloat16", "int4"),
}
PROMPT = 64


def pieces_of(model: Pretrained, text: str, length: int, count: int) -> list[list[int]]:
    """`count` stretches of `length` tokens, evenly spread over the text."""
    ids = model.tokenizer.encode(text)
    step = max(length, len(ids) // count)
    return [ids[i : i + length] for i in range(0, len(ids) - length, step)][:count]


def measured(model: Pretrained, precision: str, pieces: list[list[int]], new: int) -> tuple[float, list[list[int]]]:
    """(mean negative log-prob of a token, answers to the beginnings)."""
    engine = Engine(
        model, max_batch=16, cache_tokens=16 * (len(pieces[0]) + new), precision=precision, speculation="never"
    )
    readouts = [PromptLogprobs() for _ in pieces]
    one = SamplingParams(temperature=0.0, max_tokens=1)
    for request in [engine.submit(p, one, readout=r) for p, r in zip(pieces, readouts, strict=True)]:
        request.result()
    params = SamplingParams(temperature=0.0, max_tokens=new, ignore_eos=True)
    answers = [group[0].token_ids for group in engine.generate([p[:PROMPT] for p in pieces], params)]
    engine.close()
    logprobs = [value for readout in readouts for value in readout.logprobs]
    return -sum(logprobs) / len(logprobs), [list(answer) for answer in answers]


def same(left: list[int], right: list[int]) -> int:
    """Tokens before the first difference."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=True)) if a != b), len(left))


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    text = options.text.read_text(encoding="utf-8")
    found: dict[str, Any] = {}
    answers: dict[str, list[list[int]]] = {}
    for kind in options.kinds:
        dtype, precision = KINDS[kind]
        model = load_pretrained(options.model, dtype)
        pieces = pieces_of(model, text, options.length, options.pieces)
        loss, answers[kind] = measured(model, precision, pieces, options.new)
        found[kind] = {"perplexity": round(math.exp(loss), 3)}
        if kind != "bfloat16" and "bfloat16" in answers:
            runs = [same(a, b) for a, b in zip(answers[kind], answers["bfloat16"], strict=True)]
            found[kind]["first_token_same"] = round(sum(run > 0 for run in runs) / len(runs), 3)
            found[kind]["tokens_same"] = round(sum(runs) / len(runs), 1)
        print(f"{kind}: {found[kind]}", flush=True)
    facts = {"bench": "precision", "text": options.text.name, "pieces": len(pieces), "length": options.length}
    print(json.dumps(facts | {"new": options.new, "rows": found}))


def parse() -> argparse.Namespace:
    settings = load_settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=settings.home / "models" / settings.model)
    parser.add_argument("--text", type=Path, required=True, help="a file of plain text")
    parser.add_argument("--kinds", nargs="+", default=["bfloat16", "float32", "int8", "int4"], choices=list(KINDS))
    parser.add_argument("--length", type=int, default=256, help="tokens of a piece")
    parser.add_argument("--pieces", type=int, default=64)
    parser.add_argument("--new", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
