"""Transformer over bags of tile features with tile positions: a whole slide, or several slides of a patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from softfree.attention.base import PART, plain_only
from softfree.models.case_embed import CaseEmbed
from softfree.models.classifier import Classifier, check_names, grid_options
from softfree.models.pos_embed import Waves, sincos_codes
from softfree.models.variables import VariableEmbedding
from softfree_runtime.core.errors import UserError

# Wavelengths of x and y in millimeters: from less than a tile of 256 pixels at 0.5 micrometers to more than the length
# of a slide. The third axis is the slide number of a patient, in steps of a quarter of the shortest wavelength.
SLIDE_WAVES: tuple[Waves, Waves, Waves] = ((0.1, 100.0), (0.1, 100.0), (4.0, 100.0))
COORDINATES = len(SLIDE_WAVES)


class TileEmbed(nn.Module):
    """Tile features to tokens: LayerNorm, projection, plus the codes of the tile's position, its slide and its bag.

    The norm has no scale and shift: the projection after it can represent them, and training keeps one copy of the
    features less.

    Args:
        in_features: F.
        embed_dim: Width C.
        pos: "mm" or "none".
        views: Number of known views of slides.
        timed: Embed the times of slides.
        variables: Clinical variables of a bag, as :class:`~softfree.models.variables.VariableEmbedding` takes them.
    """

    def __init__(
        self,
        in_features: int,
        embed_dim: int,
        pos: str = "mm",
        views: int = 0,
        timed: bool = False,
        variables: Sequence[Mapping[str, float]] = (),
    ) -> None:
        super().__init__()
        self.in_features, self.embed_dim, self.pos = in_features, embed_dim, pos
        self.norm = nn.LayerNorm(in_features, eps=1e-6, elementwise_affine=False)
        self.proj = nn.Linear(in_features, embed_dim)
        self.case_embed = CaseEmbed(embed_dim, views, timed) if views or timed else None
        self.variable_embed = VariableEmbedding(variables, embed_dim) if variables else None
        self.num_variables = len(variables)
        self.row_width = in_features + self.num_variables + (0 if self.case_embed is None else 2) + COORDINATES

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map tiles (B, N, row_width) with their mask (B, N) to tokens (B, N, C); padding gives finite tokens.

        Without gradients, tiles are processed in chunks, which avoids a second copy of all features.
        """
        codes = self._codes_of_variables(x, mask)
        chunk_size = max(256, PART // x.shape[2])
        whole = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()
        if whole or x.shape[1] <= chunk_size:
            return self._embed(x, mask, codes)
        tokens = None
        for start in range(0, x.shape[1], chunk_size):
            span = slice(start, start + chunk_size)
            chunk = self._embed(x[:, span], None if mask is None else mask[:, span], codes)
            if tokens is None:
                tokens = chunk.new_empty(*x.shape[:2], self.embed_dim)
            tokens[:, span] = chunk
        assert tokens is not None  # a bag has at least one tile
        return tokens

    def _codes_of_variables(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """Return the codes (B, 1, C) of the clinical variables, which all tiles of a bag have in common."""
        if self.variable_embed is None:
            return None
        rows = x[:, 0]
        if mask is not None:  # of the first tile that is not padding
            rows = x[torch.arange(len(x), device=x.device), mask.int().argmax(dim=1)]
        codes: Tensor = self.variable_embed(rows[:, self.in_features :][:, : self.num_variables])
        return codes.unsqueeze(1)

    def _embed(self, x: Tensor, mask: Tensor | None, codes: Tensor | None) -> Tensor:
        if mask is not None:
            # Padding, such as NaN, must not reach the gradient of the projection.
            x = x.masked_fill(~mask.unsqueeze(-1), 0)
        tokens = self.proj(self.norm(x[..., : self.in_features]))
        if codes is not None:
            tokens = tokens + codes.to(tokens.dtype)
        if self.case_embed is not None:
            view, time = x[..., -COORDINATES - 2], x[..., -COORDINATES - 1]
            tokens = tokens + self.case_embed(view, time).to(tokens.dtype)
        if self.pos == "none":
            return tokens
        positions = x[..., -COORDINATES:].to(torch.promote_types(x.dtype, torch.float32))
        return tokens + sincos_codes(positions, self.embed_dim, SLIDE_WAVES).to(self.proj.weight.dtype)


class BagTransformer(Classifier):
    """Tile features and positions to logits: every tile attends to every other, in a bag of any size.

    The input (B, N, F + 3) holds F features, x and y in millimeters, and z, the slide number. Rows with NaN as z are
    padding and have no effect. With views or times of slides, these stand before x: (B, N, F + 5); see
    :class:`~softfree.models.case_embed.CaseEmbed`. Clinical variables of the bag stand after the features of each tile.
    There is no grid: attentions with landmarks or learned maps treat
    the tiles as a sequence.

    Args:
        in_features: F, the width of the features.
        num_classes: Number of logits; 0 to return pooled features.
        embed_dim: Width C.
        depth: Number of blocks.
        num_heads: Number of heads.
        mlp_ratio: Hidden width of the MLPs over C.
        attention: A name of :data:`~softfree.attention.ATTENTIONS`.
        attention_options: Keywords of the attention method; ``conv_dims`` of SOFT and Nystromformer is 1 by default.
        pool: A name of :data:`~softfree.models.pooling.POOLINGS`; see :class:`Classifier`.
        class_token: Prepend a class token; default: only if ``pool`` is "token".
        pos: "mm", fixed codes of a tile's position, or "none".
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0.
        proj_drop: Dropout after each projection.
        layer_scale: Initial value of a learned factor on each branch; None for no factor.
        mlp_chunk: Number of tiles that an MLP processes at a time; see :class:`Block`. No effect on smaller bags; None
            for all tiles. With :meth:`set_grad_checkpointing`, a training step of the tiny size on 20,000 tiles of 512
            features stays below 2 GiB for the whole process.
        act: Activation of the MLPs: "gelu", or "relu2" or "hardswish", which need no erf or exp.
        pool_options: Keywords of the pooling.
        views: Number of known views of slides.
        timed: Embed the times of slides.
        variables: Clinical variables of a bag, as :class:`~softfree.models.variables.VariableEmbedding` takes them.

    Raises:
        UserError: An unknown choice, or choices that exclude each other.
    """

    patch_embed: TileEmbed

    def __init__(
        self,
        in_features: int = 1024,
        num_classes: int = 1000,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        attention: str = "seqnorm",
        attention_options: dict[str, Any] | None = None,
        pool: str = "avg",
        class_token: bool | None = None,
        pos: Literal["mm", "none"] = "mm",
        drop_path_rate: float = 0.0,
        proj_drop: float = 0.0,
        layer_scale: float | None = None,
        mlp_chunk: int | None = 8192,
        act: str = "gelu",
        pool_options: dict[str, Any] | None = None,
        views: int = 0,
        timed: bool = False,
        variables: Sequence[Mapping[str, float]] = (),
    ) -> None:
        super().__init__(num_classes, embed_dim, pool, class_token, pool_options)
        check_names(pos=(pos, ("mm", "none")))
        self.in_features, self.pos = in_features, pos
        self.patch_embed = TileEmbed(in_features, embed_dim, pos, views, timed, variables)
        self.row_width = self.patch_embed.row_width
        self.pos_embed = None
        self.add_encoder(
            depth,
            num_heads,
            drop_path_rate,
            grid_options(attention, attention_options, conv_dims=1),
            mlp_ratio=mlp_ratio,
            attention=attention,
            proj_drop=proj_drop,
            layer_scale=layer_scale,
            mlp_chunk=mlp_chunk,
            act=act,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Classify bags (B, N, F + 3), padded with rows whose z is NaN: logits (B, num_classes).

        Raises:
            UserError: A wrong shape, or a bag without tiles.
        """
        mask = self.mask_of(x)
        return self.forward_head(self._encode(x, mask), mask)

    def row_in_words(self) -> str:
        """Describe the row of a tile, at the end of a message about a bag's shape."""
        variables = self.patch_embed.num_variables
        of_bag = f"{variables} clinical variables, " if variables else ""
        of_slide = "" if self.patch_embed.case_embed is None else "view and time of its slide, "
        return (
            f"{self.row_width}), {self.in_features} features, {of_bag}{of_slide}and x, y, z of each tile; set"
            " in_features to the encoder's width."
        )

    def no_weight_decay(self) -> set[str]:
        """See :class:`~softfree.models.classifier.Classifier`."""
        names = super().no_weight_decay() | {"patch_embed.case_embed.view.weight"}
        if self.patch_embed.variable_embed is not None:
            names |= {
                f"patch_embed.variable_embed.{name}" for name in self.patch_embed.variable_embed.no_weight_decay()
            }
        return names

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the tokens (B, P + N, C) after the last block (and ``norm``); P counts the class token."""
        return self._encode(x, self.mask_of(x))

    def mask_of(self, x: Tensor) -> Tensor | None:
        """Return the mask (B, N) of bags (B, N, F + 3), True for tiles, or None if all rows are tiles.

        Raises:
            UserError: A wrong shape, or a bag without tiles.
        """
        if x.ndim != 3 or x.shape[2] != self.row_width:
            raise UserError(f"Got bags of shape {tuple(x.shape)}: expected (batch, tiles, {self.row_in_words()}")
        mask = ~x[..., -1].isnan()
        if plain_only() or torch.jit.is_tracing() or x.is_meta:
            return mask
        tiles = mask.sum(1)
        if not x.shape[1] or not tiles.all():
            raise UserError("Got a bag without tiles: expected at least one; leave the sample out.")
        return None if bool((tiles == x.shape[1]).all()) else mask

    def _encode(self, x: Tensor, mask: Tensor | None) -> Tensor:
        tokens, mask = self.with_class_token(self.patch_embed(x, mask), mask)
        return self.norm(self.blocks(tokens, mask))


def collate_bags(bags: Sequence[Tensor]) -> Tensor:
    """Collate bags (N_i, F + 3) into a batch (B, max N, F + 3); padding has NaN coordinates and zero features.

    Raises:
        UserError: No bags, or bags of different widths.
    """
    widths = {bag.shape[1:] for bag in bags}
    if len(widths) != 1 or next(iter(widths))[-1:] < (COORDINATES,):
        shapes = ", ".join(str(tuple(bag.shape)) for bag in bags[:4])
        raise UserError(
            f"Got bags of shapes {shapes or 'none'}: expected (tiles, features + 3), with the same number of features."
        )
    if len(bags) == 1:
        return bags[0].unsqueeze(0)  # without a copy
    (width,) = next(iter(widths))
    batch = bags[0].new_zeros(len(bags), max(map(len, bags)), width)
    batch[..., -COORDINATES:] = float("nan")
    for row, bag in zip(batch, bags, strict=True):
        row[: len(bag)] = bag
    return batch
