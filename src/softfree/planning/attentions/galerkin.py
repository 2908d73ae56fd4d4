"""What Galerkin attention costs."""

from __future__ import annotations

from softfree.planning.attentions.base import AttentionCost, cast, float32_sheets
from softfree.planning.shape import Shape


def _sheets(s: Shape) -> int:
    """Input, result, K and V normalized and scaled, and Q or, of one image, all of the projection it is part of."""
    if s.narrow < 4:
        return 5 if s.batch > 1 else 7
    return 10 if s.batch > 1 else 9  # LayerNorm keeps K and V, and so the projection


def _details(s: Shape) -> int:
    return 16 * s.batch * s.heads * s.tokens + s.narrow * s.batch * s.strip + float32_sheets(s, 4) + cast(s, 4)


COST = AttentionCost(
    parameters=lambda s: 4 * s.square + 8 * s.width,
    products=lambda s: 4 * s.tokens * s.square + 2 * s.tokens * s.strip,
    sheets=_sheets,
    details=_details,
    inference=lambda s: 11 if s.narrow < 4 else 8,  # one of K and V after the other in float32
)
