"""SimA, simple softmax-free attention (Koohpayegani and Pirsiavash, WACV 2024, arXiv:2206.08898).

Each channel of Q and K is divided by its L1 norm over the tokens; no softmax, no scale, no shift:

    O_h = Q^_h (K^_h^T V_h),    T^_nc = T_nc / max(sum_n |T_nc|, eps)

The result shrinks as N grows, which is inherent to the method. The product is computed in the cheaper order; for long
sequences, nothing of the size of Q is normalized: norms and output projection are folded into the D x D products:

    R_h = diag(1 / |q|) (K_h^T V_h / |k|) Wo_h^T,    Y = sum_h Q_h R_h + bo
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from softfree.attention.base import PART, Attention, Grid, mean_product, narrow_as_autocast
from softfree.attention.cost import AttentionCost, Shape
from softfree.attention.mask import real_tokens
from softfree.attention.registry import register_attention
from softfree.attention.sima.cost import sima_cost
from softfree.attention.sima.reference import sima_reference
from softfree.attention.sima.streaming import StreamingSima


@register_attention("sima")
class SimaAttention(Attention):
    """``O_h = Q^_h (K^_h^T V_h)`` with Q and K of L1 norm 1 over the tokens; time grows with N.

    Args:
        dim: Width C.
        num_heads: Number of heads H.
        eps: Smallest norm. The official code has 1e-12, at which the gradient of a zero channel is 1e12; the default is
            that of its class attention.
        **options: See :class:`~softfree.attention.base.Attention`.
    """

    linear_in_values = True
    streaming = StreamingSima
    reference_mix = sima_reference

    def __init__(self, dim: int, num_heads: int = 8, *, eps: float = 1e-6, **options: Any) -> None:
        super().__init__(dim, num_heads, **options)
        self.eps = eps

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, grid: Grid | None = None
    ) -> Tensor:
        """See :meth:`Attention.forward`."""
        # An exported graph is for any N, and meant for long sequences.
        any_length = torch.compiler.is_exporting() or torch.jit.is_tracing()
        if not self.projections_are_plain() or (not any_length and x.shape[1] < self.head_dim):
            return super().forward(x, attn_mask, is_causal, grid)
        attn_mask = real_tokens(x, attn_mask, is_causal)
        x, full_precision = narrow_as_autocast(x)
        with full_precision:
            return self.proj_drop(self._folded(x, attn_mask))

    def _folded(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Evaluate the second formula of the module, (B, N, C) to (B, N, C).

        Without gradients, a CPU computes Q, K and V in chunks that stay in its cache, and does not recompute Q for the
        result, which is linear in X.
        """
        tokens, width = x.shape[1:]
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0)
        rows = max(256, PART // (3 * width))
        whole = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()
        if whole or x.device.type != "cpu" or tokens <= rows:
            q, norm, cross = self._sums(x, mask, tokens)
            return self._result(q, *self.mixing(norm, cross, tokens), tokens)
        masks: tuple[Tensor | None, ...] = (None,) * tokens if mask is None else mask.split(rows, dim=1)
        sums = [self._sums(chunk, real, tokens)[1:] for chunk, real in zip(x.split(rows, dim=1), masks, strict=False)]
        norm, cross = (torch.stack(chunk_sums).sum(0) for chunk_sums in zip(*sums, strict=True))
        return self._result(x, *self.on_input(*self.mixing(norm, cross, tokens)), tokens)

    def _sums(self, x: Tensor, mask: Tensor | None, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return Q (B, n, C), the L1 norms of Q and K (B, 1, 2C), and K^T V / N (B, H, D, D), of some tokens."""
        bias = None if self.qkv.bias is None else self.qkv.bias.to(x.dtype)
        qkv = F.linear(x, self.qkv.weight.to(x.dtype), bias)  # (B, n, 3C)
        if mask is not None and bias is not None:
            qkv = qkv.masked_fill(~mask.unsqueeze(-1), 0)
        q, k, v = qkv.chunk(3, dim=-1)
        cross = mean_product(self.split_heads(k), self.split_heads(v), tokens)
        qk = qkv[..., : 2 * x.shape[-1]]
        return q, torch.linalg.vector_norm(qk, ord=1, dim=1, keepdim=True, dtype=cross.dtype), cross

    def mixing(self, norm: Tensor, cross: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """Return N R (B, C, C) and the bias (1, C); R itself is of order 1 / N, below float16's range."""
        q_mean, k_mean = (norm.clamp(min=self.eps) / tokens).chunk(2, dim=-1)  # (B, 1, C)
        scaled = cross / (self.split_heads(q_mean) * self.split_heads(k_mean)).mT
        mixing = scaled @ self.split_heads(self.proj.weight.to(cross.dtype)).mT  # (B, H, D, C)
        bias = self.proj.bias
        constant = mixing.new_zeros(1, mixing.shape[-1]) if bias is None else tokens * bias.to(mixing.dtype)[None]
        return mixing.flatten(1, 2), constant

    def on_input(self, mixing: Tensor, constant: Tensor) -> tuple[Tensor, Tensor]:
        """Fold Q's projection into the results of :meth:`mixing`, so that they apply to the tokens themselves."""
        width = mixing.shape[-1]
        if self.qkv.bias is not None:
            constant = constant + (self.qkv.bias[:width].to(mixing.dtype) @ mixing)
        return self.qkv.weight[:width].to(mixing.dtype).mT @ mixing, constant

    def _result(self, x: Tensor, mixing: Tensor, constant: Tensor, tokens: int) -> Tensor:
        """Return ``(x mixing + constant) / N``, (B, N, C)."""
        constant = (constant / tokens).to(x.dtype).unsqueeze(-2)
        if x.dtype == torch.float16:
            return torch.add(constant, x @ mixing.to(x.dtype), alpha=1 / tokens)
        return torch.baddbmm(constant, x, (mixing / tokens).to(x.dtype))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, grid: Grid | None = None) -> Tensor:
        """Mix short sequences by the first formula of the module, N x N first if there are fewer tokens than features.

        Q^ and K^ are of order 1 / N, below float16's range: both get a factor sqrt(N), and the result is divided by N.
        """
        tokens = q.shape[2]
        q = self._normalize(q, mask, tokens)
        k = self._normalize(k, mask, tokens)
        out = (q @ k.transpose(-2, -1)) @ v if tokens < self.head_dim else q @ (k.transpose(-2, -1) @ v)
        return out / tokens

    def _normalize(self, t: Tensor, mask: Tensor | None, tokens: int) -> Tensor:
        """Return ``sqrt(N) t / max(|t|_1, eps)`` per channel, (B, H, N, D); padding becomes zero."""
        wide = t.to(torch.promote_types(t.dtype, torch.float32))
        if mask is not None:
            wide = wide.masked_fill(~mask, 0)
        norm = wide.abs().sum(dim=2, keepdim=True).clamp(min=self.eps)  # (B, H, 1, D)
        return (wide * (tokens**0.5 / norm)).to(t.dtype)

    @classmethod
    def cost(cls, shape: Shape) -> AttentionCost:
        """Compute the cost for a shape; see :meth:`Attention.cost`."""
        return sima_cost(shape)
