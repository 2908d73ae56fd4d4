"""Which order is the fastest for an input, as `softfree-lab bench orders` measured it."""

from __future__ import annotations

import torch
from torch import Tensor

# Tokens per feature from which the Gram order is ahead: it does work of C^3 that does not depend on N. This is the
# median of what `softfree-lab bench orders` found on a CPU for widths of 192, 384 and 768, forward and backward, in
# float32 and bfloat16; single cases lie between 1.3 and 4.4, and near the crossing either order is a good one.
GRAM_FROM = 2.5


def choose_order(x: Tensor) -> str:
    """Choose "folded" or "gram" for tokens (B, N, C)."""
    # An exported graph is for any number of tokens, and long sequences are what it is made for.
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return "gram"
    return "gram" if x.shape[1] >= GRAM_FROM * x.shape[2] else "folded"
