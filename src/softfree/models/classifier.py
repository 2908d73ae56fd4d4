"""Parts shared by all transformer classifiers: class token, encoder, pooling, head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from timm.layers import trunc_normal_
from torch import Tensor, nn

from softfree.attention import ATTENTIONS
from softfree.attention.base import Grid, option_names, widen
from softfree.attention.grid import ceil_div
from softfree.models.encoder import Encoder
from softfree.models.pooling import POOLINGS, create_pooling
from softfree_runtime.core.errors import UserError, unknown_name


class HeadedModel(nn.Module, PyTorchModelHubMixin, library_name="softfree", tags=["image-classification"]):
    """Base of all classifiers: a linear ``head`` that timm can get and reset, and the methods of the Hugging Face Hub.

    Attributes:
        num_classes: Number of logits; 0 to return pooled features.
        num_features: Width of the pooled features.
        head: A linear layer, or the identity for features.
    """

    num_classes: int
    num_features: int
    head: nn.Module

    def make_head(self) -> nn.Module:
        """Create the head for ``num_classes``."""
        return nn.Linear(self.num_features, self.num_classes) if self.num_classes else nn.Identity()

    def classify(self, pooled: Tensor) -> Tensor:
        """Compute the logits (..., K) of features (..., C) in the dtype of the head's weights, even under autocast.

        The product is cheap, and bfloat16 would create ties in rankings such as AUROC's.
        """
        weight = next(self.head.parameters(), pooled)
        _, exact = widen(pooled)
        with exact:
            return cast(Tensor, self.head(pooled.to(weight.dtype)))

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by one for another number of classes; 0 for none."""
        self.num_classes = num_classes
        if isinstance(self._hub_mixin_config, dict):
            self._hub_mixin_config["num_classes"] = num_classes  # written by save_pretrained
        like = next(self.parameters())
        self.head = self.make_head().apply(init_linear).to(like.device, like.dtype)


