"""What SeqNorm costs in the order of evaluation that it would choose."""

from __future__ import annotations

from softfree.attention.seqnorm.rule import GRAM_FROM
from softfree.planning.attentions.base import AttentionCost, cast, heads_copied, widened_projection
from softfree.planning.shape import Shape


def is_gram(s: Shape) -> bool:
    """Whether SeqNorm takes the Gram order; the rule is that of ``choose_order``."""
    return s.tokens >= GRAM_FROM * s.width


def _products(s: Shape) -> int:
    n, c, square, strip = s.tokens, s.width, s.square, s.strip
    if is_gram(s):
        # S and its shift, W S, Cov(K, V), beta_q M, M Wo and its constant, W_q^T R, the shift of c, X A
        project = square * (s.width // s.heads) + square
        return n * square + square + 3 * c**3 + c * strip + strip + project + c**3 + square + n * square
    return 3 * n * square + n * strip + strip + n * strip + n * square  # Q K V, K^T V, beta_q M, Q M, Wo


def _details(s: Shape) -> int:
    vectors = 16 * s.batch * s.width  # statistics and scales of the features
    if is_gram(s):
        small = vectors + s.batch * ((7 if s.batch == 1 else 10) * s.square + 3 * s.strip)
        widened = 3 * s.square if s.stream < 4 else 0  # the projection to Q, K and V
        return 4 * (small + widened + widened_projection(s))
    return 4 * (vectors + s.batch * 3 * s.strip) + s.narrow * s.batch * s.strip + cast(s, 4)


COST = AttentionCost(
    parameters=lambda s: 4 * s.square + 7 * s.width,  # no bias on Q, K, V; gamma and beta of each
    products=_products,
    sheets=lambda s: 1 if is_gram(s) else 5 + (3 if s.batch > 1 else 0),  # in a batch Q, too, is copied
    details=_details,
    inference=lambda s: 2 if is_gram(s) else 6 + heads_copied(s),
)
