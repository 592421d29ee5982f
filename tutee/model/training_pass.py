"""The blocks in bfloat16 over packed sequences: forward with little kept, and its backward pass written by hand.

What automatic differentiation cannot know is done here: the residual stream is one float32 buffer, changed in place in
both directions; kept are only bfloat16 inputs of matrices (18 bytes a token, layer and hidden unit); what is cheap is
computed again; no gradient is made that nobody asked for. Scoring runs the same forward pass and keeps nothing.
In float32, where exactness matters more than speed, `decoder.py` runs under autograd instead.

Axes: T tokens, D hidden, H query heads, G kv heads, K head dim, X = (H + 2 G) K, F feed-forward width, R LoRA ranks of
the matrices with one input, O their outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tutee.model import fused
from tutee.model.adapted import Matrices
from tutee.model.config import DecoderConfig
from tutee.model.gradients import receiver_of
from tutee.model.layout import Layout
from tutee.model.lora import Lora
from tutee.model.norm import Norm
from tutee.model.packed_attention import PackedAttention
from tutee.model.products import STEP, Factors, add_product, gated_product, gradient, product
from tutee.model.workspace import Workspace, borrow, give_back, room_for


@dataclass(frozen=True, slots=True)
class BlockParts:
    """The modules of one block, in the order in which they are used."""

    attention_norm: Norm
    heads: Matrices
    """Queries, keys and values."""
    head_norms: tuple[Norm, Norm] | None
    """Of queries and keys."""
    attended: Matrices
    feed_forward_norm: Norm
    gate_up: Matrices
    down: Matrices

    @property
    def matrices(self) -> tuple[Matrices, ...]:
        return self.heads, self.attended, self.gate_up, self.down

    def parameters(self) -> list[Tensor]:
        norms = self.attention_norm, self.feed_forward_norm, *(self.head_norms or ())
        parts = [part for several in self.matrices for part in several.base.parts]
        biases = [part.bias for part in parts if part.bias is not None]
        return [*(norm.weight for norm in norms), *(part.weight for part in parts), *biases]


@dataclass(frozen=True, slots=True)
class Network:
    """What the pass must know of a decoder."""

    config: DecoderConfig
    dtype: torch.dtype
    blocks: Sequence[BlockParts]
    cosines_PK: Tensor
    sines_PK: Tensor


def packed_pass(network: Network, x_TD: Tensor, positions_T: Tensor, layout: Layout) -> Tensor:
    """The residual stream [T, D] float32 after all blocks. Differentiable in `x_TD`, in the adapter, in the weights.

    Args:
        x_TD: embedded tokens, float32.
        layout: packed, with one adapter on all rows or none.
    """
    lora = layout.adapters[0][0] if layout.adapters else None
    parameters = [p for block in network.blocks for p in block.parameters()]
    if lora is not None:
        parameters += lora.parameters()
    trained = [p for p in parameters if p.requires_grad] if torch.is_grad_enabled() else []
    attention = PackedAttention(layout, network.config, network.dtype)
    run = _Run(network, positions_T, attention, lora)
    return _Blocks.apply(x_TD, run, *trained)  # type: ignore[no-any-return,no-untyped-call]


@dataclass(frozen=True, slots=True)
class _Run:
    network: Network
    positions_T: Tensor
    attention: PackedAttention
    lora: Lora | None


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, run: _Run, *trained: Tensor) -> Tensor:
        x_TD = x_TD.clone()
        ctx.run, ctx.trained, ctx.kept = run, trained, []
        keeps = any(ctx.needs_input_grad)
        ctx.room = borrow(kept_bytes(run.network.config, len(x_TD))) if keeps and x_TD.device.type == "cpu" else None
        for block in run.network.blocks:
            kept = _forward(run, block, x_TD, ctx.room)
            if keeps:
                ctx.kept.append(kept)
        return x_TD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dx_TD = gradients[0].clone()
        d_TD = dx_TD.to(ctx.run.network.dtype)
        found = _Gradients(ctx.trained)
        for block in reversed(ctx.run.network.blocks):
            d_TD = _backward(ctx.run, block, ctx.kept.pop(), dx_TD, d_TD, found)
        if ctx.room is not None:
            give_back(ctx.room)
        return dx_TD, None, *found.in_order()


class _Gradients:
    """Gradients of the parameters that are being trained; of others none is made."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._found: dict[int, Tensor | None] = {id(p): None for p in parameters}

    def wanted(self, parameter: Tensor | None) -> bool:
        return id(parameter) in self._found

    def add(self, parameter: Tensor, gradient: Tensor) -> None:
        receiver = receiver_of(parameter)
        if receiver is None:
            self._found[id(parameter)] = gradient.to(parameter.dtype)
        else:
            receiver.add(gradient)

    def add_product(self, parameter: Tensor, left_TO: Tensor, right_TI: Tensor) -> None:
        """The gradient is left' · right."""
        receiver = receiver_of(parameter)
        if receiver is None:
            self.add(parameter, gradient(left_TO, right_TI))
        else:
            place, add = receiver.open()
            gradient(left_TO, right_TI, into_AB=place, add=add)

    def in_order(self) -> list[Tensor | None]:
        return list(self._found.values())


