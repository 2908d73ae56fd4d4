"""What SOFT and SOFT++ cost."""

from __future__ import annotations

from dataclasses import replace
from math import isqrt, prod

from softfree.attention import soft
from softfree.planning.attentions.base import AttentionCost, cast, float32_sheets, windows_per_side
from softfree.planning.shape import Shape


def _products(s: Shape) -> int:
    side, windows = isqrt(s.tokens), windows_per_side(s, soft.LANDMARKS)
    m = prod(windows)
    means = s.width * (side * side * windows[0] + side * m)
    inverse = (2 * soft.ITERATIONS + 2) * s.heads * m**3  # and the residual
    return 3 * s.tokens * s.square + means + 3 * m * s.tokens * s.width + inverse + 2 * m * m * s.width


def _details(s: Shape) -> int:
    m = prod(windows_per_side(s, soft.LANDMARKS))
    kernels = s.heads * m * s.tokens + 4 * s.heads * m * m + 5 * m * s.width
    return 4 * s.batch * kernels + float32_sheets(s, 2) + cast(s, 3)


def _norm_details(s: Shape) -> int:
    m = prod(windows_per_side(s, soft.LANDMARKS))
    return _details(s) + 4 * s.batch * (2 * m * s.width + 2 * m * s.heads)


def _sheets(s: Shape) -> int:
    """Input, result, and in float32 the centered queries and V or, of one image, the projection it is part of."""
    return 2 if s.narrow < 4 else 4 if s.batch > 1 else 5


def _inference(s: Shape) -> int:
    kernels = -(-s.heads * prod(windows_per_side(s, soft.LANDMARKS)) // s.width)
    return 4 + (4 + kernels) * 4 // s.narrow


COST = AttentionCost(
    parameters=lambda s: 3 * s.square + 3 * s.width,
    products=_products,
    sheets=_sheets,
    details=_details,
    inference=_inference,
)
NORM = replace(COST, details=_norm_details)
