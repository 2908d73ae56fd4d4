"""Embeddings of what an image, or a slide, of a case shows, and of when it was taken."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from softfree.models.classifier import init_linear

FREQUENCIES = (0.25, 0.5, 1.0, 2.0, 4.0)  # cycles per time scale


class CaseEmbed(nn.Module):
    """The code of a view and a time, to be added to tokens.

    Each known view adds to the embedding that all images have, from zero: one that training did not meet acts exactly
    like an unknown view. An unknown time adds nothing.

    Args:
        embed_dim: Width C.
        views: Number of known views; 0 is any other.
        timed: Embed times.
    """

    def __init__(self, embed_dim: int, views: int, timed: bool) -> None:
        super().__init__()
        self.view = nn.Embedding(views + 1, embed_dim)
        nn.init.zeros_(self.view.weight)
        nn.init.normal_(self.view.weight[0], std=0.02)
        self.time = nn.Linear(2 * len(FREQUENCIES), embed_dim).apply(init_linear) if timed else None
        self.scale = math.sqrt(embed_dim)  # weights of 0.02 would be lost among tokens, which are far larger

    def forward(self, view: Tensor, time: Tensor) -> Tensor:
        """Embed numbers of views (...) and times (...), NaN where unknown: codes (..., C)."""
        numbers = view.nan_to_num().long()
        codes = self.view.weight[0] + self.view(numbers) * (numbers > 0).unsqueeze(-1)
        if self.time is None:
            return codes * self.scale
        time = time.unsqueeze(-1)
        angles = 2 * math.pi * time.nan_to_num() * time.new_tensor(FREQUENCIES)
        of_time = self.time(torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.time.weight.dtype))
        return (codes + of_time.masked_fill(time.isnan(), 0)) * self.scale
