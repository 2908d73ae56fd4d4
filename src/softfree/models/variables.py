"""Embedding of clinical variables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from softfree.models.classifier import init_linear
from softfree_runtime.core.errors import UserError


class VariableEmbedding(nn.Module):
    """The sum of an embedding for each known variable: a line for a number, a row of a table for a category.

    Such embeddings are the tokens of FT-Transformer (Gorishniy et al., Revisiting Deep Learning Models for Tabular
    Data, NeurIPS 2021, section 3.3). Here they are added to the tokens of the images: in attention whose cost is
    linear, and in the pooling, one token among thousands would have a thousandth of the weight.

    An unknown variable adds nothing. A category adds to what all categories have, from zero: one that training did not
    meet acts like one that is not known.

    Args:
        variables: Of each, ``categories`` (their number), or ``mean`` and ``std`` of the training samples.
        embed_dim: Width C.

    Raises:
        UserError: A variable with neither.
    """

    def __init__(self, variables: Sequence[Mapping[str, float]], embed_dim: int) -> None:
        super().__init__()
        for variable in variables:
            if set(variable) not in ({"categories"}, {"mean", "std"}) or variable.get("std", 1) <= 0:
                raise UserError(f"Got a variable {dict(variable)}: expected 'categories', or 'mean' and 'std' above 0.")
        self.scale = math.sqrt(embed_dim)  # weights of 0.02 would be lost among tokens, which are far larger
        self.variables = [dict(variable) for variable in variables]
        self.embeddings = nn.ModuleList(
            nn.Embedding(int(variable["categories"]) + 1, embed_dim)
            if "categories" in variable
            else nn.Linear(1, embed_dim).apply(init_linear)
            for variable in variables
        )
        for embedding in self.embeddings:
            if isinstance(embedding, nn.Embedding):
                nn.init.zeros_(embedding.weight)
                nn.init.normal_(embedding.weight[0], std=0.02)

    def forward(self, values: Tensor) -> Tensor:
        """Embed encoded variables (n, V), NaN where unknown: (n, C)."""
        parts = []
        for number, embedding in enumerate(self.embeddings):
            column = values[:, number]
            known = column.nan_to_num()
            if isinstance(embedding, nn.Embedding):
                code = known.long()
                part = embedding.weight[0] + embedding(code) * (code > 0).unsqueeze(1)
            else:
                variable = self.variables[number]
                part = embedding(((known - variable["mean"]) / variable["std"]).unsqueeze(1))
            parts.append(part.masked_fill(column.isnan().unsqueeze(1), 0))
        return torch.stack(parts).sum(dim=0) * self.scale

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay."""
        tables = (isinstance(embedding, nn.Embedding) for embedding in self.embeddings)
        return {f"embeddings.{number}.weight" for number, is_table in enumerate(tables) if is_table}
