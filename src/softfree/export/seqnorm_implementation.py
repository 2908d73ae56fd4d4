"""The order in which an exported SeqNorm attention is evaluated: one a graph, the faster at the size of the run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from softfree.attention import SeqNormAttention


@contextlib.contextmanager
def orders_for(model: nn.Module, tokens: int) -> Iterator[None]:
    """Let each SeqNorm attention that may choose its order take the one for so many tokens, whatever a tracer shows it.

    Either order gives the same logits at any number of tokens; only the speed differs.
    """
    free = [part for part in model.modules() if isinstance(part, SeqNormAttention) and part.order == "auto"]
    for part in free:
        width = part.num_heads * part.head_dim
        part.order = part.order_for(torch.empty(1, tokens, width, device="meta"))  # type: ignore[assignment]
    try:
        yield
    finally:
        for part in free:
            part.order = "auto"
