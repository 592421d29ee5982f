"""Causal grouped-query attention over the groups of a layout.

float32 is exact: sums run in float64, where the order of adding changes nothing that survives rounding to float32.
bfloat16 runs PyTorch's fused kernel forwards, and a backward pass of our own: the fused one is five times slower on a
CPU when sequences are short (measured at 64 sequences of 64 tokens: 59 against 11 ms a layer).

Axes: B sequences, N new tokens of each (padded), S keys of each (padded), H query heads, G kv heads, R = H / G,
K head dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

EXACT_QUERIES = 128
"""Queries at a time in float32, so that long prompts do not hold all their scores at once."""


def attend(q_BNHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, bias_BNS: Tensor | None) -> Tensor:
    """Attention outputs [B, N, H, K].

    Args:
        bias_BNS: 0 where a query sees a key and -inf where not; None: N = S and each sees itself and all before it.
    """
    if q_BNHK.dtype == torch.float32:
        return _attend_exact(q_BNHK, k_BSGK, v_BSGK, bias_BNS)
    return _attend_fused(q_BNHK, k_BSGK, v_BSGK, bias_BNS)


def causal_bias(new: int, device: torch.device) -> Tensor:
    """What `bias_BNS=None` means, written out: float32 [1, N, N]."""
    return torch.full((1, new, new), -math.inf, device=device).triu_(1)


def _attend_exact(q_BNHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, bias_BNS: Tensor | None) -> Tensor:
    B, N, H, K = q_BNHK.shape
    G = k_BSGK.shape[2]
    if bias_BNS is None:
        bias_BNS = causal_bias(N, q_BNHK.device)
    k_BG1KS = k_BSGK.double().permute(0, 2, 3, 1).unsqueeze(2)
    v_BG1SK = v_BSGK.double().transpose(1, 2).unsqueeze(2)
    out = []
    for q, bias in zip(torch.split(q_BNHK, EXACT_QUERIES, 1), torch.split(bias_BNS, EXACT_QUERIES, 1), strict=True):
        q_BGRNK = q.double().view(B, -1, G, H // G, K).permute(0, 2, 3, 1, 4)
        scores_BGRNS = q_BGRNK @ k_BG1KS / math.sqrt(K) + bias[:, None, None].double()
        out.append((scores_BGRNS.softmax(-1) @ v_BG1SK).permute(0, 3, 1, 2, 4).reshape(B, -1, H, K))
    return torch.cat(out, 1).float()


def _attend_fused(q_BNHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, bias_BNS: Tensor | None) -> Tensor:
    B, N, H, K = q_BNHK.shape
    G = k_BSGK.shape[2]
    k_BGSK, v_BGSK = k_BSGK.transpose(1, 2), v_BSGK.transpose(1, 2)
    bias = None if bias_BNS is None else bias_BNS.to(q_BNHK.dtype).unsqueeze(1)
    if N == 1:
        # One query: the heads that share a key become its queries, so that keys are read once and never repeated.
        q_BGRK = q_BNHK.view(B, G, H // G, K)
        bias = None if bias is None else bias.expand(B, 1, H // G, -1)
        return functional.scaled_dot_product_attention(q_BGRK, k_BGSK, v_BGSK, bias).reshape(B, 1, H, K)
    out_BHNK = functional.scaled_dot_product_attention(
        q_BNHK.transpose(1, 2), k_BGSK, v_BGSK, bias, is_causal=bias is None, enable_gqa=True
    )
    return out_BHNK.transpose(1, 2)


def attend_backward(
    q_BNHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, bias_BNS: Tensor | None, out_BNHK: Tensor, d_out_BNHK: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values, by plain batched matrix products (Dao et al. 2022, appendix B.2).

    Args:
        out_BNHK: what `attend` made.
        d_out_BNHK: its gradient; 0 for queries that are padding.
    """
    B, N, H, K = q_BNHK.shape
    S, G = k_BSGK.shape[1:3]
    bias_BNS = causal_bias(N, q_BNHK.device) if bias_BNS is None else bias_BNS

    def by_kv_head(x_BNHK: Tensor) -> Tensor:
        return x_BNHK.view(B, N, G, H // G, K).permute(0, 2, 3, 1, 4).reshape(B * G, -1, K)

    def back(x: Tensor) -> Tensor:
        return x.view(B, G, H // G, N, K).permute(0, 3, 1, 2, 4).reshape(B, N, H, K)

    q, out, d_out = by_kv_head(q_BNHK * K**-0.5), by_kv_head(out_BNHK), by_kv_head(d_out_BNHK)
    k = k_BSGK.transpose(1, 2).reshape(B * G, S, K)
    v = v_BSGK.transpose(1, 2).reshape(B * G, S, K)
    scores = torch.bmm(q, k.transpose(1, 2)).view(B, H, N, S) + bias_BNS.to(q.dtype).unsqueeze(1)
    p = scores.softmax(-1).view(B * G, -1, S)
    d_v = torch.bmm(p.transpose(1, 2), d_out)
    rows = (out.float() * d_out.float()).sum(-1, keepdim=True).to(p.dtype)
    d_scores = torch.bmm(d_out, v.transpose(1, 2)).sub_(rows).mul_(p)
    d_q = torch.bmm(d_scores, k) * K**-0.5
    d_k = torch.bmm(d_scores.transpose(1, 2), q)
    return back(d_q), d_k.view(B, G, S, K).transpose(1, 2), d_v.view(B, G, S, K).transpose(1, 2)
