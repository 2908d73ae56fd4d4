"""The formula of softmax attention as it is written, for tests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor

from softfree.attention.base import Parameters

if TYPE_CHECKING:
    from softfree.attention.softmax.module import SoftmaxAttention


def softmax_reference(attention: SoftmaxAttention, q: Tensor, k: Tensor, v: Tensor, parameters: Parameters) -> Tensor:
    """Evaluate the formula of the module; see :meth:`Attention.reference_mix`."""
    scores = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).exp()
    return (scores / scores.sum(3, keepdim=True)) @ v
