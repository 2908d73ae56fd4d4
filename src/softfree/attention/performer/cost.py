"""Cost of Performer."""

from __future__ import annotations

from softfree.attention.cost import AttentionCost, Shape, cast_bytes, float32_bytes


def performer_cost(s: Shape, features: int) -> AttentionCost:
    """Compute the cost for a shape, with M ``features``."""
    mapped = s.heads * s.tokens * features  # H N M, the features of one image's queries
    sums = s.batch * features * (s.width + s.heads) + 2 * features * s.width // s.heads
    rows = 5 * s.batch * s.heads * s.tokens
    # Features of the queries, and three stages of those of the keys; Q, K and V in float32.
    wide = 4 * -(-mapped // (s.tokens * s.width)) + (3 if s.narrow < 4 else 0)
    return AttentionCost(
        parameters=4 * s.cc + 4 * s.width,
        kept_tensors=2 if s.narrow < 4 else 7 if s.batch > 1 else 6,
        kept_bytes=4 * (2 * s.batch * mapped + sums) + rows + float32_bytes(s, 4) + cast_bytes(s, 4),
        inference_tensors=4 + wide * 4 // s.narrow,
    )
