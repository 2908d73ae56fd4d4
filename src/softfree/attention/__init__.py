"""Attention methods: each a module that also serves as ``attn_layer`` in timm's vision transformers."""

from __future__ import annotations

from typing import Any

from softfree.attention.base import Attention
from softfree.attention.seqnorm import SeqNormAttention
from softfree.attention.sima import SimaAttention
from softfree.attention.softmax import SoftmaxAttention
from softfree.errors import unknown_name

ATTENTIONS: dict[str, type[Attention]] = {
    "softmax": SoftmaxAttention,
    "seqnorm": SeqNormAttention,
    "sima": SimaAttention,
}


def create_attention(name: str, dim: int, num_heads: int, **options: Any) -> Attention:
    """Make an attention module by its name in :data:`ATTENTIONS`.

    Args:
        name: "softmax", "seqnorm" or "sima".
        dim: Width C.
        num_heads: Number of heads H.
        **options: Keywords of the method.

    Raises:
        UserError: an unknown name or option.
    """
    if name not in ATTENTIONS:
        raise unknown_name("attention", name, ATTENTIONS)
    return ATTENTIONS[name](dim, num_heads, **options)


__all__ = ["ATTENTIONS", "Attention", "SeqNormAttention", "SimaAttention", "SoftmaxAttention", "create_attention"]
