"""Cost of Linformer."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt, prod

from softfree.attention.cost import AttentionCost, Shape, copied_heads, float32_bytes, softmax_bytes


def linformer_cost(s: Shape, landmarks: int, reference: Sequence[int]) -> AttentionCost:
    """Compute the cost for a shape."""
    side = isqrt(s.tokens)
    maps = 2 * landmarks * s.tokens + 2 * sum(reference) * side
    compressed = 2 * s.batch * landmarks * s.width
    return AttentionCost(
        parameters=4 * s.cc + 4 * s.width + 2 * landmarks * prod(reference),
        kept_tensors=2 if s.narrow < 4 else 5 + copied_heads(s),
        kept_bytes=4 * (maps + compressed) + float32_bytes(s, 4) + softmax_bytes(s),
        inference_tensors=12 if s.narrow < 4 else 6 + copied_heads(s),  # Q, K, V and the result in float32, too
    )
