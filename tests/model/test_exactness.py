"""float32: a token's log-probability is one number, whatever the batch, the chunks of the prompt or the cache."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.model.families import tiny_decoder
from tutee.model.decoder import Decoder
from tutee.model.kv_cache import KVCache
from tutee.model.layout import Adapters, Layout
from tutee.model.logprobs import log_softmax, score, token_logprobs
from tutee.model.lora import Lora
from tutee.model.pretrained import load_pretrained

BLOCK = 16


def some_lora(decoder: Decoder, seed: int) -> Lora:
    lora = Lora(decoder.config, seed=seed).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for b in lora.B.values():
            b.normal_(0, 0.05, generator=generator)
    return lora


class Serving:
    """Sequences fed through the cache in whatever steps a test chooses; remembers every token's log-prob."""

    def __init__(self, decoder: Decoder, sequences: list[list[int]], loras: list[Lora | None]) -> None:
        self.decoder, self.sequences, self.loras = decoder, sequences, loras
        blocks = [-(-len(sequence) // BLOCK) for sequence in sequences]
        self.cache = KVCache(decoder.config, sum(blocks), BLOCK, decoder.dtype)
        order = torch.randperm(sum(blocks), generator=torch.Generator().manual_seed(3)).tolist()
        self.tables = [[order.pop() for _ in range(count)] for count in blocks]
        self.done = [0] * len(sequences)
        self.logprobs: list[list[float]] = [[] for _ in sequences]

    def step(self, takes: dict[int, int]) -> None:
        """Feed `takes[b]` next tokens of each sequence b, in this order, in one forward pass."""
        starts, tokens, contexts, adapters = [0], [], [], []
        for b, take in takes.items():
            tokens += self.sequences[b][self.done[b] : self.done[b] + take]
            starts.append(len(tokens))
            self.done[b] += take
            contexts.append(self.done[b])
        for lora in {id(lora): lora for lora in self.loras if lora is not None}.values():
            rows = [r for i, b in enumerate(takes) if self.loras[b] is lora for r in range(starts[i], starts[i + 1])]
            if rows:
                adapters.append((lora, torch.tensor(rows)))
        layout = Layout.cached(self.cache, starts, [self.tables[b] for b in takes], contexts, adapters=tuple(adapters))
        with torch.no_grad():
            hidden_TD = self.decoder(torch.tensor(tokens), layout.positions, layout)
            logp_TV = log_softmax(self.decoder.logits(hidden_TD))
        for i, b in enumerate(takes):
            for row in range(starts[i], starts[i + 1]):
                position = self.done[b] - (starts[i + 1] - row)
                if position + 1 < len(self.sequences[b]):
                    self.logprobs[b].append(float(logp_TV[row, self.sequences[b][position + 1]]))

    def rest(self) -> None:
        """Decode what is left one token at a time, all together."""
        while takes := {b: 1 for b, sequence in enumerate(self.sequences) if self.done[b] < len(sequence)}:
            self.step(takes)


def alone(serving: Serving) -> None:
    for b, sequence in enumerate(serving.sequences):
        serving.step({b: len(sequence)})


def decode_one_by_one(serving: Serving) -> None:
    for b, sequence in enumerate(serving.sequences):
        for _ in sequence:
            serving.step({b: 1})


def prefill_together_then_decode(serving: Serving) -> None:
    serving.step({b: max(1, len(sequence) // 2) for b, sequence in enumerate(serving.sequences)})
    serving.rest()


def chunked_prefill_beside_decode(serving: Serving) -> None:
    serving.step({0: 5})
    for b in range(1, len(serving.sequences)):
        while serving.done[b] < len(serving.sequences[b]) * 2 // 3:
            left = len(serving.sequences[b]) - serving.done[b]
            takes = {b: min(7, left)} | {c: 1 for c in range(b) if serving.done[c] < len(serving.sequences[c])}
            serving.step(takes)
    serving.rest()


def decode_together(serving: Serving) -> None:
    serving.rest()


WAYS = [alone, decode_one_by_one, prefill_together_then_decode, chunked_prefill_beside_decode, decode_together]


def check(decoder: Decoder, way: Callable[[Serving], None], lengths: list[int], loras: list[Lora | None]) -> float:
    generator = torch.Generator().manual_seed(0)
    vocab = decoder.config.vocab_size
    sequences = [torch.randint(vocab, (length,), generator=generator).tolist() for length in lengths]
    serving = Serving(decoder, sequences, loras)
    way(serving)
    worst = 0.0
    for lora in dict.fromkeys(loras):
        mine = [b for b, other in enumerate(loras) if other is lora]
        for b, recomputed in zip(mine, score(decoder, [sequences[b] for b in mine], lora), strict=True):
            worst = max(worst, float((torch.tensor(serving.logprobs[b]) - recomputed).abs().max()))
    return worst


@pytest.mark.row(1, 3)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("changes", [{}, {"sliding_window": 6}, {"model_type": "qwen3", "qk_norm": True}], ids=str)
def test_sampled_equals_recomputed(way: Callable[[Serving], None], changes: dict[str, object]) -> None:
    decoder = tiny_decoder(**changes)
    first, second = some_lora(decoder, 1), some_lora(decoder, 2)
    lengths = [33, 2, 47, 64, 18, 5, 29]
    assert check(decoder, way, lengths, [None, first, None, second, first, None, second]) < 1e-6


@pytest.mark.row(1, 11)
def test_the_trainer_recomputes_the_same_number_with_gradients_on() -> None:
    decoder = tiny_decoder()
    lora = some_lora(decoder, 1).requires_grad_(True)
    sequences = [list(range(3, 40)), list(range(50, 70)), [5, 6, 7]]
    expected = torch.cat(score(decoder, sequences, lora))
    layout = Layout.packed([len(sequence) - 1 for sequence in sequences], lora)
    inputs = torch.tensor([t for sequence in sequences for t in sequence[:-1]])
    targets = torch.tensor([t for sequence in sequences for t in sequence[1:]])
    got, _ = token_logprobs(decoder, decoder(inputs, layout.positions, layout), targets, chunk=7)
    assert (got - expected).abs().max() < 1e-6
    whole = decoder.requires_grad_(True)
    got, _ = token_logprobs(whole, whole(inputs, layout.positions, layout), targets)
    assert (got - expected).abs().max() < 1e-6


@pytest.mark.row(4)
def test_a_row_does_not_depend_on_the_threads_nor_on_its_neighbours() -> None:
    decoder = tiny_decoder()
    tokens = torch.arange(70) % 97
    layout = Layout.packed([70])
    threads = torch.get_num_threads()
    outs = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with torch.no_grad():
                outs.append(decoder.logits(decoder(tokens, layout.positions, layout)))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(outs[0], outs[1], atol=0, rtol=0)


def test_a_machine_without_avx_512_has_one_number_too() -> None:
    """What PyTorch's library of products takes for one: where it is another library, this is the test above again."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "sampled_equals_recomputed", __file__]
    environment = {**os.environ, "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    environment.pop("MKL_CBWR", None)  # as whoever imports the package finds it
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:]


def adapters_by_slice_and_by_index(decoder: Decoder, lora: Lora) -> tuple[Adapters, Adapters]:
    return ((lora, slice(10, 30)),), ((lora, torch.arange(10, 30)),)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_named_by_slice_or_by_index_are_the_same(dtype: torch.dtype) -> None:
    decoder = tiny_decoder(dtype)
    lora = some_lora(decoder, 4)
    tokens = torch.arange(40)
    outs = []
    for adapters in adapters_by_slice_and_by_index(decoder, lora):
        cache = KVCache(decoder.config, 8, BLOCK, dtype)
        layout = Layout.cached(cache, [0, 10, 30, 40], [[0], [1, 2], [3]], [10, 20, 10], adapters=adapters)
        with torch.no_grad():
            outs.append(decoder(tokens, layout.positions, layout))
    torch.testing.assert_close(outs[0], outs[1], atol=0, rtol=0)
    packed = Layout.packed([10, 20, 10])
    with torch.no_grad():
        base = decoder(tokens, packed.positions, packed)
    tolerance = 0 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(outs[0][:10], base[:10], atol=tolerance, rtol=0)
    assert (outs[0][10:30] - base[10:30]).abs().max() > 0.1


@pytest.mark.model
def test_the_default_model_is_exact(default_model: Path) -> None:
    decoder = load_pretrained(default_model, "float32").decoder
    lora = some_lora(decoder, 1)
    assert check(decoder, chunked_prefill_beside_decode, [9, 4, 22], [None, lora, None]) < 1e-6