@dataclass(frozen=True, slots=True)
class _LowRank:
    """An adapter's part in one product; ranks are filled up with zeros to a multiple of `STEP`."""

    a_RD: Tensor
    b_OR: Tensor
    """Times the adapter's scale."""
    inputs_TR: Tensor
    """The matrices' input times A'."""


@dataclass(slots=True)
class _Kept:
    """What one block's backward pass needs of its forward pass."""

    attention_norm: tuple[Tensor, Tensor]
    """Normed input [T, D], and the scale of each row [T]."""
    heads_TX: Tensor
    """Queries, keys and values, after the rotation."""
    before_norm_TXK: Tensor | None
    """Queries and keys before their norm, where they have one."""
    attended: tuple[Tensor, Tensor]
    """Outputs of attention, and what its backward pass wants beside them."""
    feed_forward_norm: tuple[Tensor, Tensor]
    gate_up_TX: Tensor
    low_rank: list[_LowRank | None]
    """Of each of the four sets of matrices."""


def kept_bytes(config: DecoderConfig, rows: int) -> int:
    """Bytes that `_forward` keeps of all blocks for that many tokens, adapters and norms of heads left out."""
    D, F, G = config.hidden_size, config.intermediate_size, config.num_key_value_heads
    attended = config.num_attention_heads * config.head_dim
    normed, heads, scales = D, attended + 2 * G * config.head_dim, (1, 1)
    sizes = [2 * rows * width for width in (normed, heads, attended, normed, 2 * F)] + [4 * rows * n for n in scales]
    return config.num_hidden_layers * sum(map(room_for, sizes))


def _forward(run: _Run, block: BlockParts, x_TD: Tensor, room: Workspace | None) -> _Kept:
    """One block, which adds its two changes to the stream in place."""
    dtype = run.network.dtype
    norm = block.attention_norm
    y_TD, y_scale_T = fused.norm(x_TD, norm.weight, norm.eps, dtype, room)
    inputs, low_inputs = _factors(block.heads, y_TD, run)
    heads_TX = product(inputs, True, block.heads.base.bias(), room)
    before_TXK = None if block.head_norms is None else _norm_heads(run, block.head_norms, heads_TX)
    fused.rotate(heads_TX, _turned(run), run.positions_T, run.network.cosines_PK, run.network.sines_PK)
    attended_TO, logsum_HT = run.attention.forward(heads_TX, room)
    outputs, low_output = _factors(block.attended, attended_TO, run)
    add_product(x_TD, outputs, block.attended.base.bias())
    norm = block.feed_forward_norm
    z_TD, z_scale_T = fused.norm(x_TD, norm.weight, norm.eps, dtype, room)
    inputs, low_gate_up = _factors(block.gate_up, z_TD, run)
    gate_up_TX, gated_TF = gated_product(inputs, block.gate_up.base.bias(), room)
    outputs, low_down = _factors(block.down, gated_TF, run)
    add_product(x_TD, outputs, block.down.base.bias())
    low_rank = [low_inputs, low_output, low_gate_up, low_down]
    return _Kept(
        (y_TD, y_scale_T), heads_TX, before_TXK, (attended_TO, logsum_HT), (z_TD, z_scale_T), gate_up_TX, low_rank
    )


def _backward(run: _Run, block: BlockParts, kept: _Kept, dx_TD: Tensor, d_TD: Tensor, found: _Gradients) -> Tensor:
    """Turns `dx_TD`, the gradient after the block, into the one before it, in place; returns it rounded.

    Args:
        d_TD: `dx_TD` rounded.
    """
    low_inputs, low_output, low_gate_up, low_down = kept.low_rank
    d_gated_TF, d_low = _multiply_backward(block.down, d_TD, low_down)
    fused.gated_backward(kept.gate_up_TX, d_gated_TF)
    gated_TF, d_gate_up_TX = d_gated_TF, kept.gate_up_TX
    _matrix_gradients(block.down, gated_TF, low_down, d_TD, d_low, run, found)
    d_z_TD, d_low = _multiply_backward(block.gate_up, d_gate_up_TX, low_gate_up)
    _matrix_gradients(block.gate_up, kept.feed_forward_norm[0], low_gate_up, d_gate_up_TX, d_low, run, found)
    d_TD = _norm_backward(block.feed_forward_norm, d_z_TD, kept.feed_forward_norm, dx_TD, found)

    d_attended_TO, d_low = _multiply_backward(block.attended, d_TD, low_output)
    _matrix_gradients(block.attended, kept.attended[0], low_output, d_TD, d_low, run, found)
    d_heads_TX = run.attention.backward(kept.heads_TX, *kept.attended, d_attended_TO)
    fused.rotate(d_heads_TX, _turned(run), run.positions_T, run.network.cosines_PK, run.network.sines_PK, back=True)
    if kept.before_norm_TXK is not None:
        assert block.head_norms is not None
        _norm_heads_backward(run, block.head_norms, kept.before_norm_TXK, d_heads_TX, found)
    d_y_TD, d_low = _multiply_backward(block.heads, d_heads_TX, low_inputs)
    _matrix_gradients(block.heads, kept.attention_norm[0], low_inputs, d_heads_TX, d_low, run, found)
    return _norm_backward(block.attention_norm, d_y_TD, kept.attention_norm, dx_TD, found)


