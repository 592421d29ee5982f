"""Attention over packed segments in bfloat16, forward and backward: on AMX matrix units in C, or in PyTorch.

In C (`attention.c`) every segment is computed at its own length and only where the causal mask lets it; in PyTorch,
segments of like size are padded to one (`Layout.groups`). Knows nothing of layers or matrices.

Axes: T tokens, X = (H + 2 G) K of queries, keys and values side by side, H query heads, G kv heads, K head dim,
O = H K, B segments, N queries and S keys of each (padded).
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.nn import functional

from tutee.model import compiled
from tutee.model.attention import attend, attend_backward
from tutee.model.config import DecoderConfig
from tutee.model.layout import Layout
from tutee.model.workspace import Workspace, empty

MAX_HEAD = 256


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("segments", "heads", "groups", "head", "window")),
        *((name, ctypes.c_void_p) for name in ("start", "length", "parent")),
    )


class PackedAttention:
    """Attention of one layout's segments, for all layers of one pass."""

    def __init__(self, layout: Layout, config: DecoderConfig, dtype: torch.dtype) -> None:
        self._layout = layout
        self._config = config
        H, G, K = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        fits = K % 32 == 0 and K <= MAX_HEAD and dtype == torch.bfloat16 and layout.device.type == "cpu"
        self._native = compiled.load_amx("attention.c") if fits else None
        starts = torch.tensor(layout.starts)
        self._held = starts[:-1].contiguous(), starts.diff(), torch.tensor(layout.parents)
        at = (x.data_ptr() for x in self._held)
        self._shape = _Shape(len(layout.parents), H, G, K, config.sliding_window or 0, *at)

    def forward(self, heads_TX: Tensor, room: Workspace | None = None) -> tuple[Tensor, Tensor]:
        """(outputs [T, O], what `backward` wants of it: log of each softmax's sum [H, T], or nothing).

        Args:
            room: where the outputs may be laid.
        """
        if self._native is not None:
            rows, config = len(heads_TX), self._config
            out_TO = empty(room, heads_TX, rows, config.num_attention_heads * config.head_dim)
            logsum_HT = torch.empty(config.num_attention_heads, rows)
            self._native.attention_forward(
                ctypes.byref(self._shape), _at(heads_TX), ctypes.c_long(rows), _at(out_TO), _at(logsum_HT)
            )
            return out_TO, logsum_HT
        groups, order_T = self._layout.groups(self._config.sliding_window)
        q_THK, k_TGK, v_TGK = self.split(heads_TX)
        outs = []
        for group in groups:
            out_BNHK = attend(group.queries(q_THK), group.keys(k_TGK), group.keys(v_TGK), group.bias_BNS)
            outs.append(out_BNHK.flatten(2).flatten(0, 1))
        out_TO = outs[0] if len(outs) == 1 else torch.cat(outs)
        return (out_TO if order_T is None else out_TO.index_select(0, order_T)), heads_TX.new_empty(0)

    def backward(self, heads_TX: Tensor, out_TO: Tensor, logsum_HT: Tensor, d_out_TO: Tensor) -> Tensor:
        """Gradient of the heads [T, X]."""
        if self._native is not None:
            d_heads_TX = torch.empty_like(heads_TX)
            inputs = _at(heads_TX), ctypes.c_long(len(heads_TX)), _at(out_TO), _at(logsum_HT), _at(d_out_TO)
            self._native.attention_backward(ctypes.byref(self._shape), *inputs, _at(d_heads_TX))
            return d_heads_TX
        groups, _ = self._layout.groups(self._config.sliding_window)
        K = self._config.head_dim
        q_THK, k_TGK, v_TGK = self.split(heads_TX)
        d_q_THK, d_k_TGK, d_v_TGK = (torch.zeros_like(x, dtype=torch.float32) for x in (q_THK, k_TGK, v_TGK))
        for group in groups:
            out, d_out = (group.queries(x.view(len(x), -1, K)) for x in (out_TO, d_out_TO))
            if group.rows_BN is not None:
                # Padding repeats a sequence's last row.
                real_BN = functional.pad(group.rows_BN.diff(dim=1) > 0, (1, 0), value=True)
                d_out = d_out * real_BN[:, :, None, None]
            keys, values = group.keys(k_TGK), group.keys(v_TGK)
            d_q, d_k, d_v = attend_backward(group.queries(q_THK), keys, values, group.bias_BNS, out, d_out)
            group.add_queries(d_q_THK, d_q)
            group.add_keys(d_k_TGK, d_k)
            group.add_keys(d_v_TGK, d_v)
        return torch.cat((d_q_THK, d_k_TGK, d_v_TGK), dim=1).flatten(1).to(heads_TX.dtype)

    def split(self, heads_TX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [T, H, K], keys and values [T, G, K]: views."""
        H, G, K = self._config.num_attention_heads, self._config.num_key_value_heads, self._config.head_dim
        q_THK, k_TGK, v_TGK = torch.split(heads_TX.view(len(heads_TX), H + 2 * G, K), [H, G, G], dim=1)
        return q_THK, k_TGK, v_TGK


def _at(x: Tensor) -> ctypes.c_void_p:
    if not x.is_contiguous():
        raise ValueError("the C code wants contiguous rows")
    return ctypes.c_void_p(x.data_ptr())
