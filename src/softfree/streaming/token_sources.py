"""The tokens of a sample, chunk by chunk, differentiable in the tokenizer's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from softfree.models.pos_embed import resize_matrix
from softfree.models.vit import VisionTransformer
from softfree.streaming.image_rows import ArrayRows, Rows
from softfree_runtime.core.errors import UserError


@runtime_checkable
class TokenSource(Protocol):
    """The real tokens of one sample, in chunks; masked tokens are left out."""

    @property
    def sizes(self) -> Sequence[int]:
        """Number of tokens of each chunk, including prefix tokens."""
        ...

    @property
    def prefix(self) -> int:
        """Number of tokens at the front of the first chunk that are not pooled, such as a class token."""
        ...

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """Parameters that the tokens depend on."""
        ...

    def tokens(self, chunk: int) -> Tensor:
        """Compute the tokens (1, n, C) of a chunk, including positions; differentiable in the parameters."""
        ...


class ImageTokens:
    """Tokens of an image, in bands of whole token rows.

    A convolutional stem also reads the token rows above and below that its convolutions reach: its ``halo``.

    Args:
        model: Provides tokenizer, positions and class token.
        image: (channels, H, W) as an array or tensor, or :class:`~softfree.streaming.image_rows.Rows`.
        chunk: Approximate number of tokens per chunk, at least one row.
        mask: Boolean (N,) or (1, N), True for real patch tokens in raster order. Bands without any are never read.

    Raises:
        UserError: A mask of another size.
    """

    def __init__(
        self,
        model: VisionTransformer,
        image: Rows | Tensor | np.ndarray,
        chunk: int,
        mask: Tensor | None = None,
    ) -> None:
        self.model, self.patch = model, model.patch_size
        self.image = as_rows(image)
        height, width = self.image.shape[1:]
        self.grid = (-(-height // self.patch), -(-width // self.patch))
        self.mask = None if mask is None else self._check(mask)
        self.above, self.below = cast("tuple[int, int]", model.patch_embed.halo)
        self.prefix = model.num_prefix_tokens
        self.parameters = [
            *model.patch_embed.parameters(),
            *(p for p in (model.cls_token, model.pos_embed) if isinstance(p, nn.Parameter)),
        ]
        self._codes: BandPositions | None = None
        if model.pos_embed is not None:
            self._codes = BandPositions(model.pos_embed, model.grid_size, self.grid, self.prefix)
        rows = max(1, chunk // self.grid[1])
        self.bands = [(top, min(top + rows, self.grid[0])) for top in range(0, self.grid[0], rows)]
        self.bands = [band for band in self.bands if self._number(band)]
        if not self.bands and self.prefix:
            self.bands = [(0, 0)]
        self.sizes = [self._number(band) + self.prefix * (not at) for at, band in enumerate(self.bands)]

    def tokens(self, chunk: int) -> Tensor:
        """See :class:`TokenSource`."""
        top, bottom = self.bands[chunk]
        tensors: list[Tensor] = []
        if top < bottom:
            band = self._patches(top, bottom)
            if self._codes is not None:
                band = band + self._codes.band(top, bottom)
            tensors = [band if self.mask is None else band[:, self.mask[top:bottom].flatten()]]
        if self.prefix and not chunk:
            class_token = self.model.cls_token
            assert class_token is not None
            tensors.insert(0, class_token if self._codes is None else class_token + self._codes.prefix)
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=1)

    def _patches(self, top: int, bottom: int) -> Tensor:
        """Compute the tokens of the rows from ``top`` to ``bottom``, (1, rows w, C), without positions."""
        first, last = max(0, top - self.above), min(bottom + self.below, self.grid[0])
        like = self.parameters[0]
        pixels = self.image.read(first * self.patch, min(last * self.patch, self.image.shape[1]))
        mask = None if self.mask is None else self.mask[first:last].reshape(1, -1).to(like.device)
        tokens, _ = self.model.patch_embed(pixels.to(like.device, like.dtype).unsqueeze(0), mask)
        tokens = tokens[:, (top - first) * self.grid[1] : (bottom - first) * self.grid[1]]
        if self.model.cls_token is not None:  # as in memory, where types are promoted
            tokens = tokens.to(torch.promote_types(tokens.dtype, self.model.cls_token.dtype))
        return tokens

    def _number(self, band: tuple[int, int]) -> int:
        top, bottom = band
        return (bottom - top) * self.grid[1] if self.mask is None else int(self.mask[top:bottom].sum())

    def _check(self, mask: Tensor) -> Tensor:
        number = self.grid[0] * self.grid[1]
        if mask.dtype != torch.bool or mask.numel() != number:
            raise UserError(
                f"Got a mask {tuple(mask.shape)} of {mask.dtype} for an image {self.image.shape}: expected "
                f"{number} booleans, True for real tokens of the {self.grid[0]} x {self.grid[1]} grid."
            )
        return mask.reshape(self.grid)


def as_rows(image: Rows | Tensor | np.ndarray) -> Rows:
    """Wrap an array to be read in bands; other sources are returned unchanged."""
    if isinstance(image, Tensor | np.ndarray):
        return ArrayRows(image)
    return image


class BandPositions:
    """Position codes of some rows of a grid, resized as :func:`~softfree.models.pos_embed.resize_positions` does.

    Bicubic resizing is one matrix for the rows and one for the columns, so that the codes of the whole grid, as large
    as all tokens, are never materialized.

    Args:
        pos_embed: (1, P + h w, C) with P prefix tokens.
        old: Its grid (h, w).
        new: The target grid (h', w').
        num_prefix_tokens: P.
    """

    def __init__(self, pos_embed: Tensor, old: tuple[int, int], new: tuple[int, int], num_prefix_tokens: int) -> None:
        self.pos_embed, self.num_prefix_tokens, self.old, self.new = pos_embed, num_prefix_tokens, old, new
        self.resizing = None
        if old != new:
            self.resizing = tuple(
                resize_matrix(*sides, "bicubic", pos_embed.device).contiguous() for sides in zip(old, new, strict=True)
            )

    @property
    def prefix(self) -> Tensor:
        """The codes of the prefix tokens, (1, P, C)."""
        return self.pos_embed[:, : self.num_prefix_tokens]

    def band(self, top: int, bottom: int) -> Tensor:
        """Return the codes of the rows from ``top`` to ``bottom``, (1, rows w', C); differentiable."""
        codes = self.pos_embed[:, self.num_prefix_tokens :]
        if self.resizing is None:
            return codes[:, top * self.new[1] : bottom * self.new[1]]
        rows, columns = self.resizing
        with torch.autocast(codes.device.type, enabled=False):
            tall = rows[top:bottom] @ codes[0].float().reshape(self.old[0], -1)  # (n, w C)
            wide = columns @ tall.view(bottom - top, self.old[1], -1)  # (n, w', C)
        return wide.to(codes.dtype).flatten(0, 1).unsqueeze(0)