def _factors(matrices: Matrices, x_TD: Tensor, run: _Run) -> tuple[Factors, _LowRank | None]:
    """(what x W' plus what the adapter adds is the product of, the adapter's part)."""
    weight_OD = matrices.base.weight()
    adapter = None if run.lora is None else run.lora.matrices(matrices.names, matrices.widths, run.network.dtype)
    if adapter is None:
        return [(x_TD, weight_OD)], None
    a_RD, b_OR = adapter
    missing = -len(a_RD) % STEP
    a_RD, b_OR = functional.pad(a_RD, (0, 0, 0, missing)), functional.pad(b_OR, (0, missing))
    low_TR = product([(x_TD, a_RD)], True)
    return [(x_TD, weight_OD), (low_TR, b_OR)], _LowRank(a_RD, b_OR, low_TR)


def _multiply_backward(matrices: Matrices, d_out_TO: Tensor, low: _LowRank | None) -> tuple[Tensor, Tensor | None]:
    """Gradients of x [T, D], and of x A' [T, R]."""
    if low is None:
        return product([(d_out_TO, matrices.base.weight())], False), None
    d_low_TR = product([(d_out_TO, low.b_OR)], False)
    return product([(d_out_TO, matrices.base.weight()), (d_low_TR, low.a_RD)], False), d_low_TR


def _matrix_gradients(
    matrices: Matrices,
    x_TD: Tensor,
    low: _LowRank | None,
    d_out_TO: Tensor,
    d_low_TR: Tensor | None,
    run: _Run,
    found: _Gradients,
) -> None:
    weights, biases = [p.weight for p in matrices.base.parts], [p.bias for p in matrices.base.parts]
    widths = list(matrices.widths)
    for weight, bias, part in zip(weights, biases, torch.split(d_out_TO, widths, dim=1), strict=True):
        if found.wanted(weight):
            found.add_product(weight, part, x_TD)
        if bias is not None and found.wanted(bias):
            found.add(bias, part.float().sum(0))
    if run.lora is None or low is None or d_low_TR is None:
        return
    pairs = run.lora.parts(matrices.names)
    if not any(found.wanted(p) for pair in pairs if pair is not None for p in pair):
        return
    rank, row = run.lora.config.rank, 0
    d_a_RD, d_b_RO = gradient(d_low_TR, x_TD), gradient(low.inputs_TR, d_out_TO).mul_(run.lora.scale)
    for pair, d_b in zip(pairs, torch.split(d_b_RO, widths, dim=1), strict=True):
        if pair is not None:
            found.add(pair[0], d_a_RD[row : row + rank])
            found.add(pair[1], d_b[row : row + rank].t().contiguous())
            row += rank


def _norm_backward(norm: Norm, dy_TD: Tensor, kept: tuple[Tensor, Tensor], dx_TD: Tensor, found: _Gradients) -> Tensor:
    """Adds to `dx_TD` in place; returns it rounded."""
    y_TD, scale_T = kept
    if found.wanted(norm.weight):
        found.add(norm.weight, fused.norm_weight_gradient(dy_TD, y_TD, norm.weight))
    return fused.norm_backward(dy_TD, y_TD, scale_T, norm.weight, dx_TD)


def _turned(run: _Run) -> int:
    """Heads that are rotated: queries and keys, which come first."""
    return run.network.config.num_attention_heads + run.network.config.num_key_value_heads


def _norm_heads(run: _Run, norms: tuple[Norm, Norm], heads_TX: Tensor) -> Tensor:
    """Norms queries and keys in place; returns what they were."""
    q_THK, k_TGK, _ = run.attention.split(heads_TX)
    before_TXK = torch.cat((q_THK, k_TGK), dim=1)
    for x, norm in zip((q_THK, k_TGK), norms, strict=True):
        x.copy_(functional.rms_norm(x.float(), norm.weight.shape, norm.weight, norm.eps))
    return before_TXK


def _norm_heads_backward(
    run: _Run, norms: tuple[Norm, Norm], before_TXK: Tensor, d_heads_TX: Tensor, found: _Gradients
) -> None:
    """Turns the gradients of normed queries and keys into those before the norm, in place."""
    d_q_THK, d_k_TGK, _ = run.attention.split(d_heads_TX)
    before = torch.split(before_TXK, [d_q_THK.shape[1], d_k_TGK.shape[1]], dim=1)
    for d_x, x, norm in zip((d_q_THK, d_k_TGK), before, norms, strict=True):
        inputs = x.float().requires_grad_(), norm.weight.detach().requires_grad_()
        with torch.enable_grad():
            normed = functional.rms_norm(inputs[0], norm.weight.shape, inputs[1], norm.eps)
        d_before, d_weight = torch.autograd.grad(normed, inputs, d_x.float())
        d_x.copy_(d_before)
        if found.wanted(norm.weight):
            found.add(norm.weight, d_weight)