class Classifier(HeadedModel):
    """Class token, encoder, pooling and head under timm's names; subclasses add the tokenizer and the positions.

    A subclass calls ``__init__``, sets ``patch_embed`` and ``pos_embed``, calls :meth:`add_encoder`, and implements
    ``forward_features``; that of samples on a grid is a :class:`GridClassifier`.

    Args:
        num_classes: Number of logits; 0 to return pooled features.
        embed_dim: Width C.
        pool: A name of :data:`~softfree.models.pooling.POOLINGS`: "avg" over the real tokens, then ``fc_norm``; or,
            after ``norm``, "token" (the class token), "topk" or "mean_topk".
        class_token: Prepend a class token; None: only if ``pool`` is "token".
        pool_options: Keywords of the pooling, such as ``one_in`` of "topk".

    Raises:
        UserError: An unknown pooling or option, or "token" without a class token.
    """

    patch_embed: nn.Module
    pos_embed: Tensor | None

    def __init__(
        self,
        num_classes: int,
        embed_dim: int,
        pool: str,
        class_token: bool | None,
        pool_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_names(pool=(pool, tuple(POOLINGS)))
        class_token = pool == "token" if class_token is None else class_token
        if pool == "token" and not class_token:
            raise UserError("Got pool='token' with class_token=False: set class_token=True or choose pool='avg'.")
        self.pool, self.pool_options = pool, pool_options or {}
        self.num_classes, self.embed_dim = num_classes, embed_dim
        self.pooling = create_pooling(pool, self.pool_options)
        self.num_features = self.head_hidden_size = embed_dim
        self.num_prefix_tokens = int(class_token)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None

    def add_encoder(
        self, depth: int, num_heads: int, drop_path_rate: float, attention_options: dict[str, Any], **options: Any
    ) -> None:
        """Create the blocks, the norm before or after pooling, and the head; then initialize all weights.

        Args:
            depth: Number of blocks.
            num_heads: Number of heads.
            drop_path_rate: Stochastic depth of the last block.
            attention_options: Keywords of the attention; methods that treat the class token separately also get
                ``num_prefix_tokens``.
            **options: Other keywords of :class:`Block`.
        """
        if "class_token_in_statistics" in attention_options:
            attention_options = {"num_prefix_tokens": self.num_prefix_tokens, **attention_options}
        options["attention_options"] = attention_options
        self.blocks = Encoder.build(depth, self.embed_dim, num_heads, drop_path_rate, **options)
        norm = nn.LayerNorm(self.embed_dim, eps=1e-6)
        self.norm = nn.Identity() if self.pool == "avg" else norm
        self.fc_norm = norm if self.pool == "avg" else nn.Identity()
        self.head = self.make_head()
        self.init_weights()

    def init_weights(self) -> None:
        """Initialize as timm does: truncated normal of std 0.02 for linear layers, zero biases; then the positions."""
        if isinstance(self.pos_embed, nn.Parameter):
            self.init_positions(self.pos_embed)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=1e-6)
        self.apply(init_linear)
        for block in self.blocks:
            block.attn.init_projections()  # type: ignore[union-attr, operator]

    def init_positions(self, pos_embed: nn.Parameter) -> None:
        """Initialize learned positions (1, P + N, C)."""
        trunc_normal_(pos_embed, std=0.02)

    def with_class_token(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Prepend the class token, if there is one, to tokens (B, N, C) and extend their mask (B, N)."""
        if self.cls_token is None:
            return tokens, mask
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return tokens, None if mask is None else torch.cat([mask.new_ones(mask.shape[0], 1), mask], dim=1)

    def forward_head(self, tokens: Tensor, mask: Tensor | None = None, pre_logits: bool = False) -> Tensor:
        """Pool and classify.

        Args:
            tokens: (B, P + N, C) from ``forward_features``.
            mask: Boolean (B, N), True for real tokens, without the class token; None when all are real.
            pre_logits: Return the pooled features (B, num_features) instead.

        Returns:
            Logits (B, num_classes).
        """
        tokens, mask = self.pooled_tokens(tokens), None if self.pool == "token" else mask
        pooled = self.fc_norm(self.pooling(tokens, mask))
        return pooled if pre_logits else self.classify(pooled)

    def pooled_tokens(self, tokens: Tensor) -> Tensor:
        """Select the tokens that are pooled from (B, P + N, C): those of the grid, or the class token."""
        return tokens[:, :1] if self.pool == "token" else tokens[:, self.num_prefix_tokens :]

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters with more than one axis that get no weight decay."""
        return {"pos_embed", "cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return the patterns for timm's ``group_with_matcher``: tokenizer, each block, last norm."""
        return {
            "stem": r"^cls_token|pos_embed|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm|^fc_norm", (99999,))],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: keep only the input of each block for the backward pass."""
        self.blocks.grad_checkpointing = enable


class GridClassifier(Classifier):
    """A classifier of samples on a grid: images or volumes; subclasses implement :meth:`embed`."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Classify.

        Args:
            x: Images (B, channels, H, W) or volumes (B, channels, D, H, W).
            mask: Boolean (B, N), True for real patch tokens in raster order; None when all are real.

        Returns:
            Logits (B, num_classes), without softmax or sigmoid.

        Raises:
            UserError: Samples with another number of axes, or a mask that does not match the token grid.
        """
        return self.forward_head(self.forward_features(x, mask), mask)

    def forward_features(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the tokens (B, P + N, C) after the last block (and ``norm``); P counts the class token.

        Positions belong to the whole grid, including padded tokens.
        """
        tokens, mask, grid = self.embed(x, mask)
        features: Tensor = self.norm(self.blocks(tokens, mask, grid))
        return features

    def embed(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None, Grid]:
        """Compute the input of the first block: tokens (B, P + N, C) with positions, mask (B, P + N) and grid."""
        raise NotImplementedError


def init_linear(module: nn.Module) -> None:
    """Initialize a linear layer as timm does: truncated normal of std 0.02, zero bias; ignore other modules."""
    if isinstance(module, nn.Linear) and not module.weight.is_meta:  # on which it is slow and does nothing
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_grid_mask(x: Tensor, mask: Tensor, patch: Sequence[int], kind: str) -> None:
    """Check that a mask is boolean (B, N) for the patches of ``x`` (B, channels, sides...); ``kind`` names ``x``."""
    grid = [ceil_div(side, step) for side, step in zip(x.shape[-len(patch) :], patch, strict=True)]
    if mask.dtype != torch.bool or mask.shape != (x.shape[0], math.prod(grid)):
        raise UserError(
            f"Got a mask {tuple(mask.shape)} of {mask.dtype} for {kind} {tuple(x.shape)}: expected booleans "
            f"({x.shape[0]}, {math.prod(grid)}), True for real tokens of the {' x '.join(map(str, grid))} grid."
        )


def check_names(**choices: tuple[str, Sequence[str]]) -> None:
    """Check choices, each (value, allowed values)."""
    for option, (value, known) in choices.items():
        if value not in known:
            raise unknown_name(option, value, known)


def grid_options(attention: str, options: dict[str, Any] | None, **defaults: Any) -> dict[str, Any]:
    """Add those ``defaults``, which depend on the number of grid axes, to an attention's options that it has."""
    known = option_names(ATTENTIONS[attention]) if attention in ATTENTIONS else set()
    return {name: value for name, value in defaults.items() if name in known} | (options or {})
