"""Transformers over all images of a case: their tokens stand in one sequence, with embeddings of view, time and
clinical variables.

The cost of softmax-free attention is linear in the tokens, so several images cost what each costs alone, and a missing
one, without tokens, costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from softfree.attention.base import plain_only, transformed
from softfree.models.case_embed import CaseEmbed
from softfree.models.classifier import Classifier
from softfree.models.tokenizers import create_tokenizer
from softfree.models.variables import VariableEmbedding
from softfree.models.vit import VisionTransformer
from softfree.models.vit3d import VolumeTransformer
from softfree_runtime.core.errors import UserError
from softfree_runtime.preprocessing.case import HEADER, TIME, TOKENIZER, VIEW


class CaseTransformer(Classifier):
    """Base of models of cases, next to that of a single image, whose tokenizer, positions, encoder and head it uses.

    The result does not depend on the order of the images, unless the attention has landmarks along the sequence.

    Args:
        shape: Shape of an image, channels first.
        views: Number of known views; 0 is any other.
        timed: Embed the times of the images.
        variables: Clinical variables, as :class:`~softfree.models.variables.VariableEmbedding` takes them.
        others: Further tokenizers, of images of another kind or shape: ``kind`` (image or volume), ``shape``, and
            keywords of :class:`~softfree.models.vit.VisionTransformer` or
            :class:`~softfree.models.vit3d.VolumeTransformer` for tokenizer and positions.
        **options: Keywords of the model of a single image.

    Raises:
        UserError: A class token, or ``pos_conv``: both need the grid of a single image.
    """

    def __init__(
        self,
        shape: Sequence[int],
        views: int = 0,
        timed: bool = False,
        variables: Sequence[Mapping[str, float]] = (),
        others: Sequence[Mapping[str, Any]] = (),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if self.num_prefix_tokens:
            raise UserError("Got a class token for cases: expected pool avg, topk or mean_topk.")
        if options.get("pos_conv"):
            raise UserError("Got pos_conv=True for cases, whose images have no common grid: leave it out.")
        self.case_embed = CaseEmbed(self.embed_dim, views, timed)
        self.image_shapes = [tuple(shape), *(tuple(other["shape"]) for other in others)]
        self.variable_embed = VariableEmbedding(variables, self.embed_dim) if variables else None
        self.num_variables, self.image_values = len(variables), max(map(math.prod, self.image_shapes))
        self.row_width = self.image_values + self.num_variables + HEADER
        self.tokenizers = nn.ModuleList(
            create_tokenizer(embed_dim=self.embed_dim, stem=options.get("stem", "patch"), **other) for other in others
        )

    def tokenizer(self, number: int) -> Classifier:
        """Return the module that embeds the images of a tokenizer: the model itself, or a further one."""
        return cast(Classifier, self.tokenizers[number - 1]) if number else self

    def grids(self, case: Tensor) -> list[tuple[int, ...]]:
        """Return the grid of the tokens of each image of a case (R, F + V + 3), without padding."""
        numbers = case[:, TOKENIZER]
        return [self.grid_of(int(number)) for number in numbers[~numbers.isnan()].tolist()]

    def grid_of(self, number: int) -> tuple[int, ...]:
        """Return the grid of the tokens of an image of a tokenizer."""
        sides, patch = self.image_shapes[number][1:], cast(Any, self.tokenizer(number).patch_size)
        patches = (patch,) * len(sides) if isinstance(patch, int) else patch
        return tuple(-(-side // part) for side, part in zip(sides, patches, strict=True))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Classify cases (B, R, F + V + 3), as :mod:`softfree_runtime.preprocessing.case` prepares them: logits (B, K).

        Raises:
            UserError: A wrong shape, a case without images, or a mask, which follows from the cases.
        """
        _refuse_mask(mask)
        tokens, mask = self.embed_cases(x)
        return self.forward_head(self.norm(self.blocks(tokens, mask)), mask)

    def forward_features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the tokens (B, N, C) of all images after the last block (and ``norm``)."""
        _refuse_mask(mask)
        return cast(Tensor, self.norm(self.blocks(*self.embed_cases(x))))

    def embed_cases(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Compute the input of the first block: tokens (B, N, C), image after image, and their mask (B, N), if any."""
        if x.ndim != 3 or x.shape[2] != self.row_width:
            sizes = " or ".join(map(str, self.image_shapes))
            raise UserError(
                f"Got cases of shape {tuple(x.shape)}: expected (batch, images, {self.row_width}), the pixels of an"
                f" image of shape {sizes}, {self.num_variables} clinical variables, the numbers of its view, its time"
                " and the number of its tokenizer."
            )
        # An exported graph takes cases without padding; a model on the meta device has no values to look at.
        if plain_only() or torch.jit.is_tracing() or x.is_meta:
            return self._embed_by_all(x)
        present = ~x[..., TOKENIZER].isnan()  # (B, R)
        if not bool(present.any(dim=1).all()):
            raise UserError("Got a case without images: expected at least one; leave the sample out.")
        numbers = x[present][:, TOKENIZER].long() if len(self.image_shapes) > 1 else None
        if numbers is not None and not bool(((numbers >= 0) & (numbers < len(self.image_shapes))).all()):
            raise UserError(f"Got a number of a tokenizer above {len(self.image_shapes) - 1}: prepare the case anew.")
        if numbers is None and bool(present.all()):
            return self._embed_by_all(x)
        return self._packed(x[present], present.nonzero()[:, 0], numbers, len(x))

    def _packed(self, rows: Tensor, cases: Tensor, numbers: Tensor | None, batch: int) -> tuple[Tensor, Tensor | None]:
        """Embed images (n, F + V + 3) of cases (n,) by tokenizers (n,); the tokens of each case stand without gaps."""
        numbers = torch.zeros_like(cases) if numbers is None else numbers
        own = [(numbers == number).nonzero()[:, 0] for number in range(len(self.image_shapes))]
        parts = {number: self._embed_images(rows[at], number) for number, at in enumerate(own) if len(at)}
        lengths = torch.zeros_like(cases)
        for number, part in parts.items():
            lengths[own[number]] = part.shape[1]
        totals = torch.zeros(batch, dtype=torch.long, device=cases.device).index_add(0, cases, lengths)
        longest = int(totals.max())
        starts = lengths.cumsum(0) - lengths - (totals.cumsum(0) - totals)[cases] + longest * cases
        some = next(iter(parts.values()))
        tokens = some.new_zeros(batch * longest, self.embed_dim)
        for number, part in parts.items():
            at = starts[own[number]].unsqueeze(1) + torch.arange(part.shape[1], device=cases.device)
            tokens = tokens.index_copy(0, at.flatten(), part.flatten(0, 1))
        mask = torch.arange(longest, device=cases.device) < totals.unsqueeze(1)
        return tokens.unflatten(0, (batch, longest)), None if bool(mask.all()) else mask

    def _embed_by_all(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embed each image by each tokenizer, and mask the tokens that are not of its own."""
        size, rows = x.shape[:2], x.flatten(0, 1)
        parts = [self._embed_images(rows, number).unflatten(0, size) for number in range(len(self.image_shapes))]
        if len(parts) == 1:
            return parts[0].flatten(1, 2), None
        masks = [
            (x[..., TOKENIZER] == number).unsqueeze(2).expand(-1, -1, part.shape[2])
            for number, part in enumerate(parts)
        ]
        return torch.cat(parts, dim=2).flatten(1, 2), torch.cat(masks, dim=2).flatten(1, 2)

    def _embed_images(self, rows: Tensor, number: int) -> Tensor:
        """Embed images (n, F + V + 3) of a tokenizer: tokens (n, N, C) with positions, view and time."""
        shape = self.image_shapes[number]
        tokens = self._tokens(rows[:, : math.prod(shape)].unflatten(1, shape), number)
        return tokens + self.codes(rows).unsqueeze(1).to(tokens.dtype)

    def codes(self, rows: Tensor) -> Tensor:
        """Return the codes (n, C) of view, time and clinical variables of images (n, F + V + 3)."""
        codes = self.case_embed(rows[:, VIEW], rows[:, TIME])
        if self.variable_embed is not None:
            codes = codes + self.variable_embed(rows[:, self.image_values :][:, : self.num_variables])
        return cast(Tensor, codes)

    def _tokens(self, pixels: Tensor, number: int) -> Tensor:
        """Tokenize images; one by one where activations are recomputed, since those of a stem are large."""
        embed: Any = self.tokenizer(number).embed
        if not (self.blocks.grad_checkpointing and torch.is_grad_enabled()) or transformed():
            return cast(Tensor, embed(pixels)[0])

        def tokens_of(image: Tensor) -> Tensor:
            return cast(Tensor, embed(image)[0])

        return torch.cat([checkpoint(tokens_of, image, use_reentrant=False) for image in pixels.split(1)])

    def no_weight_decay(self) -> set[str]:
        """See :class:`~softfree.models.classifier.Classifier`."""
        positions = {f"tokenizers.{number}.pos_embed" for number in range(len(self.tokenizers))}
        names = super().no_weight_decay() | {"case_embed.view.weight"} | positions
        if self.variable_embed is not None:
            names |= {f"variable_embed.{name}" for name in self.variable_embed.no_weight_decay()}
        return names

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """See :class:`~softfree.models.classifier.Classifier`."""
        groups = super().group_matcher(coarse)
        return groups | {"stem": rf"{groups['stem']}|^case_embed|^variable_embed|^tokenizers"}


def _refuse_mask(mask: Tensor | None) -> None:
    if mask is not None:
        raise UserError("Got a mask for cases of several images: expected none; padding has NaN in its last column.")


class ImageCaseTransformer(CaseTransformer, VisionTransformer):
    """A model of cases of several images."""


class VolumeCaseTransformer(CaseTransformer, VolumeTransformer):
    """A model of cases of several volumes."""


CASE_MODELS: dict[type[nn.Module], type[CaseTransformer]] = {
    VisionTransformer: ImageCaseTransformer,
    VolumeTransformer: VolumeCaseTransformer,
}
"""Model of cases by the model of a single image."""
