"""The formula of SimA as it is written, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from softfree.attention.base import Parameters

if TYPE_CHECKING:
    from softfree.attention.sima.module import SimaAttention


def sima_reference(attention: SimaAttention, q: Tensor, k: Tensor, v: Tensor, parameters: Parameters) -> Tensor:
    """Evaluate the formula of the module; see :meth:`Attention.reference_mix`."""
    q, k = (t / t.abs().sum(2, keepdim=True).clamp(min=attention.eps) for t in (q, k))
    return q @ (k.transpose(2, 3) @ v)
