"""Pooling of any number of tokens, all together or in chunks.

A pooling reduces tokens (B, N, C) to one row (B, C) per sample, in two steps: :meth:`Pooling.summary` of some tokens,
and :meth:`Pooling.finish` of all summaries. In memory there is one summary; a stream has one per chunk, and processes
that share a sample have one each. Summaries are small, and the backward pass continues from dL/dsummary to the tokens
of one chunk alone.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from softfree.attention.base import wide_type
from softfree_runtime.core.errors import UserError

Summary = tuple[Tensor, ...]


class Pooling(nn.Module):
    """Base of all poolings: each number of the result is a weighted mean of the tokens' values of that feature.

    Attributes:
        additive: Whether the sum of all summaries is the summary of all tokens.
    """

    additive = False

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool the tokens of each sample.

        Args:
            values: (B, N, C).
            mask: Boolean (B, N), True for real tokens, or None for all. A sample without real tokens gives zeros.

        Returns:
            (B, C).
        """
        number = values.shape[1] if mask is None else mask.sum(dim=1, keepdim=True).clamp(min=1)
        return self.finish([self.summary(values, mask, values.shape[1])], number).to(values.dtype)

    def summary(self, values: Tensor, mask: Tensor | None, max_tokens: int) -> Summary:
        """Summarize some tokens for :meth:`finish`, in float32 or better; differentiable.

        Args:
            values: (B, n, C).
            mask: Boolean (B, n) or None, as in :meth:`forward`.
            max_tokens: Number of tokens of the whole sample, with or without padding.
        """
        raise NotImplementedError

    def merge(self, first: Summary, second: Summary, max_tokens: int) -> Summary:
        """Summarize the tokens of two summaries together, of a sample with ``max_tokens``."""
        raise NotImplementedError

    def finish(self, summaries: Sequence[Summary], number: int | Tensor) -> Tensor:
        """Compute the result (B, C) from the summaries of all tokens; differentiable.

        Args:
            summaries: Summaries of all chunks, in any order.
            number: Real tokens of each sample (B, 1), at least 1; with one summary also one number for all samples.
        """
        raise NotImplementedError


class Average(Pooling):
    """The mean over the tokens."""

    additive = True

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :class:`Pooling`."""
        return masked_mean(values, mask)

    def summary(self, values: Tensor, mask: Tensor | None, max_tokens: int) -> Summary:
        """See :class:`Pooling`: the sum."""
        return (_zero_padding(values, mask).sum(dim=1, dtype=torch.float64),)

    def merge(self, first: Summary, second: Summary, max_tokens: int) -> Summary:
        """See :class:`Pooling`."""
        return (first[0] + second[0],)

    def finish(self, summaries: Sequence[Summary], number: int | Tensor) -> Tensor:
        """See :class:`Pooling`."""
        return torch.stack([total for (total,) in summaries]).sum(dim=0) / number


class TopK(Pooling):
    """The mean of each feature's highest values, one token in ``one_in``.

    A finding on a few of thousands of tokens gets the whole gradient, instead of its small share in an average. Each
    feature selects its own tokens: whatever the initial weights, about half of the features have their highest values
    at the tokens that differ from the rest. If each class selected tokens by its own logit instead, with few classes
    they could all have their lowest there, and training would stay at chance.
    The number of selected tokens is proportional to the number of tokens, so that the result is stable across sizes.

    Args:
        one_in: One token in this many is selected, but at least four (or all, if fewer) and at most 1,024.

    Raises:
        UserError: A number below 1.
    """

    min_tokens = 4  # the maximum of few tokens is mostly noise
    most_tokens = 1024  # bounds the memory of a stream

    def __init__(self, one_in: int = 256) -> None:
        super().__init__()
        if one_in < 1:
            raise UserError(f"Got one_in={one_in}: expected a positive integer; one token in this many is selected.")
        self.one_in = one_in

    def summary(self, values: Tensor, mask: Tensor | None, max_tokens: int) -> Summary:
        """See :class:`Pooling`: the highest values (B, k or n, C), the highest first."""
        values = _mask_padding(values.to(wide_type(values)), mask)
        return (self._highest(values, max_tokens),)

    def merge(self, first: Summary, second: Summary, max_tokens: int) -> Summary:
        """See :class:`Pooling`."""
        return (self._highest(torch.cat([first[0], second[0]], dim=1), max_tokens),)

    def finish(self, summaries: Sequence[Summary], number: int | Tensor) -> Tensor:
        """See :class:`Pooling`."""
        top = torch.cat([summary[0] for summary in summaries], dim=1)
        if not isinstance(number, Tensor):
            return top.mean(dim=1)
        selected = self.num_selected(number)
        if len(summaries) > 1:
            top = top.topk(min(int(selected.max()), top.shape[1]), dim=1).values
        beyond = torch.arange(top.shape[1], device=top.device) >= selected
        return top.masked_fill(beyond.unsqueeze(2) | (top == -math.inf), 0).sum(dim=1) / selected

    def num_selected(self, number: Tensor) -> Tensor:
        """Compute how many of ``number`` tokens (B, 1) are selected."""
        share = (number + self.one_in - 1) // self.one_in
        return share.clamp(min=self.min_tokens, max=self.most_tokens).minimum(number)

    def _highest(self, values: Tensor, max_tokens: int) -> Tensor:
        share = torch.sym_max(self.min_tokens, (max_tokens + self.one_in - 1) // self.one_in)
        return values.topk(torch.sym_min(values.shape[1], torch.sym_min(share, self.most_tokens)), dim=1).values


class MeanTopK(TopK):
    """Half the mean of all values plus half that of the highest: for both diffuse and rare findings."""

    def summary(self, values: Tensor, mask: Tensor | None, max_tokens: int) -> Summary:
        """See :class:`Pooling`."""
        total = _zero_padding(values, mask).sum(dim=1, dtype=wide_type(values))
        return *super().summary(values, mask, max_tokens), total

    def merge(self, first: Summary, second: Summary, max_tokens: int) -> Summary:
        """See :class:`Pooling`."""
        return *super().merge(first[:1], second[:1], max_tokens), first[1] + second[1]

    def finish(self, summaries: Sequence[Summary], number: int | Tensor) -> Tensor:
        """See :class:`Pooling`."""
        mean = torch.stack([total for _, total in summaries]).sum(dim=0) / number
        return (super().finish(summaries, number) + mean) / 2


POOLINGS: dict[str, type[Pooling]] = {
    "avg": Average,
    "token": Average,  # of the class token alone
    "topk": TopK,
    "mean_topk": MeanTopK,
}


def create_pooling(name: str, options: Mapping[str, Any]) -> Pooling:
    """Create a pooling by its name in :data:`POOLINGS`; UserError for an unknown option."""
    known = set(inspect.signature(POOLINGS[name].__init__).parameters) - {"self", "args", "kwargs"}
    for option in options:
        if option not in known:
            names = ", ".join(sorted(known)) or "none"
            raise UserError(f"Got the option {option!r} for pool={name!r}, whose options are: {names}.")
    return POOLINGS[name](**options)


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


def _zero_padding(values: Tensor, mask: Tensor | None) -> Tensor:
    """Set padding to zero."""
    return values if mask is None else values.masked_fill(~mask.unsqueeze(2), 0)


def _mask_padding(values: Tensor, mask: Tensor | None) -> Tensor:
    """Set padding to minus infinity."""
    return values if mask is None else values.masked_fill(~mask.unsqueeze(2), -math.inf)
