"""What Performer costs."""

from __future__ import annotations

from softfree.attention.performer import default_features
from softfree.planning.attentions.base import AttentionCost, cast, float32_sheets
from softfree.planning.shape import Shape


def _features(s: Shape) -> int:
    """Features of the queries of one image: H N M."""
    return s.heads * s.tokens * default_features(s.width // s.heads)


def _details(s: Shape) -> int:
    features = default_features(s.width // s.heads)
    sums = s.batch * features * (s.width + s.heads) + 2 * features * s.width // s.heads
    rows = 5 * s.batch * s.heads * s.tokens
    return 4 * (2 * s.batch * _features(s) + sums) + rows + float32_sheets(s, 4) + cast(s, 4)


def _inference(s: Shape) -> int:
    # Features of the queries, and three stages of those of the keys; Q, K and V in float32.
    sheets = 4 * -(-_features(s) // (s.tokens * s.width)) + (3 if s.narrow < 4 else 0)
    return 4 + sheets * 4 // s.narrow


COST = AttentionCost(
    parameters=lambda s: 4 * s.square + 4 * s.width,
    products=lambda s: 4 * s.tokens * s.square + 4 * _features(s) * (s.width // s.heads) + _features(s),
    sheets=lambda s: 2 if s.narrow < 4 else 7 if s.batch > 1 else 6,
    details=_details,
    inference=_inference,
)
