"""What every transformer classifier has, whatever its tokens are of: class token, encoder, pooling, head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from softfree.attention import ATTENTIONS
from softfree.attention.base import option_names
from softfree.errors import UserError, unknown_name
from softfree.models.encoder import Encoder
from softfree.models.head import HeadedModel, init_linear


class Classifier(HeadedModel):
    """Class token, encoder, pooling and head under timm's names; the tokenizer and the positions are a subclass's.

    A subclass calls ``__init__``, makes ``patch_embed`` and ``pos_embed``, then calls :meth:`add_encoder`, and
    implements ``forward_features``.

    Args:
        num_classes: Number of logits; 0 for pooled features instead.
        embed_dim: Width C.
        pool: "avg" over the real tokens, then ``fc_norm``; or "token": ``norm``, then the class token.
        class_token: Put a class token in front; None: only if ``pool`` is "token".

    Raises:
        UserError: an unknown pooling, or a class token that is to be pooled but not there.
    """

    patch_embed: nn.Module
    pos_embed: Tensor | None

    def __init__(self, num_classes: int, embed_dim: int, pool: str, class_token: bool | None) -> None:
        super().__init__()
        check_names(pool=(pool, ("avg", "token")))
        class_token = pool == "token" if class_token is None else class_token
        if pool == "token" and not class_token:
            raise UserError("Got pool='token' with class_token=False: pool the class token or choose pool='avg'.")
        self.pool, self.num_classes = pool, num_classes
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.num_prefix_tokens = int(class_token)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None

    def add_encoder(
        self, depth: int, num_heads: int, drop_path_rate: float, attention_options: dict[str, Any], **options: Any
    ) -> None:
        """Make the blocks, the norm before or after the pooling, and the head; then start all weights.

        Args:
            depth: Number of blocks.
            num_heads: Number of heads.
            drop_path_rate: Stochastic depth of the last block.
            attention_options: Keywords of the attention; one that treats the class token by itself is told where it
                is.
            **options: Further keywords of :class:`Block`.
        """
        if "class_token_in_statistics" in attention_options:
            attention_options = {"num_prefix_tokens": self.num_prefix_tokens, **attention_options}
        options["attention_options"] = attention_options
        self.blocks = Encoder.build(depth, self.embed_dim, num_heads, drop_path_rate, **options)
        norm = nn.LayerNorm(self.embed_dim, eps=1e-6)
        self.norm = norm if self.pool == "token" else nn.Identity()
        self.fc_norm = norm if self.pool == "avg" else nn.Identity()
        self.head = self.make_head()
        self.init_weights()

    def init_weights(self) -> None:
        """Timm's start: truncated normal of deviation 0.02 for all linear layers and positions, zero biases."""
        if isinstance(self.pos_embed, nn.Parameter):
            trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=1e-6)
        self.apply(init_linear)
        for block in self.blocks:
            block.attn.reset_start()  # type: ignore[union-attr, operator]

    def with_class_token(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Put the class token, if there is one, in front of tokens (B, N, C) and of their mask (B, N)."""
        if self.cls_token is None:
            return tokens, mask
        tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        return tokens, None if mask is None else torch.cat([mask.new_ones(mask.shape[0], 1), mask], dim=1)

    def forward_head(self, tokens: Tensor, mask: Tensor | None = None, pre_logits: bool = False) -> Tensor:
        """Pool and classify.

        Args:
            tokens: (B, P + N, C) from ``forward_features``.
            mask: Boolean (B, N), True for real tokens, without the class token; None when all are real.
            pre_logits: Return the pooled features (B, C) instead.

        Returns:
            Logits (B, num_classes).
        """
        pooled = tokens[:, 0] if self.pool == "token" else masked_mean(tokens[:, self.num_prefix_tokens :], mask)
        pooled = self.fc_norm(pooled)
        return pooled if pre_logits else self.classify(pooled)

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


def check_grid_mask(x: Tensor, mask: Tensor, patch: Sequence[int], kind: str) -> None:
    """Refuse a mask that is no boolean (B, N) for the patches of ``x`` (B, channels, sides...), which are ``kind``."""
    grid = [-(-side // part) for side, part in zip(x.shape[-len(patch) :], patch, strict=True)]
    if mask.dtype != torch.bool or mask.shape != (x.shape[0], math.prod(grid)):
        raise UserError(
            f"Got a mask {tuple(mask.shape)} of {mask.dtype} for {kind} {tuple(x.shape)}: expected booleans "
            f"({x.shape[0]}, {math.prod(grid)}), True for real tokens of the {' x '.join(map(str, grid))} grid."
        )


def check_names(**choices: tuple[str, Sequence[str]]) -> None:
    """Refuse a choice (what was got, what is known) that is not known."""
    for what, (got, known) in choices.items():
        if got not in known:
            raise unknown_name(what, got, known)


def for_sides(attention: str, options: dict[str, Any] | None, **defaults: Any) -> dict[str, Any]:
    """Complete an attention's options by those of ``defaults`` that it has: made for a grid of so many sides."""
    known = option_names(ATTENTIONS[attention]) if attention in ATTENTIONS else set()
    return {name: value for name, value in defaults.items() if name in known} | (options or {})
