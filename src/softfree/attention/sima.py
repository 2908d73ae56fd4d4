"""SimA, simple softmax-free attention (Koohpayegani and Pirsiavash, WACV 2024, arXiv:2206.08898).

Each channel of Q and K is divided by its L1 norm over the tokens; no softmax, no scale, no shift:

    O_h = Q^_h (K^_h^T V_h),    T^_nc = T_nc / max(sum_n |T_nc|, eps)

The product is taken in the cheaper order. The result shrinks as N grows: by the nature of the method.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softfree.attention.base import Attention


class SimaAttention(Attention):
    """``O_h = Q^_h (K^_h^T V_h)`` with Q and K of L1 norm 1 over the tokens; time grows with N.

    Args:
        dim: Width C.
        num_heads: Number of heads H.
        eps: Smallest norm. The official code has 1e-12, with which the gradient of a channel of zeros is 1e12; here it
            is 1e-6, as in that code's class attention.
        **options: See :class:`~softfree.attention.base.Attention`.
    """

    def __init__(self, dim: int, num_heads: int = 8, *, eps: float = 1e-6, **options: Any) -> None:
        super().__init__(dim, num_heads, **options)
        self.eps = eps

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Mix by the formula of the module.

        Q^ and K^ are of size 1 / N, which a half cannot hold: both carry sqrt(N), and the result is divided by N.
        """
        tokens = q.shape[2]
        q = self._normalise(q, mask, tokens)
        k = self._normalise(k, mask, tokens)
        # A compiled or exported graph is for any N, and long sequences are what it is made for.
        fixed_order = torch.compiler.is_compiling() or torch.jit.is_tracing()
        if not fixed_order and tokens < self.head_dim:
            out = (q @ k.transpose(-2, -1)) @ v
        else:
            out = q @ (k.transpose(-2, -1) @ v)
        return out / tokens

    def _normalise(self, t: Tensor, mask: Tensor | None, tokens: int) -> Tensor:
        """Give ``sqrt(N) t / max(|t|_1, eps)`` per channel, (B, H, N, D); padding becomes zero."""
        wide = t.to(torch.promote_types(t.dtype, torch.float32))
        if mask is not None:
            wide = wide.masked_fill(~mask, 0)
        norm = wide.abs().sum(dim=2, keepdim=True).clamp(min=self.eps)  # (B, H, 1, D)
        return (wide * (tokens**0.5 / norm)).to(t.dtype)
