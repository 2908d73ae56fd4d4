"""The tokens of a bag of tiles, a range of tiles at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from softfree.models.bag import BagTransformer
from softfree_runtime.core.errors import UserError


class BagTokens:
    """A :class:`~softfree.streaming.token_sources.TokenSource` of a bag; padding (NaN coordinates) is left out.

    Args:
        model: Provides tokenizer and class token.
        bag: (N, F + 3), F features and x, y, z of each tile, or (N, F + 5), as the model takes it: a tensor or array; a
            memory-mapped one is read in chunks.
        chunk: Tiles per chunk.

    Raises:
        UserError: Another shape, or no tile.
    """

    def __init__(self, model: BagTransformer, bag: Tensor | np.ndarray, chunk: int) -> None:
        if bag.ndim == 3 and len(bag) == 1:
            bag = bag[0]
        if bag.ndim != 2 or bag.shape[1] != model.row_width:
            raise UserError(f"Got a bag of shape {tuple(bag.shape)}: expected (tiles, {model.row_in_words()}")
        self.model, self.bag = model, bag
        self.real = ~_tensor(bag[:, -1]).isnan().cpu()
        if not self.real.any():
            raise UserError("Got a bag without tiles: expected at least one; leave the sample out.")
        self.grid, self.mask = (len(bag),), None if self.real.all() else self.real
        spans = [slice(start, start + chunk) for start in range(0, len(bag), chunk)]
        self.rows = [rows for rows in spans if self.real[rows].any()]
        self.prefix = model.num_prefix_tokens
        self.sizes = [int(self.real[rows].sum()) + self.prefix * (not at) for at, rows in enumerate(self.rows)]
        self.parameters = [*model.patch_embed.parameters(), *([] if model.cls_token is None else [model.cls_token])]

    def tokens(self, chunk: int) -> Tensor:
        """Compute the tokens (1, n, C) of a chunk; differentiable in the parameters."""
        rows, like = self.rows[chunk], self.parameters[0]
        tiles = _tensor(self.bag[rows])
        if not self.real[rows].all():
            tiles = tiles[self.real[rows].to(tiles.device)]
        tokens: Tensor = self.model.patch_embed(tiles.to(like.device, like.dtype).unsqueeze(0))
        class_token = self.model.cls_token
        if class_token is None:
            return tokens
        tokens = tokens.to(torch.promote_types(tokens.dtype, class_token.dtype))  # as in memory
        return tokens if chunk else torch.cat([class_token, tokens], dim=1)


def _tensor(values: Tensor | np.ndarray) -> Tensor:
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))  # a memory map may be read-only
