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
from softfree.models.encoder import Encoder
from softfree.models.head import HeadedModel, init_linear
from softfree.models.pooling import POOLINGS, Average, Pooling, create_pooling, masked_mean
from softfree_runtime.core.errors import UserError, unknown_name


class Classifier(HeadedModel):
    """Class token, encoder, pooling and head under timm's names; the tokenizer and the positions are a subclass's.

    A subclass calls ``__init__``, makes ``patch_embed`` and ``pos_embed``, then calls :meth:`add_encoder`, and
    implements ``forward_features``.

    Args:
        num_classes: Number of logits; 0 for pooled features instead.
        embed_dim: Width C.
        pool: A name of :data:`~softfree.models.pooling.POOLINGS`. "avg" over the real tokens, then ``fc_norm``; all
            others after ``norm``: "token", the class token; "topk", "mean_topk", "lse", "gated" or "mean_std".
        class_token: Put a class token in front; None: only if ``pool`` is "token".
        pool_options: Keywords of the pooling, such as ``one_in`` of "topk".

    Raises:
        UserError: an unknown pooling or option, or a class token that is to be pooled but not there.
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
            raise UserError("Got pool='token' with class_token=False: pool the class token or choose pool='avg'.")
        self.pool, self.pool_options = pool, pool_options or {}
        self.num_classes, self.embed_dim = num_classes, embed_dim
        self.pooling = self.make_pooling()
        self.num_features = self.head_hidden_size = self.pooling.width * embed_dim
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
        self.norm = nn.Identity() if self.pool == "avg" else norm
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

    def make_pooling(self) -> Pooling:
        """Make the pooling; one of logits is an average where there are no classes."""
        of_logits = POOLINGS[self.pool].of_logits
        made = create_pooling(self.pool, self.num_classes if of_logits else self.embed_dim, self.pool_options)
        return Average(self.embed_dim) if of_logits and not self.num_classes else made

    def reset_classifier(self, num_classes: int) -> None:
        """Make a new head for another number of classes; 0 for none."""
        super().reset_classifier(num_classes)
        if POOLINGS[self.pool].of_logits:
            like = next(self.parameters())
            self.pooling = self.make_pooling().to(like.device, like.dtype)

    def forward_head(self, tokens: Tensor, mask: Tensor | None = None, pre_logits: bool = False) -> Tensor:
        """Pool and classify.

        Args:
            tokens: (B, P + N, C) from ``forward_features``.
            mask: Boolean (B, N), True for real tokens, without the class token; None when all are real.
            pre_logits: Return the pooled features (B, num_features) instead; where logits are pooled, the average.

        Returns:
            Logits (B, num_classes).
        """
        tokens, mask = self.pooled_tokens(tokens), None if self.pool == "token" else mask
        if pre_logits and self.pooling.of_logits:
            return masked_mean(tokens, mask)
        pooled = self.pooling(self.evidence(tokens), mask)
        return self.fc_norm(pooled) if pre_logits else self.conclude(pooled)

    def pooled_tokens(self, tokens: Tensor) -> Tensor:
        """Take from tokens (B, P + N, C) those that are pooled: all of the grid, or the class token."""
        return tokens[:, :1] if self.pool == "token" else tokens[:, self.num_prefix_tokens :]

    def evidence(self, tokens: Tensor) -> Tensor:
        """Give what is pooled of each token (B, N, C): its logits (B, N, K), or its features."""
        return self.classify(tokens) if self.pooling.of_logits else tokens

    def conclude(self, pooled: Tensor) -> Tensor:
        """Give the logits (B, K) of what was pooled."""
        return pooled if self.pooling.of_logits else self.classify(self.fc_norm(pooled))

    def no_weight_decay(self) -> set[str]:
        """Name parameters of more than one axis that weight decay should spare."""
        return {"pos_embed", "cls_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Give the patterns for timm's ``group_with_matcher``: tokenizer, each block, last norm."""
        return {
            "stem": r"^cls_token|pos_embed|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm|^fc_norm|^pooling", (99999,))],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory: keep only the input of each block for the backward pass."""
        self.blocks.grad_checkpointing = enable


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
