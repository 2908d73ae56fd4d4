"""The SOFT pyramids (Lu et al. 2021, arXiv:2110.11945, table 1; SOFT++: arXiv:2207.03341): features at four scales."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, cast, get_args

import torch
from timm.layers import to_2tuple, trunc_normal_
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from softfree.attention.soft.module import Form
from softfree.models.classifier import HeadedModel, init_linear
from softfree.models.encoder import Block, Encoder
from softfree.models.patch_embed import channels_last, fit_image
from softfree.models.pyramid_parts import PostNormBlock, Stage, make_downsampling, make_stem
from softfree_runtime.core.errors import UserError, unknown_name

Last = Literal["softmax", "soft"]
METHODS = ("soft", "soft_norm")
# From the official code, for stages 1 to 3: sides of a landmark's window, and of the convolution on V.
STRIDES, KERNELS = (8, 4, 2), (9, 5, 3)
# Suffixes of parameters that are tokens or are added to tokens.
TOKENS = ("pos_embed", "cls_token")


class SoftPyramid(HeadedModel):
    """Stem, three stages of post-norm SOFT blocks, one of softmax blocks with a class token, head.

    Images may have any size and any number of channels at run time: positions are resized, maps have sides
    H/4, H/8, H/16, H/32 rounded up, and for another channel count the mean of the channels is repeated.

    Forms of the attention, see :class:`~softfree.attention.SoftAttention`:

    - "released" (the default, to which published weights, parameter counts and multiply-adds belong): landmarks by
      learned convolutions of stride 8, 4 and 2, a convolution of side 9, 5 and 3 on V, and SOFT's ridge. There are
      H W / 1024 landmarks, 49 at 224 pixels, so that time grows with (H W)^2.
    - "paper": 49 window means at any size, so that the time of these stages grows with H W: for large images,
      together with ``last="soft"``.

    The published model has ``last="softmax"``: softmax attention in stage 4, which has 1/64 of the tokens of stage 1,
    and the class token is classified. With ``last="soft"``, stage 4 has SOFT blocks with 49 window means, no class
    token and no softmax, and the average of its tokens is classified.

    Args:
        img_size: Side (or height and width) in pixels for which the position encodings are created.
        in_chans: Channels of the stem.
        num_classes: Number of logits; 0 to return pooled features.
        embed_dims: Widths of the four stages.
        depths: Number of blocks in each stage.
        num_heads: Number of heads in each stage.
        mlp_ratio: Hidden width of the MLPs over the stage's width. The official configurations state 8 for stages 1
            and 2, but the official code ignores it.
        attention: "soft", or "soft_norm" for SOFT++.
        form: "released" or "paper".
        last: "softmax" or "soft".
        attention_options: Further keywords of the SOFT attention, for all its stages.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 over all stages.
        proj_drop: Dropout after each projection.
        mlp_chunk: Number of tokens that an MLP processes at a time in training, to save memory; see the encoder's
            block.

    Raises:
        UserError: An unknown choice, or not four stages.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (1, 2, 3, 2),
        num_heads: Sequence[int] = (2, 4, 10, 16),
        mlp_ratio: float = 4.0,
        attention: str = "soft",
        form: Form = "released",
        last: Last = "softmax",
        attention_options: dict[str, Any] | None = None,
        drop_path_rate: float = 0.0,
        proj_drop: float = 0.0,
        mlp_chunk: int | None = None,
    ) -> None:
        super().__init__()
        _check(attention, form, last, embed_dims, depths, num_heads)
        self.in_chans, self.num_classes, self.last = in_chans, num_classes, last
        self.embed_dims, self.depths, self.num_heads = tuple(embed_dims), tuple(depths), tuple(num_heads)
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dims[-1]
        self.num_prefix_tokens = int(last == "softmax")
        common: dict[str, Any] = {"mlp_ratio": mlp_ratio, "proj_drop": proj_drop, "mlp_chunk": mlp_chunk}
        soft = {"attention": attention, "form": form, "options": attention_options}
        self.stages = nn.ModuleList(self._make_stages(to_2tuple(img_size), drop_path_rate, soft, common))
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 << number, "module": f"stages.{number}"}
            for number, dim in enumerate(embed_dims)
        ]
        norm = nn.LayerNorm(self.embed_dim, eps=1e-6)
        self.norm: nn.Module = norm if last == "softmax" else nn.Identity()
        self.fc_norm: nn.Module = norm if last == "soft" else nn.Identity()
        self.head = self.make_head()
        self.init_weights()

    def _make_stages(
        self, size: tuple[int, int], drop_path_rate: float, soft: dict[str, Any], common: dict[str, Any]
    ) -> Iterator[Stage]:
        """Create the four stages for images of ``size``."""
        rates = torch.linspace(0, drop_path_rate, sum(self.depths), device="cpu").split(list(self.depths))
        for number, (dim, heads) in enumerate(zip(self.embed_dims, self.num_heads, strict=True)):
            softmax = number == 3 and self.last == "softmax"
            kind: type[Block] | type[PostNormBlock] = Block if softmax else PostNormBlock
            attention: dict[str, Any] = {"attention": "softmax"} if softmax else _soft(number, **soft)
            blocks = Encoder(*(kind(dim, heads, drop_path=p, **attention, **common) for p in rates[number].tolist()))
            embed = make_downsampling(self.embed_dims[number - 1], dim) if number else make_stem(self.in_chans, dim)
            grid = (-(-size[0] // (4 << number)), -(-size[1] // (4 << number)))
            yield Stage(embed, blocks, dim, grid, class_token=softmax)

    def init_weights(self) -> None:
        """Initialize as the official code: truncated normal 0.02 for linear layers, positions and the class token."""
        self.apply(init_linear)
        for name, tokens in self.named_parameters():
            if name.endswith(TOKENS):
                trunc_normal_(tokens, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, channels, H, W); logits (B, num_classes), without softmax or sigmoid.

        Raises:
            UserError: Images without four axes.
        """
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the tokens (B, P + N, C) of stage 4 after its last block (and ``norm``); P counts the class token."""
        tokens, _ = self._run(x, ())
        return self.norm(tokens)

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool the tokens (B, P + N, C) and classify; ``pre_logits`` gives the pooled features (B, C) instead."""
        pooled = tokens[:, 0] if self.num_prefix_tokens else tokens.mean(dim=1)
        pooled = self.fc_norm(pooled)
        return pooled if pre_logits else self.classify(pooled)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Compute the maps of the stages, for timm's feature extraction.

        Args:
            x: Images (B, channels, H, W).
            indices: Stages counted from 0; a number of last stages; or None for all.
            norm: Apply the last norm to the map of a softmax stage 4; the other stages end in a norm.
            stop_early: Skip the stages after the last requested one.
            output_fmt: "NCHW" is the only one.
            intermediates_only: Return the maps alone, not the tokens of stage 4 before them.

        Returns:
            Maps (B, C_i, H/4, W/4), ... with sides rounded up.
        """
        if output_fmt != "NCHW":
            raise UserError(f"Got output_fmt={output_fmt!r}: a pyramid gives 'NCHW'.")
        stages, end = feature_take_indices(len(self.stages), indices)
        stop = end + 1 if stop_early or intermediates_only else len(self.stages)
        tokens, maps = self._run(x, stages, stop=stop, norm=norm)
        return maps if intermediates_only else (self.norm(tokens) if stop == 4 else tokens, maps)

    def _run(
        self, x: Tensor, map_stages: Sequence[int], *, stop: int | None = None, norm: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Run the stages before ``stop``; return the tokens of the last one, and the maps of ``map_stages``."""
        # In channels-last format, maps have the memory layout of tokens.
        x = channels_last(fit_image(x, self.in_chans, 1))
        maps = []
        for number, stage in enumerate(cast(Iterable[Stage], self.stages[:stop])):
            tokens, grid = stage(x)
            x = stage.to_map(tokens, grid)
            if number in map_stages:
                maps.append(stage.to_map(self.norm(tokens), grid) if norm and number == 3 else x)
        return tokens, maps

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the maps of ``indices`` do not need; return these stages counted from 0."""
        stages, end = feature_take_indices(len(self.stages), indices)
        if prune_norm or end < len(self.stages) - 1:
            self.norm = nn.Identity()
        if prune_head:
            self.fc_norm = nn.Identity()
            self.reset_classifier(0)
        self.stages = self.stages[: end + 1]
        return stages

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters with more than one axis that get no weight decay."""
        return {name for name, _ in self.named_parameters() if name.endswith(TOKENS)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the patterns for timm's ``group_with_matcher``: stem, each block (or stage), last norm.

        A stage's layers before its blocks belong to its first block.
        """
        blocks = [(r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^stages\.(\d+)\.", (0,)), (r"^norm|^fc_norm", (99999,))]
        return {"stem": r"^stages\.0\.(?:embed|pos_embed)", "blocks": r"^stages\.(\d+)" if coarse else blocks}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: keep only the input of each block for the backward pass."""
        for stage in cast(Iterable[Stage], self.stages):
            stage.blocks.grad_checkpointing = enable


def _soft(number: int, attention: str, form: Form, options: dict[str, Any] | None) -> dict[str, Any]:
    """Return the keywords of the SOFT blocks of stage ``number`` (from 0)."""
    defaults: dict[str, Any] = {"form": form}
    if form == "released":
        # Stage 4 has no released form: each token would be its own landmark.
        defaults |= (
            {"stride": STRIDES[number], "conv": KERNELS[number]} if number < 3 else {"sampling": "pool", "conv": 3}
        )
    return {"attention": attention, "attention_options": defaults | (options or {})}


def _check(attention: str, form: str, last: str, *stage_values: Sequence[int]) -> None:
    choices = {"attention": (attention, METHODS), "form": (form, get_args(Form)), "last": (last, get_args(Last))}
    for option, (value, known) in choices.items():
        if value not in known:
            raise unknown_name(f"{option} of a pyramid:", value, known)
    for values in stage_values:
        if len(values) != 4 or min(values) < 1:
            raise UserError(f"Got {tuple(values)} for the stages of a pyramid: expected four positive numbers.")
