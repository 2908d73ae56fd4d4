"""Cost of SOFT and SOFT++."""

from __future__ import annotations

from math import isqrt, prod

from softfree.attention.cost import AttentionCost, Shape, cast_bytes, float32_bytes
from softfree.attention.grid import landmark_sides


def soft_cost(s: Shape, landmarks: int, iterations: int, normalized: bool) -> AttentionCost:
    """Compute the cost for a shape; ``normalized`` for SOFT++."""
    side = isqrt(s.tokens)
    windows = landmark_sides((side, side), landmarks)
    m = prod(windows)
    kernels = s.heads * m * s.tokens + 4 * s.heads * m * m + 5 * m * s.width
    scaled = 2 * m * s.width + 2 * m * s.heads if normalized else 0
    return AttentionCost(
        parameters=3 * s.cc + 3 * s.width,
        # Input, result, and in float32 the centered queries and V or, of one image, the whole projection.
        kept_tensors=2 if s.narrow < 4 else 4 if s.batch > 1 else 5,
        kept_bytes=4 * s.batch * (kernels + scaled) + float32_bytes(s, 2) + cast_bytes(s, 3),
        inference_tensors=4 + (4 + -(-s.heads * m // s.width)) * 4 // s.narrow,
    )
