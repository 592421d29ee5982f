"""A linear head that reads one number out of hidden states: a reward model's score, a critic's value.

Saved beside the adapter or the weights that it was trained with. Knows nothing of what the number means.

Axes: T rows of a batch, L tokens of one sequence, D hidden.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tutee.errors import InvalidInput
from tutee.model.decoder import Decoder
from tutee.model.layout import Layout
from tutee.model.lora import Lora
from tutee.model.weights import save_safetensors

FILE = "value_head.safetensors"


class ValueHead(nn.Module):
    """v(h) = w · h + b, in float32. Starts with weights of std 1/√(D + 1) and no bias (Stiennon et al. 2020)."""

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.empty(width).normal_(0, 1 / math.sqrt(width + 1), generator=generator))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, hidden_TD: Tensor) -> Tensor:
        """Values, float32 [T]."""
        return hidden_TD.float() @ self.weight + self.bias

    def save(self, folder: Path) -> None:
        """Write the head into a version's folder, atomically."""
        save_safetensors(self.state_dict(), folder / FILE)

    @classmethod
    def load(cls, folder: Path, width: int) -> ValueHead:
        """The head in a version's folder.

        Raises:
            InvalidInput: none there, a damaged one, or one of a model of another width (code `not_a_reward_model`).
        """
        head = cls(width)
        try:
            head.load_state_dict(load_file(folder / FILE))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise InvalidInput(
                f"{folder} holds no readable {FILE} of a model {width} wide ({error}).",
                param="reward_model",
                code="not_a_reward_model",
            ) from None
        return head


@torch.no_grad()
def hidden_states(
    decoder: Decoder, sequences: Sequence[Sequence[int]], lora: Lora | None = None, token_budget: int = 2048
) -> Iterator[tuple[int, Tensor]]:
    """(number of the sequence, its hidden states [L, D]) of each sequence, the short ones first; no gradient.

    Packed in batches of at most `token_budget` tokens (a longer sequence goes alone).
    """
    device = decoder.head_weight.device
    batch: list[int] = []
    for i in sorted(range(len(sequences)), key=lambda i: len(sequences[i])):
        if batch and sum(len(sequences[j]) for j in batch) + len(sequences[i]) > token_budget:
            yield from _hidden_of(decoder, sequences, batch, lora, device)
            batch = []
        batch.append(i)
    if batch:
        yield from _hidden_of(decoder, sequences, batch, lora, device)


def _hidden_of(
    decoder: Decoder, sequences: Sequence[Sequence[int]], batch: list[int], lora: Lora | None, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    lengths = [len(sequences[i]) for i in batch]
    layout = Layout.packed(lengths, lora, device)
    tokens_T = torch.tensor([token for i in batch for token in sequences[i]], device=device)
    yield from zip(batch, torch.split(decoder(tokens_T, layout.positions, layout), lengths), strict=True)
