"""Where SeqNorm's scales and shifts begin: the paper does not say, and it decides how well the attention learns.

At gamma = 1 and beta = 0 each output is a random projection of deviation about sqrt(D / N), where softmax starts as a
quiet average; and with beta_q = 0 the output has mean zero over the tokens, so that nothing global reaches an
average-pooling head in one layer. See docs/explanation/recipe.md for what was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from softfree_runtime.core.errors import unknown_name


class Start(NamedTuple):
    """Scale and shift of Q and shift of K for all features; gamma_k = gamma_v = 1 and beta_v = 0."""

    gamma_q: float
    beta_q: float
    beta_k: float


# By the width D of a head.
STARTS: dict[str, Callable[[int], Start]] = {
    # As batch normalization starts.
    "unit": lambda width: Start(1.0, 0.0, 0.0),
    # Softmax's scale of the scores.
    "scaled": lambda width: Start(width**-0.5, 0.0, 0.0),
    # The same, with a road for the mean.
    "open": lambda width: Start(width**-0.5, 0.2, 0.2),
    # beta_q . beta_k = 1: the weights are (1 + s) / N with scores s = q' . k^, softmax's to first order.
    "first_order": lambda width: Start(width**-0.5, 1.0, 1.0 / width),
    # The same with all parts of s of deviation 1.
    "balanced": lambda width: Start(width**-0.5, width**-0.5, width**-0.5),
}


def choose_start(name: str, width: int) -> Start:
    """Look up a start for heads of ``width`` features.

    Raises:
        UserError: an unknown name.
    """
    if name not in STARTS:
        raise unknown_name("start of SeqNormAttention:", name, STARTS)
    return STARTS[name](width)
