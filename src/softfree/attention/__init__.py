"""Attention methods: each a module that also serves as ``attn_layer`` in timm's vision transformers."""

from __future__ import annotations

from typing import Any

from softfree.attention.base import Attention
from softfree.attention.galerkin import GalerkinAttention
from softfree.attention.linformer import LinformerAttention
from softfree.attention.nystromformer import NystromformerAttention
from softfree.attention.performer import PerformerAttention
from softfree.attention.seqnorm import SeqNormAttention
from softfree.attention.sima import SimaAttention
from softfree.attention.soft import SoftAttention, SoftNormAttention
from softfree.attention.softmax import SoftmaxAttention
from softfree_runtime.core.errors import unknown_name

ATTENTIONS: dict[str, type[Attention]] = {
    "softmax": SoftmaxAttention,
    "seqnorm": SeqNormAttention,
    "sima": SimaAttention,
    "soft": SoftAttention,
    "soft_norm": SoftNormAttention,
    "performer": PerformerAttention,
    "linformer": LinformerAttention,
    "nystromformer": NystromformerAttention,
    "galerkin": GalerkinAttention,
}


def create_attention(name: str, dim: int, num_heads: int, **options: Any) -> Attention:
    """Make an attention module by its name in :data:`ATTENTIONS`.

    Args:
        name: Of :data:`ATTENTIONS`.
        dim: Width C.
        num_heads: Number of heads H.
        **options: Keywords of the method.

    Raises:
        UserError: an unknown name or option.
    """
    if name not in ATTENTIONS:
        raise unknown_name("attention", name, ATTENTIONS)
    return ATTENTIONS[name](dim, num_heads, **options)


__all__ = [
    "ATTENTIONS",
    "Attention",
    "GalerkinAttention",
    "LinformerAttention",
    "NystromformerAttention",
    "PerformerAttention",
    "SeqNormAttention",
    "SimaAttention",
    "SoftAttention",
    "SoftNormAttention",
    "SoftmaxAttention",
    "create_attention",
]
