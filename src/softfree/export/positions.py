"""Position codes resized inside a graph, to a grid that is known only when the graph runs."""

from __future__ import annotations

import torch
from torch import Tensor

# Of the cubic kernel (Keys 1981), as torch has it where it antialiases.
A = -0.5


def resize_positions(pos_embed: Tensor, old: tuple[int, int], rows: int, columns: int, prefix: int) -> Tensor:
    """Give what :func:`softfree.models.positions.resize_positions` gives, as two products with matrices of weights.

    Torch's own resizing exports for one size only: its weights are made by a loop that no graph holds. The kernel is
    the same for rows and columns, so that a matrix for each is enough: ``codes' = R codes C^T``. An equal grid gives
    the identity to the last bit.

    Args:
        pos_embed: (1, P + h w, C).
        old: The grid (h, w) of ``pos_embed``.
        rows: h' of the grid that is wanted; may be symbolic.
        columns: w', likewise.
        prefix: P.

    Returns:
        (1, P + h' w', C).
    """
    codes = pos_embed[0, prefix:].unflatten(0, old).permute(2, 0, 1)  # (C, h, w)
    down, across = _weights(old[0], rows, codes), _weights(old[1], columns, codes)
    resized = (down @ codes @ across.mT).flatten(1).mT.unsqueeze(0)  # (1, h' w', C)
    return resized if not prefix else torch.cat([pos_embed[:, :prefix], resized], dim=1)


def _weights(old: int, new: int, like: Tensor) -> Tensor:
    """Weights (new, old) of bicubic resizing that averages over what a larger step covers."""
    made = {"device": like.device, "dtype": like.dtype}
    scale = old / (torch.ones((), **made) * new)
    reach = scale.clamp_min(1.0)
    centre = (torch.arange(new, **made) + 0.5) * scale  # (new,)
    distance = ((torch.arange(old, **made) + 0.5 - centre[:, None]) / reach).abs()
    near = ((A + 2) * distance - (A + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * A - 4 * A
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weights / weights.sum(1, keepdim=True)
