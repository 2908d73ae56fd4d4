"""Cost of Nyströmformer."""

from __future__ import annotations

from math import isqrt, prod

from softfree.attention.cost import AttentionCost, Shape, float32_bytes, softmax_bytes
from softfree.attention.grid import landmark_sides


def nystromformer_cost(s: Shape, landmarks: int, iterations: int) -> AttentionCost:
    """Compute the cost for a shape."""
    side = isqrt(s.tokens)
    windows = landmark_sides((side, side), landmarks)
    m = prod(windows)
    matrices = (5 * iterations + 2) * s.heads * m * m
    means = 5 * m * s.width + 3 * m * s.heads
    return AttentionCost(
        parameters=4 * s.cc + 4 * s.width,
        kept_tensors=2 if s.narrow < 4 else 5,
        kept_bytes=4 * s.batch * (matrices + means) + float32_bytes(s, 4) + softmax_bytes(s),
        inference_tensors=12 if s.narrow < 4 else 6,
    )
