"""The tokens of a case: its images one after the other, each in the chunks of its own source."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from softfree.models.case import CaseTransformer
from softfree.models.vit import VisionTransformer
from softfree.models.vit3d import VolumeTransformer
from softfree.streaming.token_sources import ImageTokens, TokenSource
from softfree.streaming.volumes import VolumeTokens
from softfree_runtime.core.errors import UserError
from softfree_runtime.preprocessing.case import TOKENIZER


class CaseTokens:
    """A :class:`~softfree.streaming.token_sources.TokenSource` of a case; padding is left out.

    Args:
        model: Provides tokenizers and the codes of views, times and clinical variables.
        case: (R, F + 3), as the model takes it: a tensor or array.
        chunk: Approximate number of tokens per chunk; an image has at least one chunk.

    Raises:
        UserError: Another shape, or no image.
    """

    prefix = 0

    def __init__(self, model: CaseTransformer, case: Tensor | np.ndarray, chunk: int) -> None:
        rows = case if isinstance(case, Tensor) else torch.from_numpy(np.array(case))
        rows = rows[0] if rows.ndim == 3 and len(rows) == 1 else rows
        if rows.ndim != 2 or rows.shape[1] != model.row_width:
            raise UserError(f"Got a case of shape {tuple(rows.shape)}: expected (images, {model.row_width}).")
        self.model, self.rows = model, rows[~rows[:, TOKENIZER].isnan()]
        if not len(self.rows):
            raise UserError("Got a case without images: expected at least one; leave the sample out.")
        self.sources = [_source(model, row, chunk) for row in self.rows]
        self.chunks = [(image, own) for image, source in enumerate(self.sources) for own in range(len(source.sizes))]
        self.sizes = [self.sources[image].sizes[own] for image, own in self.chunks]
        of_tokenizers = [parameter for source in self.sources for parameter in source.parameters]
        self.parameters: list[nn.Parameter] = list(dict.fromkeys([*of_tokenizers, *_embeddings(model)]))

    def tokens(self, chunk: int) -> Tensor:
        """Compute the tokens (1, n, C) of a chunk, which lie in one image; differentiable in the parameters."""
        image, own = self.chunks[chunk]
        tokens, like = self.sources[image].tokens(own), self.model.case_embed.view.weight
        codes = self.model.codes(self.rows[image : image + 1].to(like.device, like.dtype))  # (1, C)
        return tokens + codes.unsqueeze(1).to(tokens.dtype)


def _embeddings(model: CaseTransformer) -> list[nn.Parameter]:
    of_variables = [] if model.variable_embed is None else [*model.variable_embed.parameters()]
    return [*model.case_embed.parameters(), *of_variables]


def _source(model: CaseTransformer, row: Tensor, chunk: int) -> TokenSource:
    """Return the source of one image (F + 3,)."""
    number = int(row[TOKENIZER])
    shape, tokenizer = model.image_shapes[number], model.tokenizer(number)
    pixels = row[: math.prod(shape)].unflatten(0, shape)
    if isinstance(tokenizer, VolumeTransformer):
        return VolumeTokens(tokenizer, pixels, chunk)
    assert isinstance(tokenizer, VisionTransformer)
    return ImageTokens(tokenizer, pixels, chunk)
