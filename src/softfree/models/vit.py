"""Vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929) with any attention method and any picture size."""

from __future__ import annotations

from typing import Any, Literal

import torch
from huggingface_hub import PyTorchModelHubMixin
from timm.layers import to_2tuple, trunc_normal_
from torch import Tensor, nn

from softfree.errors import UserError, unknown_name
from softfree.models.encoder import Encoder
from softfree.models.positions import resize_positions, sincos_positions
from softfree.models.tokenizers import STEMS, Grid


class VisionTransformer(nn.Module, PyTorchModelHubMixin, library_name="softfree", tags=["image-classification"]):
    """Tokenizer, positions, encoder, pooling, head. Parameter names are timm's.

    Pictures may have any size and any number of channels at run time: positions are resized, the bottom and the
    right are padded to whole patches, and another channel count is seen as the mean of the channels, repeated.

    Args:
        img_size: Side (or height and width) in pixels that the grid of positions is made for.
        patch_size: Side of a patch in pixels.
        in_chans: Channels of the tokenizer.
        num_classes: Number of logits; 0 for pooled features instead.
        embed_dim: Width C.
        depth: Number of blocks.
        num_heads: Number of heads.
        mlp_ratio: Hidden width of the MLPs over C.
        attention: A name of :data:`~softfree.attention.ATTENTIONS`.
        attention_options: Keywords of the attention method.
        pool: "avg" over the real patch tokens, then ``fc_norm``; or "token": ``norm``, then the class token.
        class_token: Put a class token in front; default: only if ``pool`` is "token".
        stem: "patch" projection or "conv" stem.
        pos: "learn", fixed "sincos", or "none".
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0.
        proj_drop: Dropout after each projection.
        layer_scale: Start of a learned factor on each branch; None for no factor.
        mlp_chunk: Tokens that an MLP takes at once in training, to save memory; see :class:`Block`.
        pos_conv: A depth-wise 3 x 3 convolution of the tokens before each attention.

    Raises:
        UserError: a choice that is unknown or does not go with another.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        attention: str = "seqnorm",
        attention_options: dict[str, Any] | None = None,
        pool: Literal["avg", "token"] = "avg",
        class_token: bool | None = None,
        stem: Literal["patch", "conv"] = "patch",
        pos: Literal["learn", "sincos", "none"] = "learn",
        drop_path_rate: float = 0.0,
        proj_drop: float = 0.0,
        layer_scale: float | None = None,
        mlp_chunk: int | None = None,
        pos_conv: bool = False,
    ) -> None:
        super().__init__()
        class_token = pool == "token" if class_token is None else class_token
        _check_choices(pool, class_token, stem, pos)
        self.pool = pool
        self.in_chans, self.num_classes, self.patch_size = in_chans, num_classes, patch_size
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.num_prefix_tokens = int(class_token)

        self.patch_embed = STEMS[stem](patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        height, width = to_2tuple(img_size)
        self.grid_size: Grid = (-(-height // patch_size), -(-width // patch_size))
        self._add_positions(pos)
        self.blocks = Encoder.build(
            depth,
            embed_dim,
            num_heads,
            drop_path_rate,
            mlp_ratio=mlp_ratio,
            attention=attention,
            attention_options=self._with_prefix(attention_options),
            proj_drop=proj_drop,
            layer_scale=layer_scale,
            mlp_chunk=mlp_chunk,
            pos_conv=pos_conv,
        )
        norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.norm = norm if pool == "token" else nn.Identity()
        self.fc_norm = norm if pool == "avg" else nn.Identity()
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self.init_weights()

    def _add_positions(self, pos: str) -> None:
        """Make ``pos_embed`` (1, P + h w, C): a parameter, a fixed buffer that is not saved, or None."""
        if pos == "sincos":
            codes = sincos_positions(self.grid_size, self.embed_dim, self.num_prefix_tokens)
            self.register_buffer("pos_embed", codes, persistent=False)
            return
        length = self.num_prefix_tokens + self.grid_size[0] * self.grid_size[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, length, self.embed_dim)) if pos == "learn" else None

    def _with_prefix(self, attention_options: dict[str, Any] | None) -> dict[str, Any]:
        """Complete the attention's keywords; one that treats the class token by itself is told where it is."""
        options = dict(attention_options or {})
        if "class_token_in_statistics" in options:
            options.setdefault("num_prefix_tokens", self.num_prefix_tokens)
        return options

    def init_weights(self) -> None:
        """Timm's start: truncated normal of deviation 0.02 for all linear layers and positions, zero biases."""
        if isinstance(self.pos_embed, nn.Parameter):
            trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=1e-6)
        self.apply(_init_linear)
        for block in self.blocks:
            block.attn.reset_start()  # type: ignore[union-attr, operator]

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Classify.

        Args:
            x: Pictures (B, channels, H, W).
            mask: Boolean (B, N), True for real patch tokens in raster order; None when all are real.

        Returns:
            Logits (B, num_classes), without softmax or sigmoid.

        Raises:
            UserError: pictures without four axes, or a mask that does not fit the token grid.
        """
        return self.forward_head(self.forward_features(x, mask), mask)

    def forward_features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the tokens (B, P + N, C) after the last block (and ``norm``); P counts the class token.

        Positions belong to the whole grid, padded tokens included.
        """
        if mask is not None:
            self._check_mask(x, mask)
        tokens, grid = self.patch_embed(x, mask)  # (B, N, C)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
            mask = None if mask is None else torch.cat([mask.new_ones(mask.shape[0], 1), mask], dim=1)
        if self.pos_embed is not None:
            tokens = tokens + resize_positions(self.pos_embed, self.grid_size, grid, self.num_prefix_tokens)
        return self.norm(self.blocks(tokens, mask, grid))

    def forward_head(self, tokens: Tensor, mask: Tensor | None = None, pre_logits: bool = False) -> Tensor:
        """Pool and classify.

        Args:
            tokens: (B, P + N, C) from :meth:`forward_features`.
            mask: Boolean (B, N) over the patch tokens, or None.
            pre_logits: Return the pooled features (B, C) instead.

        Returns:
            Logits (B, num_classes).
        """
        pooled = tokens[:, 0] if self.pool == "token" else masked_mean(tokens[:, self.num_prefix_tokens :], mask)
        pooled = self.fc_norm(pooled)
        return pooled if pre_logits else self.head(pooled)

    def _check_mask(self, x: Tensor, mask: Tensor) -> None:
        grid = [-(-side // self.patch_size) for side in x.shape[-2:]]
        if mask.dtype != torch.bool or mask.shape != (x.shape[0], grid[0] * grid[1]):
            raise UserError(
                f"Got a mask {tuple(mask.shape)} of {mask.dtype} for pictures {tuple(x.shape)}: expected booleans "
                f"({x.shape[0]}, {grid[0] * grid[1]}), True for real tokens of the {grid[0]} x {grid[1]} grid."
            )

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Make a new head for another number of classes; 0 for none."""
        self.num_classes = num_classes
        if isinstance(self._hub_mixin_config, dict):
            self._hub_mixin_config["num_classes"] = num_classes  # what save_pretrained writes
        like = next(self.blocks.parameters())
        head = nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()
        self.head = head.apply(_init_linear).to(like.device, like.dtype)

    def no_weight_decay(self) -> set[str]:
        """Name parameters of more than one axis that weight decay should spare."""
        return {"pos_embed", "cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Give the patterns for timm's ``group_with_matcher``: tokenizer, each block, last norm."""
        return {
            "stem": r"^cls_token|pos_embed|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm|^fc_norm", (99999,))],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: keep only the input of each block for the backward pass."""
        self.blocks.grad_checkpointing = enable


def masked_mean(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Average the real tokens.

    Args:
        tokens: (B, N, C).
        mask: Boolean (B, N), or None for all. A sample without real tokens gives zeros.

    Returns:
        (B, C).
    """
    if mask is None:
        return tokens.mean(dim=1)
    wide = torch.promote_types(tokens.dtype, torch.float32)
    total = tokens.masked_fill(~mask.unsqueeze(-1), 0).sum(dim=1, dtype=wide)
    return (total / mask.sum(dim=1, keepdim=True).clamp(min=1)).to(tokens.dtype)


def _check_choices(pool: str, class_token: bool, stem: str, pos: str) -> None:
    choices = {"pool": (pool, ("avg", "token")), "stem": (stem, STEMS), "pos": (pos, ("learn", "sincos", "none"))}
    for what, (got, known) in choices.items():
        if got not in known:
            raise unknown_name(what, got, known)
    if pool == "token" and not class_token:
        raise UserError("Got pool='token' with class_token=False: pool the class token or choose pool='avg'.")


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
