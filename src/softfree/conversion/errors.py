"""How far a converted network is from the one that it imitates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


@torch.no_grad()
def relative_error(function: Callable[[Tensor], Tensor], inputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Compare what a function gives with what it should.

    Args:
        function: From one of ``inputs`` to the shape of one of ``wanted``.
        inputs: Batches.
        wanted: Batches (..., C).

    Returns:
        |wanted - got| / |wanted - its mean over everything but C|: 1 is what the best constant reaches.
    """
    rows = sum(batch[..., 0].numel() for batch in wanted)
    mean = sum(batch.double().flatten(0, -2).sum(0) for batch in wanted) / rows  # (C,)
    off = sum((batch.double() - function(x)).square().sum() for x, batch in zip(inputs, wanted, strict=True))
    spread = sum((batch.double() - mean).square().sum() for batch in wanted)
    return float((torch.as_tensor(off) / torch.as_tensor(spread)).sqrt())
