"""Cost of Galerkin attention."""

from __future__ import annotations

from softfree.attention.cost import AttentionCost, Shape, cast_bytes, float32_bytes


def galerkin_cost(s: Shape) -> AttentionCost:
    """Compute the cost for a shape."""
    norms = 16 * s.batch * s.heads * s.tokens
    return AttentionCost(
        parameters=4 * s.cc + 8 * s.width,
        kept_tensors=_kept_tensors(s),
        kept_bytes=norms + s.narrow * s.batch * s.cd + float32_bytes(s, 4) + cast_bytes(s, 4),
        inference_tensors=11 if s.narrow < 4 else 8,  # K and V in float32 in turn
    )


def _kept_tensors(s: Shape) -> int:
    """Count input, result, K and V normalized and scaled, and Q or, of one image, the whole projection."""
    if s.narrow < 4:
        return 5 if s.batch > 1 else 7
    return 10 if s.batch > 1 else 9  # LayerNorm keeps K and V, and with them the projection
