"""The formula of Performer as it is written, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from softfree.attention.base import Parameters

if TYPE_CHECKING:
    from softfree.attention.performer.module import PerformerAttention


def performer_reference(
    attention: PerformerAttention, q: Tensor, k: Tensor, v: Tensor, parameters: Parameters
) -> Tensor:
    """Evaluate the formula of the module; see :meth:`Attention.reference_mix`."""

    def features(t: Tensor, axes: tuple[int, ...]) -> Tensor:
        t = t / t.shape[3] ** 0.25
        scores = t @ parameters["projection"].T
        largest = scores.detach().amax(axes, keepdim=True)
        return (scores - (t**2).sum(3, keepdim=True) / 2 - largest).exp() + attention.eps

    q, k = features(q, (3,)), features(k, (2, 3))
    return q @ (k.transpose(2, 3) @ v) / (q * k.sum(2, keepdim=True)).sum(3, keepdim=True)
