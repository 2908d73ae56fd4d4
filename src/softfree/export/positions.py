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
    codes = pos_embed[0, prefix:]  # (h w, C)
    width = codes.shape[1]
    # Plain products of two matrices: OpenVINO stumbles over a constant batch of them.
    codes = _weights(old[0], rows, codes) @ codes.reshape(old[0], -1)  # (h', w C)
    codes = codes.reshape(rows, old[1], width).transpose(0, 1).reshape(old[1], -1)  # (w, h' C)
    codes = _weights(old[1], columns, codes) @ codes  # (w', h' C)
    resized = codes.reshape(columns, rows, width).transpose(0, 1).reshape(1, -1, width)
    return resized if not prefix else torch.cat([pos_embed[:, :prefix], resized], dim=1)


def _weights(old: int, new: int, like: Tensor) -> Tensor:
    """Weights (new, old) of bicubic resizing that averages over what a larger step covers."""
    scale = old / (like.new_ones(()) * new)
    reach = scale.clamp_min(1.0)
    centre = (torch.arange(new, device=like.device, dtype=like.dtype) + 0.5) * scale  # (new,)
    places = torch.arange(old, device=like.device, dtype=like.dtype) + 0.5
    distance = ((places - centre[:, None]) / reach).abs()
    near = ((A + 2) * distance - (A + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * A - 4 * A
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weights / weights.sum(1, keepdim=True)
