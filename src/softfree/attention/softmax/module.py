"""Softmax attention (Vaswani et al. 2017, "Attention is all you need"): the baseline of the other methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from softfree.attention.base import Attention, Grid
from softfree.attention.cost import AttentionCost, Shape
from softfree.attention.registry import register_attention
from softfree.attention.softmax.cost import softmax_cost
from softfree.attention.softmax.reference import softmax_reference


@register_attention("softmax")
class SoftmaxAttention(Attention):
    """``O_h = softmax(Q_h K_h^T / sqrt(D)) V_h``, by torch's fused kernel; time grows with N^2.

    Args:
        dim: Width C.
        num_heads: Number of heads H.
        qk_norm: Normalize q and k over the D features of a head, with ``norm_layer``.
        attn_drop: Dropout on the attention weights.
        norm_layer: Layer for ``qk_norm`` and ``scale_norm``; default ``torch.nn.LayerNorm``.
        **options: See :class:`~softfree.attention.base.Attention`.
    """

    linear_in_values = True
    reference_mix = softmax_reference

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qk_norm: bool = False,
        attn_drop: float = 0.0,
        norm_layer: Callable[..., nn.Module] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(dim, num_heads, norm_layer=norm_layer, **options)
        factory_options: dict[str, Any] = {"device": options.get("device"), "dtype": options.get("dtype")}
        norm_layer = norm_layer or nn.LayerNorm
        self.q_norm = norm_layer(self.head_dim, **factory_options) if qk_norm else nn.Identity()
        self.k_norm = norm_layer(self.head_dim, **factory_options) if qk_norm else nn.Identity()
        self.attn_drop = attn_drop

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, grid: Grid | None = None) -> Tensor:
        """Attend to real tokens only; a sample without any gives zeros."""
        key_mask = None
        if mask is not None:
            key_mask = mask.transpose(2, 3)  # (B, 1, 1, N)
        dropout = self.attn_drop if self.training else 0.0
        return F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, attn_mask=key_mask, dropout_p=dropout)

    @classmethod
    def cost(cls, shape: Shape) -> AttentionCost:
        """Compute the cost for a shape; see :meth:`Attention.cost`."""
        return softmax_cost(shape)
