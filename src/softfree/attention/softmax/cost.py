"""Cost of softmax attention in a fused kernel, which never holds an N x N matrix."""

from __future__ import annotations

from softfree.attention.cost import AttentionCost, Shape, softmax_bytes


def softmax_cost(s: Shape) -> AttentionCost:
    """Compute the cost for a shape."""
    return AttentionCost(
        parameters=4 * s.cc + 4 * s.width,
        kept_tensors=5,
        kept_bytes=softmax_bytes(s),
        inference_tensors=6,
    )
