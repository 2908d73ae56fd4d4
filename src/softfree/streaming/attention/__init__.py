"""What an attention needs of all tokens, as sums over chunks of them, and what it then does to each token.

With h (n, C) the input of the attention, the sublayer of every method here is

    y = (h - center) A + 1 c^T,        A (C, C), c (C) and center (C) functions of a few sums over all tokens:

- SeqNorm: the number of tokens, their mean and covariance ("Gram order", attention/seqnorm/orders.py); center = mean.
- SimA: the L1 norms of Q and K, and K^T V; center = 0.
- Galerkin: the number of tokens and K~^T V~ with K~ and V~ normalized token by token; center = 0.

So tokens may come in chunks, or lie on several machines: sums are added up, and nothing else of one chunk is needed by
another. The same holds backwards: dA, dc and dcenter are sums over tokens, a graph of C x C tensors turns them into the
gradients of the sums, and those give each chunk its part.
"""

from __future__ import annotations

from torch import nn

from softfree.attention import GalerkinAttention, SeqNormAttention, SimaAttention
from softfree.attention.base import Attention
from softfree.streaming.attention.base import Form, Mixing, Stats, numbers
from softfree.streaming.attention.galerkin import GalerkinForm
from softfree.streaming.attention.seqnorm import SeqNormForm
from softfree.streaming.attention.sima import SimaForm
from softfree_runtime.core.errors import UserError

FORMS: dict[type[Attention], type[Form]] = {
    SeqNormAttention: SeqNormForm,
    SimaAttention: SimaForm,
    GalerkinAttention: GalerkinForm,
}


def form_of(attention: nn.Module) -> Form:
    """Find the streaming form of an attention module.

    Raises:
        UserError: it has none; the message says why, and which have one.
    """
    reason = refusal(attention)
    if reason:
        raise UserError(reason)
    return FORMS[type(attention)](attention)  # type: ignore[index]


def refusal(attention: nn.Module) -> str:
    """Say why an attention has no streaming form, and which have one; empty if it has."""
    reason = _hindrance(attention)
    return reason and (
        f"{type(attention).__name__} {reason}, so that its tokens cannot stream: expected seqnorm (normalized over the "
        "sequence), sima or galerkin with plain projections, or an input that fits in memory."
    )


def _hindrance(attention: nn.Module) -> str:
    if type(attention) not in FORMS:
        return "needs more of all tokens than a few sums"
    assert isinstance(attention, Attention)
    if isinstance(attention, SeqNormAttention) and attention.num_left_out:
        return "leaves the class token out of its statistics"
    if not isinstance(attention.norm, nn.Identity):
        return "normalizes its result (scale_norm=True)"
    if isinstance(attention, SeqNormAttention) and not attention.expressible:
        return "does not normalize over the sequence"
    return "" if attention.projections_are_plain() else "has a projection that was replaced or has hooks"


__all__ = [
    "FORMS",
    "Form",
    "GalerkinForm",
    "Mixing",
    "SeqNormForm",
    "SimaForm",
    "Stats",
    "form_of",
    "numbers",
    "refusal",
]
