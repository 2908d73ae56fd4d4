"""What an attention method costs, and the terms that several have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt

from softfree.attention.grid import landmark_sides
from softfree.planning.shape import Shape


@dataclass(frozen=True)
class AttentionCost:
    """One attention method, each as a function of the shape.

    Attributes:
        parameters: Parameters of an attention module.
        products: Multiply-adds for one image.
        sheets: Tensors of B N C numbers that are kept for backward, the layer's input among them.
        details: Bytes kept beside them: statistics, small matrices, casts of weights.
        inference: Tensors of B N C numbers at once in inference, the layer's input among them.
    """

    parameters: Callable[[Shape], int]
    products: Callable[[Shape], int]
    sheets: Callable[[Shape], int]
    details: Callable[[Shape], int]
    inference: Callable[[Shape], int]


def heads_copied(s: Shape) -> int:
    """Copies of K and V: the heads of several images are no plain stack of matrices, those of one image are."""
    return 2 if s.batch > 1 else 0


def cast(s: Shape, squares: int) -> int:
    """Bytes of C x C weights that autocast has cast."""
    return 2 * squares * s.square if s.autocast else 0


def float32_sheets(s: Shape, sheets: int) -> int:
    """Bytes of tensors that are kept in float32 because the method computes in it; in float32 they are no others."""
    return 4 * sheets * s.sheet if s.narrow < 4 else 0


def windows_per_side(s: Shape, landmarks: int) -> tuple[int, ...]:
    """Windows along each side of a square grid."""
    return landmark_sides((isqrt(s.tokens),) * 2, landmarks)


def widened_projection(s: Shape) -> int:
    """Numbers of the output projection, copied in float32 for the products of statistics."""
    return s.square if s.stream < 4 and s.batch == 1 else 0


def softmax_details(s: Shape) -> int:
    """Bytes of the log-sum-exp of each row, and of the casts of all weights."""
    return 4 * s.batch * s.heads * s.tokens + cast(s, 4)
