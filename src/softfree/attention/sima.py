"""SimA, simple softmax-free attention (Koohpayegani and Pirsiavash, WACV 2024, arXiv:2206.08898).

Each channel of Q and K is divided by its L1 norm over the tokens; no softmax, no scale, no shift:

    O_h = Q^_h (K^_h^T V_h),    T^_nc = T_nc / max(sum_n |T_nc|, eps)

The result shrinks as N grows: by the nature of the method. The product is taken in the cheaper order; for long
sequences nothing of the size of Q is normalised, since norms and output projection go into the D x D products:

    R_h = diag(1 / |q|) (K_h^T V_h / |k|) Wo_h^T,    Y = sum_h Q_h R_h + bo
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from softfree.attention.base import Attention, check_mask, mean_product, narrow_as_autocast


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

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Attend; see :meth:`Attention.forward`."""
        # An exported graph is for any N, and long sequences are what it is made for.
        any_length = torch.compiler.is_exporting() or torch.jit.is_tracing()
        if not self.projections_are_plain() or (not any_length and x.shape[1] < self.head_dim):
            return super().forward(x, attn_mask, is_causal)
        check_mask(x, attn_mask, is_causal)
        x, full_precision = narrow_as_autocast(x)
        with full_precision:
            return self.proj_drop(self._folded(x, attn_mask))

    def _folded(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Evaluate the second formula of the module with means for sums, (B, N, C) to (B, N, C).

        Sums over N would overflow float16, and 1 / N would vanish in it: there it is applied to the result.
        """
        tokens, width = x.shape[1:]
        bias = None if self.qkv.bias is None else self.qkv.bias.to(x.dtype)
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0)
        qkv = F.linear(x, self.qkv.weight.to(x.dtype), bias)  # (B, N, 3C)
        if mask is not None and bias is not None:
            qkv = qkv.masked_fill(~mask.unsqueeze(-1), 0)
        q, k, v = qkv.chunk(3, dim=-1)
        cross = mean_product(self.split_heads(k), self.split_heads(v), tokens)  # (B, H, D, D)
        norm = torch.linalg.vector_norm(qkv[..., : 2 * width], ord=1, dim=1, keepdim=True, dtype=cross.dtype)
        q_mean, k_mean = (norm.clamp(min=self.eps) / tokens).chunk(2, dim=-1)  # (B, 1, C)
        scaled = cross / (self.split_heads(q_mean) * self.split_heads(k_mean)).mT
        out = scaled @ self.split_heads(self.proj.weight.to(cross.dtype)).mT  # N R, (B, H, D, C)
        out = out.flatten(1, 2)  # (B, C, C)
        constant = x.new_zeros(width) if self.proj.bias is None else self.proj.bias.to(x.dtype)
        if x.dtype == torch.float16:
            return torch.add(constant, q @ out.to(x.dtype), alpha=1 / tokens)
        return torch.baddbmm(constant.expand(1, 1, width), q, (out / tokens).to(x.dtype))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Mix short sequences by the first formula of the module, N x N first if there are fewer tokens than features.

        Q^ and K^ are of size 1 / N, which a half cannot hold: both carry sqrt(N), and the result is divided by N.
        """
        tokens = q.shape[2]
        q = self._normalise(q, mask, tokens)
        k = self._normalise(k, mask, tokens)
        out = (q @ k.transpose(-2, -1)) @ v if tokens < self.head_dim else q @ (k.transpose(-2, -1) @ v)
        return out / tokens

    def _normalise(self, t: Tensor, mask: Tensor | None, tokens: int) -> Tensor:
        """Give ``sqrt(N) t / max(|t|_1, eps)`` per channel, (B, H, N, D); padding becomes zero."""
        wide = t.to(torch.promote_types(t.dtype, torch.float32))
        if mask is not None:
            wide = wide.masked_fill(~mask, 0)
        norm = wide.abs().sum(dim=2, keepdim=True).clamp(min=self.eps)  # (B, H, 1, D)
        return (wide * (tokens**0.5 / norm)).to(t.dtype)
