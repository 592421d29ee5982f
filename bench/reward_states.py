"""Is there more in a network's hidden states than an answer's length? Heads on frozen states, on real human pairs.

    python bench/reward_states.py --model ~/.tutee/models/smollm2-135m-instruct --data ../shared/data/preference

A Bradley-Terry head on two blocks of features, so that what the states say is said beside the length and not instead:
  length   log words, words up to 400, and which answer is longer; hardly shrunk
  states   128 principal components of the hidden states after some blocks, the mean over the answer's tokens (or the
           last token's); how much they count is chosen by five-fold cross-validation within the training pairs
All pairs of a set are used, ten-fold, split by prompt: components, weights and choices come from the other nine folds,
so every pair is judged by a head that has not seen its prompt. Printed for each head: accuracy with its 95 % interval;
its difference to "the longer answer wins", and the nats a pair that it gains over a head on length alone, both paired,
with bootstrap intervals. Prompts are cut to their last 160 tokens, answers to their first 224; lengths are whole.
States are kept in `--folder`. Ends with one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from reward import DATASETS, Scores, accuracy, bradley_terry
from torch.nn import functional

from tutee.data.training_files import Ranking
from tutee.intervals import mean
from tutee.model.layout import Layout
from tutee.model.pretrained import Pretrained, load_pretrained
from tutee.model.training_pass import Network, packed_pass
from tutee.train.batch import Batch, Example, Group, pack_groups
from tutee.train.encode import encode_answer

Array = NDArray[np.float64]
MOST_PROMPT, MOST_ANSWER = 160, 224
COMPONENTS = 128
CLAMP = 4.0
FOLDS, INNER_FOLDS = 10, 5
SCALES = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""How much the block of states may count; 0 leaves length alone."""
MIDDLE, LAST_TOKEN = (8, 14, 20), "last token"
HEADS: dict[str, tuple[int | str, ...]] = {
    "last token, last block": (LAST_TOKEN,),
    "mean, block 14": (14,),
    "mean, blocks 8 + 14 + 20": MIDDLE,
}


def cut(example: Example) -> Example:
    start = example.prompt_length
    part = slice(max(0, start - MOST_PROMPT), start + MOST_ANSWER)
    return Example(example.tokens[part], example.mask[part])


@torch.no_grad()
def states_of(model: Pretrained, rows: Sequence[Ranking]) -> dict[str, Any]:
    """Which rows fit, and of those the states [rows, 2, D] by where they were taken."""
    kept: list[int] = []
    found: dict[int | str, list[Array]] = {place: [] for place in (*MIDDLE, LAST_TOKEN)}
    for number, row in enumerate(rows):
        examples = [encode_answer(model, row.prompt, answer) for answer in row.answers]
        pair = tuple(cut(example) for example in examples if example is not None)
        if len(pair) < 2:
            continue
        kept.append(number)
        batch = pack_groups([Group(pair, ranks=(0, 1))], share_prompts=True)
        for place, states_2D in pooled(model, batch).items():
            found[place].append(states_2D)
        if number % 100 == 0:
            print(f"  {number}/{len(rows)}", flush=True)
    return {"kept": np.array(kept), **{str(place): np.stack(parts) for place, parts in found.items()}}


def pooled(model: Pretrained, batch: Batch) -> dict[int | str, Array]:
    """Of both answers of a batch [2, D], by where they were taken."""
    decoder = model.decoder
    layout = Layout.packed(batch.lengths, None, "cpu", batch.parents)
    x_TD = functional.embedding(batch.tokens_T, decoder.model.embed_tokens.weight)
    blocks = [block.parts() for block in decoder.model.layers]  # type: ignore[operator,union-attr]
    out: dict[int | str, Array] = {}
    stops = (0, *MIDDLE, len(blocks))
    for first, last in pairwise(stops):
        network = Network(model.config, model.dtype, blocks[first:last], decoder.rope_cos, decoder.rope_sin)
        x_TD = packed_pass(network, x_TD.clone(), batch.positions_T, layout)
        if last in MIDDLE:
            out[last] = np.stack([_mean(x_TD, batch, answer) for answer in (0, 1)])
    out[LAST_TOKEN] = decoder.model.norm(x_TD)[batch.last_E].double().numpy()
    return out


def _mean(x_TD: torch.Tensor, batch: Batch, answer: int) -> Array:
    """The mean over an answer's own rows: those that predict its tokens but the first, and its last."""
    own = torch.cat((batch.sources_N[batch.example_N == answer][1:], batch.last_E[answer : answer + 1]))
    return x_TD[own].double().mean(0).numpy()  # type: ignore[no-any-return]


