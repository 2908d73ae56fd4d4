"""Token-wise work in parts, so that the wide inside of an MLP never exists for all tokens at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from softfree.attention.base import PART, plain_only


def by_rows(function: Callable[[Tensor], Tensor], x: Tensor, widest: int, rows: int | None = None) -> Tensor:
    """Apply ``function``, which maps each token by itself, to all tokens of ``x``.

    Without gradients a CPU takes as many tokens at once as its cache holds, which is the faster; any device takes
    ``rows`` at once if they are given. With gradients ``rows`` at once are computed again in the backward pass, so that
    only the inputs are kept; without ``rows`` all tokens are taken at once.

    Args:
        function: From (1, n, C) to (1, n, C).
        x: Tokens (B, N, C).
        widest: Features of the widest tensor inside ``function``.
        rows: Tokens at once, or None for the rule above.

    Returns:
        (B, N, C).
    """
    training = torch.is_grad_enabled()
    if rows is None and not training and x.device.type == "cpu":
        rows = max(256, PART // widest)
    whole = plain_only() or torch.jit.is_tracing()
    if rows is None or whole or x.shape[0] * x.shape[1] <= rows:
        return function(x)
    tokens = x.flatten(0, 1).unsqueeze(0)  # (1, B N, C)
    parts = tokens.split(rows, dim=1)
    if training:
        done = [checkpoint(function, part, use_reentrant=False) for part in parts]
        return torch.cat(done, dim=1).view_as(x)
    first = function(parts[0])
    out = first.new_empty(tokens.shape)
    out[:, :rows] = first
    for number, part in enumerate(parts[1:], start=1):
        out[:, number * rows : number * rows + part.shape[1]] = function(part)
    return out.view_as(x)
