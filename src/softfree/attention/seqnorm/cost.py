"""Cost of SeqNorm in the order that it would choose."""

from __future__ import annotations

from softfree.attention.cost import AttentionCost, Shape, cast_bytes, copied_heads, widened_projection


def seqnorm_cost(s: Shape, gram: bool) -> AttentionCost:
    """Compute the cost for a shape, in the Gram order or else the folded one."""
    return AttentionCost(
        parameters=4 * s.cc + 7 * s.width,  # no bias on Q, K, V; gamma and beta of each
        kept_tensors=1 if gram else 5 + (3 if s.batch > 1 else 0),  # in a batch Q is copied, too
        kept_bytes=_kept_bytes(s, gram),
        inference_tensors=2 if gram else 6 + copied_heads(s),
        implementation="gram" if gram else "folded",
    )


def _kept_bytes(s: Shape, gram: bool) -> int:
    vectors = 16 * s.batch * s.width  # statistics and scales of the features
    if gram:
        small = vectors + s.batch * ((7 if s.batch == 1 else 10) * s.cc + 3 * s.cd)
        widened = 3 * s.cc if s.stream < 4 else 0  # the projection to Q, K and V
        return 4 * (small + widened + widened_projection(s))
    return 4 * (vectors + s.batch * 3 * s.cd) + s.narrow * s.batch * s.cd + cast_bytes(s, 4)
