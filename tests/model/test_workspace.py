"""A workspace is cut into tensors that do not overlap, is used again, and is never shared by two passes."""

import pytest
import torch

from tests.model.families import tiny_decoder
from tutee.model import workspace
from tutee.model.decoder import Decoder
from tutee.model.layout import Layout
from tutee.model.training_pass import kept_bytes
from tutee.model.workspace import Workspace, borrow, give_back, release


def test_tensors_do_not_overlap_and_end_where_the_memory_ends() -> None:
    room = Workspace(3 * 64)
    first, second = room.empty(3, 5), room.empty(9, dtype=torch.float32)
    first.fill_(1.0)
    second.fill_(2.0)
    assert first.eq(1).all()
    assert second.eq(2).all()
    assert first.data_ptr() % 64 == second.data_ptr() % 64
    with pytest.raises(MemoryError, match="wanted of a workspace of 192"):
        room.empty(64)


def test_the_memory_is_used_again_if_it_is_large_enough() -> None:
    release()
    small = borrow(100)
    give_back(small)
    assert borrow(50) is small
    give_back(small)
    assert borrow(200) is not small


def test_two_passes_at_once_do_not_share_and_a_lost_one_harms_nobody() -> None:
    decoder = tiny_decoder(torch.bfloat16).requires_grad_(True)

    def forward(length: int) -> torch.Tensor:
        layout = Layout.packed([length])
        hidden: torch.Tensor = decoder(torch.arange(length), layout.positions, layout).square().mean()
        return hidden

    def gradient(*losses: torch.Tensor) -> torch.Tensor:
        decoder.zero_grad()
        for loss in losses:
            loss.backward()
        return embedding(decoder).clone()

    alone = gradient(forward(20)) + gradient(forward(9))
    forward(20)  # nobody asks for its gradient
    both = gradient(*[forward(20), forward(9)])
    torch.testing.assert_close(both, alone)
    release()
    torch.testing.assert_close(gradient(forward(20), forward(9)), alone)


def embedding(decoder: Decoder) -> torch.Tensor:
    found = decoder.model.embed_tokens.weight.grad
    assert found is not None
    return found


def test_a_pass_takes_what_was_asked_for() -> None:
    """Where the C code runs all is laid there; the PyTorch in its place lays some of it elsewhere."""
    release()
    decoder = tiny_decoder(torch.bfloat16).requires_grad_(True)
    layout = Layout.packed([33])
    decoder(torch.arange(33), layout.positions, layout).sum().backward()
    (room,) = workspace._free
    assert room.size == kept_bytes(decoder.config, 33)
    assert room._used == 0
