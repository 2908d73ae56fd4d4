"""Closed forms of what each attention method costs: parameters, products, bytes kept for backward.

Every number follows from the shapes, see :class:`~softfree.planning.shape.Shape`. One file describes a method; a method
without one is refused with a message.
"""

from __future__ import annotations

from softfree.planning.attentions import galerkin, linformer, nystromformer, performer, seqnorm, sima, soft, softmax
from softfree.planning.attentions.base import AttentionCost
from softfree_runtime.core.errors import UserError

ATTENTIONS: dict[str, AttentionCost] = {
    "seqnorm": seqnorm.COST,
    "sima": sima.COST,
    "softmax": softmax.COST,
    "soft": soft.COST,
    "soft_norm": soft.NORM,
    "performer": performer.COST,
    "linformer": linformer.COST,
    "nystromformer": nystromformer.COST,
    "galerkin": galerkin.COST,
}


def attention_cost(name: str) -> AttentionCost:
    """Look up the formulas of an attention method.

    Raises:
        UserError: a method that has none.
    """
    if name not in ATTENTIONS:
        raise UserError(
            f"Got attention {name!r}, which has no formula for its memory: expected one of {', '.join(ATTENTIONS)}."
        )
    return ATTENTIONS[name]
