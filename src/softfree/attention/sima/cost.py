"""Cost of SimA."""

from __future__ import annotations

from softfree.attention.cost import AttentionCost, Shape, cast_bytes, copied_heads, widened_projection


def sima_cost(s: Shape) -> AttentionCost:
    """Compute the cost for a shape."""
    vectors = 5 * s.batch * s.width  # norms of the features
    small = vectors + s.batch * ((0 if s.batch == 1 else 1) * s.cc + 2 * s.cd)
    return AttentionCost(
        parameters=4 * s.cc + 4 * s.width,
        kept_tensors=4 + copied_heads(s),
        kept_bytes=4 * (small + widened_projection(s)) + s.narrow * s.batch * s.cc + cast_bytes(s, 3),
        inference_tensors=5 + copied_heads(s),
    )
