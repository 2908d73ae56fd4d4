"""What Nyströmformer costs."""

from __future__ import annotations

from math import isqrt, prod

from softfree.attention import nystromformer
from softfree.planning.attentions.base import AttentionCost, float32_sheets, softmax_details, windows_per_side
from softfree.planning.shape import Shape


def _products(s: Shape) -> int:
    side, windows = isqrt(s.tokens), windows_per_side(s, nystromformer.LANDMARKS)
    m = prod(windows)
    means = 2 * s.width * (side * side * windows[0] + side * m)
    inverse = 4 * nystromformer.ITERATIONS * s.heads * m**3
    return 4 * s.tokens * s.square + means + 4 * m * s.tokens * s.width + inverse + 2 * m * m * s.width


def _details(s: Shape) -> int:
    m = prod(windows_per_side(s, nystromformer.LANDMARKS))
    matrices = (5 * nystromformer.ITERATIONS + 2) * s.heads * m * m
    means = 5 * m * s.width + 3 * m * s.heads
    return 4 * s.batch * (matrices + means) + float32_sheets(s, 4) + softmax_details(s)


COST = AttentionCost(
    parameters=lambda s: 4 * s.square + 4 * s.width,
    products=_products,
    sheets=lambda s: 2 if s.narrow < 4 else 5,
    details=_details,
    inference=lambda s: 12 if s.narrow < 4 else 6,
)
