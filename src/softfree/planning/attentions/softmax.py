"""What softmax attention costs where it makes no N x N matrix."""

from __future__ import annotations

from softfree.planning.attentions.base import AttentionCost, softmax_details

COST = AttentionCost(
    parameters=lambda s: 4 * s.square + 4 * s.width,
    products=lambda s: 4 * s.tokens * s.square + 2 * s.tokens**2 * s.width,
    sheets=lambda s: 5,
    details=softmax_details,
    inference=lambda s: 6,
)
