"""The cost of norm, pooling and head in closed form."""

from __future__ import annotations

from dataclasses import dataclass

from softfree.attention.cost import Shape


@dataclass(frozen=True)
class HeadCost:
    """The end of a model.

    Attributes:
        parameters: Number of parameters, including the norm's.
        products: Multiply-adds for one image.
        kept: Bytes kept for backward.
    """

    parameters: int
    products: int
    kept: int


def head_cost(pool: str, classes: int, s: Shape) -> HeadCost:
    """Derive the cost of a head; ``pool`` is a name of :data:`~softfree.models.pooling.POOLINGS`.

    Only the average needs no normalized tokens: all others keep them before and after a norm. In inference none holds
    more at once than an MLP does.
    """
    norm, last = 2 * s.width, s.width * classes
    if pool == "avg":
        return HeadCost(norm + last + classes, last, 0)
    statistics = 2 * s.batch * s.tokens * s.stream
    if pool == "token":
        return HeadCost(norm + last + classes + 2 * s.width, last, s.bnc * s.stream + statistics)
    if pool == "mean_std":  # the norm's input, and the distance of its result to the mean
        return HeadCost(norm + 2 * last + classes, 2 * last, s.bnc * (s.stream + 4) + statistics)
    kept = s.bnc * (s.stream + (4 if s.autocast else s.stream)) + statistics
    if pool == "gated":
        inside = s.width // 2
        own = 2 * (s.width + 1) * inside + inside
        products = s.tokens * (2 * s.width * inside + inside + s.width)
        copies = 2 * s.narrow if s.autocast else 4 * (s.narrow < 4)
        return HeadCost(norm + last + classes + own, products + last, kept + s.bnc * (3 * s.narrow // 2 + copies))
    logits = s.batch * s.tokens * classes
    own = classes if pool == "lse" else 0
    return HeadCost(norm + last + classes + own, s.tokens * last, kept + (4 * logits if pool == "lse" else 0))
