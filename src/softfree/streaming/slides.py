"""The tokens of a slide with clinical variables: those of its pixels, with the codes of the variables."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from softfree.models.slide import SlideTransformer
from softfree.streaming.image_rows import Rows
from softfree.streaming.token_sources import ImageTokens, as_rows
from softfree_runtime.core.errors import UserError


class SlideTokens:
    """A :class:`~softfree.streaming.token_sources.TokenSource` of a slide with clinical variables.

    Args:
        model: Provides the tokenizer and the codes of the variables.
        slide: (channels + 1, H, W) as an array or tensor, or :class:`~softfree.streaming.image_rows.Rows`.
        chunk: Approximate number of tokens per chunk, at least one row.
        mask: As for :class:`~softfree.streaming.token_sources.ImageTokens`.

    Raises:
        UserError: Another number of channels, or a mask of another size.
    """

    def __init__(
        self, model: SlideTransformer, slide: Rows | Tensor | np.ndarray, chunk: int, mask: Tensor | None = None
    ) -> None:
        rows = as_rows(slide)
        if rows.shape[0] != model.in_chans + 1:
            raise UserError(f"Got a slide of shape {tuple(rows.shape)}: expected {model.in_chans + 1} channels.")
        self.model, self.image = model, ImageTokens(model, _Colors(rows), chunk, mask)
        self.sizes, self.prefix = self.image.sizes, self.image.prefix
        self.grid, self.mask = self.image.grid, self.image.mask
        self.parameters: list[nn.Parameter] = [*self.image.parameters, *model.variable_embed.parameters()]
        self.channel = rows.read(0, -(-model.num_variables // rows.shape[2]))[-1:]

    def tokens(self, chunk: int) -> Tensor:
        """Compute the tokens (1, n, C) of a chunk; differentiable in the parameters."""
        tokens, like = self.image.tokens(chunk), self.parameters[-1]
        codes = self.model.codes(self.channel.to(like.device, like.dtype))
        return tokens + codes.unsqueeze(1).to(tokens.dtype)


class _Colors:
    """Rows of a slide without the channel of its variables."""

    def __init__(self, rows: Rows) -> None:
        channels, height, width = rows.shape
        self.rows, self.shape = rows, (channels - 1, height, width)

    def read(self, top: int, bottom: int) -> torch.Tensor:
        return self.rows.read(top, bottom)[:-1]
