"""A vision transformer over whole slides with clinical variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from softfree.models.patch_embed import Grid
from softfree.models.variables import VariableEmbedding
from softfree.models.vit import VisionTransformer
from softfree_runtime.core.errors import UserError


class SlideTransformer(VisionTransformer):
    """A vision transformer that also takes the clinical variables of a slide, whose codes all tokens have.

    The variables are the first numbers of one more channel, row by row, NaN where unknown: slides differ in size, and
    a sample is one array.

    Args:
        variables: As :class:`~softfree.models.variables.VariableEmbedding` takes them.
        **options: Keywords of :class:`~softfree.models.vit.VisionTransformer`; ``in_chans`` counts the colors.
    """

    def __init__(self, variables: Sequence[Mapping[str, float]], **options: Any) -> None:
        super().__init__(**options)
        self.variable_embed = VariableEmbedding(variables, self.embed_dim)
        self.num_variables = len(variables)

    def embed(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None, Grid]:
        """Compute the input of the first block from slides (B, channels + 1, H, W).

        Raises:
            UserError: Another number of channels, or fewer pixels than variables.
        """
        if x.ndim != 4 or x.shape[1] != self.in_chans + 1:
            raise UserError(
                f"Got slides of shape {tuple(x.shape)}: expected (batch, {self.in_chans + 1}, height, width), the last"
                f" channel with {self.num_variables} clinical variables."
            )
        tokens, mask, grid = super().embed(x[:, : self.in_chans], mask)
        return tokens + self.codes(x[:, self.in_chans]).unsqueeze(1).to(tokens.dtype), mask, grid

    def codes(self, channel: Tensor) -> Tensor:
        """Return the codes (B, C) of the clinical variables in the first rows of their channel (B, n, W)."""
        codes: Tensor = self.variable_embed(channel.flatten(1)[:, : self.num_variables])
        return codes

    def no_weight_decay(self) -> set[str]:
        """See :class:`~softfree.models.classifier.Classifier`."""
        return super().no_weight_decay() | {f"variable_embed.{name}" for name in self.variable_embed.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """See :class:`~softfree.models.classifier.Classifier`."""
        groups = super().group_matcher(coarse)
        return groups | {"stem": rf"{groups['stem']}|^variable_embed"}
