"""The sequence model of the Long Range Arena: symbols to tokens, softfree's encoder, the mean, a head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from softfree.attention.base import Attention
from softfree.models import Encoder
from softfree.models.pooling import masked_mean
from softfree_lab.long_range.dropout import replace_dropout

DEPTH, WIDTH, HEADS, HIDDEN, DROPOUT = 2, 64, 2, 128, 0.1
KERNEL = 35  # of Nystromformer's convolution over the sequence, as its authors configure it for these tasks
FEATURES = 128  # landmarks, rows of Linformer's maps and random features; what Skyformer's authors give all methods


class SequenceModel(nn.Module):
    """Symbols to logits: embedding plus learned positions, pre-norm encoder, LayerNorm, mean over the symbols, MLP.

    The architecture is that of the published comparisons (Xiong et al. 2021, Nystromformer; Chen et al. 2021,
    Skyformer), except that no attention weights are dropped, since most methods have none. With two towers, both texts
    of a pair pass the same encoder, and the head sees both means, their product and their difference.

    Args:
        symbols: Number of symbols; inputs are 1 to ``symbols``, and 0 is padding.
        max_length: Number of learned positions.
        num_classes: Number of logits.
        attention: A name of :data:`~softfree.attention.ATTENTIONS`.
        attention_options: Its keywords; default: :func:`options_for`.
        towers: Sequences per sample, 1 or 2.
        dropout: Rate after the embedding, in the MLPs and after the attention's projection.
    """

    def __init__(
        self,
        symbols: int,
        max_length: int,
        num_classes: int,
        *,
        attention: str = "seqnorm",
        attention_options: dict[str, Any] | None = None,
        towers: int = 1,
        dropout: float = DROPOUT,
    ) -> None:
        super().__init__()
        options = options_for(attention, max_length) if attention_options is None else attention_options
        self.towers, self.max_length = towers, max_length
        self.embed = nn.Embedding(symbols + 1, WIDTH, padding_idx=0)
        self.pos_embed = nn.Parameter(torch.empty(max_length, WIDTH))
        self.dropout = nn.Dropout(dropout)
        self.blocks = Encoder.build(
            DEPTH,
            WIDTH,
            HEADS,
            mlp_ratio=HIDDEN / WIDTH,
            attention=attention,
            attention_options=options,
            proj_drop=dropout,
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Sequential(
            nn.Linear(WIDTH if towers == 1 else 4 * WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, num_classes)
        )
        replace_dropout(self)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.embed.weight, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.02)
        with torch.no_grad():
            self.embed.weight[0] = 0
        for module in self.modules():
            if isinstance(module, Attention):
                module.init_projections()

    def forward(self, symbols: Tensor, mask: Tensor | None = None) -> Tensor:
        """Classify sequences.

        Args:
            symbols: (towers B, N) int, 0 for padding; the towers of a sample follow each other.
            mask: True for symbols, boolean (towers B, N), or None if there is no padding.

        Returns:
            Logits (B, num_classes).
        """
        x = self.dropout(self.embed(symbols) + self.pos_embed[: symbols.shape[1]])
        mean = masked_mean(self.norm(self.blocks(x, mask)), mask)  # (towers B, C)
        if self.towers == 2:
            first, second = mean.unflatten(0, (-1, 2)).unbind(1)
            mean = torch.cat([first, second, first * second, first - second], dim=1)
        logits: Tensor = self.head(mean)
        return logits


def options_for(attention: str, max_length: int, features: int = FEATURES) -> dict[str, Any]:
    """Return the keywords of an attention for sequences.

    Args:
        attention: A name of :data:`~softfree.attention.ATTENTIONS`.
        max_length: Positions that Linformer's maps are learned for.
        features: Number of landmarks, of rows of Linformer's maps and of random features.
    """
    if attention in ("soft", "soft_norm"):
        return {"landmarks": features}
    if attention == "nystromformer":
        return {"landmarks": features, "conv": KERNEL, "conv_dims": 1}
    if attention == "linformer":
        return {"landmarks": features, "reference": (max_length,)}
    if attention == "performer":
        return {"features": features}
    return {}
