"""Statistics of an attention on the calibration images: D x D numbers per head and image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from softfree.attention import SoftmaxAttention


@dataclass(frozen=True)
class Statistics:
    """Moments over the tokens of P images, in float64; (P, H, D) or (P, H, D, D).

    q, k and v are Q, K and V as in SeqNorm before its scales and shifts: with mean 0 and standard deviation 1 over the
    tokens of an image, or, if V is not normalized, V without its bias. O is the output of softmax for them.

    Attributes:
        q_scale: Q = q * q_scale + q_shift.
        q_shift: See above.
        k_scale: The same for K, whose shift has no effect on softmax.
        v_scale: The same for V: 1 if it is not normalized.
        v_shift: The bias of V if it is not normalized.
        v_mean: Mean of v: 0 if V is normalized.
        o_mean: Mean of O.
        o_square: Mean of O's squares.
        qq: q^T q / N.
        kv: k^T v / N.
        qo: q^T O / N.
    """

    q_scale: Tensor
    q_shift: Tensor
    k_scale: Tensor
    v_scale: Tensor
    v_shift: Tensor
    v_mean: Tensor
    o_mean: Tensor
    o_square: Tensor
    qq: Tensor
    kv: Tensor
    qo: Tensor

    @classmethod
    @torch.no_grad()
    def collect(cls, attention: SoftmaxAttention, inputs: Sequence[Tensor], normalized: str, eps: float) -> Statistics:
        """Collect the statistics of an attention over ``inputs``.

        Args:
            attention: The softmax attention.
            inputs: Batches (B, N, C); N may differ between them.
            normalized: "qk" or "qkv", as in :class:`~softfree.attention.SeqNormAttention`.
            eps: Its eps.
        """
        batches = [_moments(attention, batch, "v" in normalized, eps) for batch in inputs]
        return cls(**{name: torch.cat([moments[name] for moments in batches]) for name in batches[0]})


def _moments(attention: SoftmaxAttention, x: Tensor, normalize_v: bool, eps: float) -> dict[str, Tensor]:
    q, k, v = (attention.split_heads(t) for t in attention.qkv(x).chunk(3, dim=-1))  # (B, H, N, D)
    o = attention.mix(q, k, v, None).double()
    q, q_shift, q_scale = _standardize(q.double(), eps)
    k, _, k_scale = _standardize(k.double(), eps)
    v = v.double()
    if normalize_v:
        v, v_shift, v_scale = _standardize(v, eps)
    else:
        v_shift = _v_bias(attention).to(v).unsqueeze(1).expand_as(v[:, :, :1])
        v, v_scale = v - v_shift, torch.ones_like(v_shift)
    scales = {"q_scale": q_scale, "q_shift": q_shift, "k_scale": k_scale, "v_scale": v_scale, "v_shift": v_shift}
    means = {"v_mean": v.mean(2), "o_mean": o.mean(2), "o_square": o.square().mean(2)}
    products = {"qq": (q, q), "kv": (k, v), "qo": (q, o)}
    return (
        {name: t.squeeze(2) for name, t in scales.items()}
        | means
        | {name: left.mT @ right / x.shape[1] for name, (left, right) in products.items()}
    )


def _standardize(t: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Standardize (B, H, N, D) over N; return it with mean and standard deviation (B, H, 1, D)."""
    mean = t.mean(2, keepdim=True)
    std = ((t - mean).square().mean(2, keepdim=True) + eps).sqrt()
    return (t - mean) / std, mean, std


def _v_bias(attention: SoftmaxAttention) -> Tensor:
    """Return the bias of V (H, D), zeros if there is none."""
    bias = attention.qkv.bias
    if bias is None:
        bias = attention.qkv.weight.new_zeros(attention.qkv.out_features)
    return bias.chunk(3)[2].view(attention.num_heads, attention.head_dim)