def length_features(rows: Sequence[Ranking]) -> Array:
    """Better less worse [rows, 3]."""
    words = np.array([[len(answer.content.split()) for answer in row.answers] for row in rows], dtype=np.float64)
    logs, few = np.log1p(words), np.minimum(words, 400) / 100
    return np.stack([logs[:, 0] - logs[:, 1], few[:, 0] - few[:, 1], np.sign(words[:, 0] - words[:, 1])], axis=1)


def folds_of(rows: Sequence[Ranking], count: int, seed: int) -> NDArray[np.int64]:
    """A fold for each row; rows with one prompt share it."""
    prompts = sorted({row.prompt[-1].content for row in rows})
    dealt = dict(zip(prompts, np.random.default_rng(seed).permutation(len(prompts)) % count, strict=True))
    return np.array([dealt[row.prompt[-1].content] for row in rows])


def components(states: Sequence[Array], inside: NDArray[np.bool_]) -> Array:
    """Better less worse [rows, COMPONENTS a place], from means, spreads and components of the rows inside."""
    out = []
    for part in states:
        pooled_rows = part[inside].reshape(-1, part.shape[2])
        scaled = np.clip((part - pooled_rows.mean(0)) / (pooled_rows.std(0) + 1e-6), -CLAMP, CLAMP)
        flat = scaled[inside].reshape(-1, part.shape[2])
        _, sizes, basis = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
        spread = np.sqrt((sizes**2).sum() / len(flat))
        out.append((scaled[:, 0] - scaled[:, 1]) @ basis[:COMPONENTS].T * 8 / spread)
    return np.concatenate(out, axis=1) / np.sqrt(len(states))


def chosen_scale(length: Array, hidden: Array, fold: NDArray[np.int64]) -> float:
    """The scale of the states under which pairs of other folds are least surprising."""

    def surprise(scale: float) -> float:
        both = np.concatenate([length, scale * hidden], axis=1)
        return sum(float(_losses(both[fold == k] @ bradley_terry(both[fold != k], 1.0)).sum()) for k in np.unique(fold))

    return min(SCALES, key=surprise)


def _losses(margin: Array) -> Array:
    return np.asarray(np.logaddexp(0, -margin))


def judged(rows: Sequence[Ranking], states: Sequence[Array]) -> tuple[Scores, list[float]]:
    """Every pair's margin from a head that has not seen its prompt, and the scales that were chosen."""
    length, margin, scales = length_features(rows), np.zeros(len(rows)), []
    outer, inner = folds_of(rows, FOLDS, 0), folds_of(rows, INNER_FOLDS, 100)
    for k in range(FOLDS):
        inside = outer != k
        hidden = components(states, inside) if states else np.zeros((len(rows), 0))
        scale = chosen_scale(length[inside], hidden[inside], inner[inside]) if states else 0.0
        both = np.concatenate([length, scale * hidden], axis=1)
        margin[~inside] = both[~inside] @ bradley_terry(both[inside], 1.0)
        scales.append(scale)
    return margin, scales


def table(rows: Sequence[Ranking], states: dict[str, Array]) -> dict[str, Any]:
    words = np.array([[len(answer.content.split()) for answer in row.answers] for row in rows], dtype=np.float64)
    right = _hits(words[:, 0] - words[:, 1])
    alone, _ = judged(rows, [])
    out: dict[str, Any] = {"pairs": len(rows), "the longer wins": accuracy(words[:, 0], words[:, 1])}
    for name, places in HEADS.items():
        margin, scales = judged(rows, [states[str(place)] for place in places])
        out[name] = {
            "accuracy": accuracy(margin, np.zeros_like(margin)),
            "over the longer": mean(_hits(margin) - right),
            "nats a pair over a head on length": mean(_losses(alone) - _losses(margin)),
            "scales": sorted(set(scales)),
        }
    return out


def _hits(margin: Array) -> Array:
    return np.where(margin == 0, 0.5, margin > 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/preference"))
    parser.add_argument("--folder", type=Path, default=Path("artifacts/reward-states"), help="where states are kept")
    parser.add_argument("--sets", nargs="+", choices=DATASETS, default=list(DATASETS))
    arguments = parser.parse_args()
    present = [name for name in arguments.sets if (arguments.data / DATASETS[name][1]).is_file()]
    if not present:
        print(f"Skipped: there are no preference data in {arguments.data} (README.md of the data says what they are).")
        return
    model = load_pretrained(arguments.model)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {}
    for name in present:
        pairs = DATASETS[name][0](arguments.data)
        rows, path = [*pairs.train, *pairs.test], arguments.folder / f"{name}.npz"
        if not path.exists():
            np.savez(path, **states_of(model, rows))
        states = dict(np.load(path))
        report[name] = table([rows[i] for i in states.pop("kept")], states)
        print(name, json.dumps(report[name]), flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
