"""Transformers over all images of a case: their tokens stand in one sequence, with embeddings of view and time.

The cost of softmax-free attention is linear in the tokens, so several images cost what each costs alone, and a missing
one, without tokens, costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from softfree.attention.base import plain_only, transformed
from softfree.models.case_embed import CaseEmbed
from softfree.models.classifier import Classifier
from softfree.models.vit import VisionTransformer
from softfree.models.vit3d import VolumeTransformer
from softfree_runtime.core.errors import UserError
from softfree_runtime.preprocessing.case import HEADER, TIME, VIEW


class CaseTransformer(Classifier):
    """Base of models of cases, next to that of a single image, whose tokenizer, positions, encoder and head it uses.

    The result does not depend on the order of the images, unless the attention has landmarks along the sequence.

    Args:
        shape: Shape of an image, channels first.
        views: Number of known views; 0 is any other.
        timed: Embed the times of the images.
        **options: Keywords of the model of a single image.

    Raises:
        UserError: A class token, or ``pos_conv``: both need the grid of a single image.
    """

    def __init__(self, shape: Sequence[int], views: int = 0, timed: bool = False, **options: Any) -> None:
        super().__init__(**options)
        if self.num_prefix_tokens:
            raise UserError("Got a class token for cases of several images: expected pool avg, topk or mean_topk.")
        if options.get("pos_conv"):
            raise UserError("Got pos_conv=True for cases of several images, which have no common grid: leave it out.")
        self.image_shape = tuple(shape)
        self.case_embed = CaseEmbed(self.embed_dim, views, timed)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Classify cases (B, R, F + 3), as :mod:`softfree_runtime.preprocessing.case` prepares them: logits (B, K).

        Raises:
            UserError: A wrong shape, a case without images, or a mask, which follows from the cases.
        """
        _refuse_mask(mask)
        tokens, mask = self.embed_cases(x)
        return self.forward_head(self.norm(self.blocks(tokens, mask)), mask)

    def forward_features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the tokens (B, R N, C) after the last block (and ``norm``)."""
        _refuse_mask(mask)
        return cast(Tensor, self.norm(self.blocks(*self.embed_cases(x))))

    def embed_cases(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the input of the first block: tokens (B, R N, C), and their mask (B, R N) if there is padding."""
        values = math.prod(self.image_shape)
        if x.ndim != 3 or x.shape[2] != values + HEADER:
            raise UserError(
                f"Got cases of shape {tuple(x.shape)}: expected (batch, images, {values + HEADER}), the pixels of an"
                f" image of shape {self.image_shape}, its view, its time and 0."
            )
        batch, number = x.shape[:2]
        present = ~x[..., -1].isnan()  # (B, R)
        # An exported graph takes cases without padding; a model on the meta device has no values to look at.
        if plain_only() or torch.jit.is_tracing() or x.is_meta or bool(present.all()):
            tokens = self._embed_images(x.flatten(0, 1)).unflatten(0, (batch, number))
            return tokens.flatten(1, 2), None
        if not bool(present.any(dim=1).all()):
            raise UserError("Got a case without images: expected at least one; leave the sample out.")
        real = self._embed_images(x[present])  # (n, N, C)
        tokens = real.new_zeros(batch, number, *real.shape[1:])
        tokens[present] = real
        mask = present.unsqueeze(2).expand(-1, -1, real.shape[1])
        return tokens.flatten(1, 2), mask.flatten(1, 2)

    def _embed_images(self, rows: Tensor) -> Tensor:
        """Embed images (n, F + 3): tokens (n, N, C) with positions, view and time."""
        tokens = self._tokens(rows[:, :-HEADER].unflatten(1, self.image_shape))
        codes = self.case_embed(rows[:, VIEW], rows[:, TIME])  # (n, C)
        return tokens + codes.unsqueeze(1).to(tokens.dtype)

    def _tokens(self, pixels: Tensor) -> Tensor:
        """Tokenize images; one by one where activations are recomputed, since those of a stem are large."""
        if not (self.blocks.grad_checkpointing and torch.is_grad_enabled()) or transformed():
            return cast(Tensor, self.embed(pixels)[0])  # type: ignore[operator]

        def tokens_of(image: Tensor) -> Tensor:
            return cast(Tensor, self.embed(image)[0])  # type: ignore[operator]

        return torch.cat([checkpoint(tokens_of, image, use_reentrant=False) for image in pixels.split(1)])

    def no_weight_decay(self) -> set[str]:
        """See :class:`~softfree.models.classifier.Classifier`."""
        return super().no_weight_decay() | {"case_embed.view.weight"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """See :class:`~softfree.models.classifier.Classifier`."""
        groups = super().group_matcher(coarse)
        return groups | {"stem": rf"{groups['stem']}|^case_embed"}


def _refuse_mask(mask: Tensor | None) -> None:
    if mask is not None:
        raise UserError("Got a mask for cases of several images: expected none; padding has the time and view NaN.")


class ImageCaseTransformer(CaseTransformer, VisionTransformer):
    """A model of cases of several images."""


class VolumeCaseTransformer(CaseTransformer, VolumeTransformer):
    """A model of cases of several volumes."""


CASE_MODELS: dict[type[nn.Module], type[CaseTransformer]] = {
    VisionTransformer: ImageCaseTransformer,
    VolumeTransformer: VolumeCaseTransformer,
}
"""Model of cases by the model of a single image."""
