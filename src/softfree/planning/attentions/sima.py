"""What SimA costs."""

from __future__ import annotations

from softfree.planning.attentions.base import AttentionCost, cast, heads_copied, widened_projection
from softfree.planning.shape import Shape


def _details(s: Shape) -> int:
    vectors = 5 * s.batch * s.width  # norms of the features
    small = vectors + s.batch * ((0 if s.batch == 1 else 1) * s.square + 2 * s.strip)
    return 4 * (small + widened_projection(s)) + s.narrow * s.batch * s.square + cast(s, 3)


COST = AttentionCost(
    parameters=lambda s: 4 * s.square + 4 * s.width,
    products=lambda s: 3 * s.tokens * s.square + s.tokens * s.strip + s.strip * s.width + s.tokens * s.square,
    sheets=lambda s: 4 + heads_copied(s),
    details=_details,
    inference=lambda s: 5 + heads_copied(s),
)
