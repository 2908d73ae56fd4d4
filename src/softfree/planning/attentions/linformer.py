"""What Linformer costs."""

from __future__ import annotations

from math import isqrt, prod

from softfree.attention import linformer
from softfree.planning.attentions.base import AttentionCost, float32_sheets, heads_copied, softmax_details
from softfree.planning.shape import Shape


def _products(s: Shape) -> int:
    side, (rows, columns) = isqrt(s.tokens), linformer.REFERENCE
    maps = linformer.LANDMARKS * (rows * columns * side + columns * side * side)
    return 4 * s.tokens * s.square + 4 * linformer.LANDMARKS * s.tokens * s.width + 2 * maps


def _details(s: Shape) -> int:
    resized = 2 * linformer.LANDMARKS * s.tokens + 2 * sum(linformer.REFERENCE) * isqrt(s.tokens)
    compressed = 2 * s.batch * linformer.LANDMARKS * s.width
    return 4 * (resized + compressed) + float32_sheets(s, 4) + softmax_details(s)


COST = AttentionCost(
    parameters=lambda s: 4 * s.square + 4 * s.width + 2 * linformer.LANDMARKS * prod(linformer.REFERENCE),
    products=_products,
    sheets=lambda s: 2 if s.narrow < 4 else 5 + heads_copied(s),
    details=_details,
    inference=lambda s: 12 if s.narrow < 4 else 6 + heads_copied(s),  # Q, K, V and the result in float32, too
)
