"""Pooling of any number of tokens, whole or in parts.

A pooling reduces values (B, N, F), the features or logits of each token, to one row per sample, in two steps:
:meth:`Pooling.summary` of some tokens, and :meth:`Pooling.finish` of all summaries. In memory there is one summary; a
stream has one per chunk, and processes that share a sample have one each. Summaries are small, and the backward pass
continues from dL/dsummary to the tokens of one part alone.

timm has similar layers (``LsePlus1d``, ``AttentionPoolLatent``), but without padding and without parts.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from softfree.attention.base import wide_type, widen
from softfree_runtime.core.errors import UserError

Summary = tuple[Tensor, ...]


class Pooling(nn.Module):
    """Base of all poolings.

    Attributes:
        of_logits: Whether values are the logits of each token, and the result the sample's logits; else features.
        additive: Whether the sum of all summaries is the summary of all tokens.
        width: Numbers in the result for each of the F values.
        weighted: Whether :meth:`weights` is implemented.
    """

    of_logits = False
    additive = False
    width = 1
    weighted = True

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Pool.

        Args:
            values: (B, N, F).
            mask: Boolean (B, N), True for real tokens, or None for all. A sample without real tokens gives zeros.

        Returns:
            (B, width F).
        """
        number = values.shape[1] if mask is None else mask.sum(dim=1, keepdim=True).clamp(min=1)
        return self.finish([self.summary(values, mask, values.shape[1])], number).to(values.dtype)

    def summary(self, values: Tensor, mask: Tensor | None, max_tokens: int) -> Summary:
        """Summarize some tokens for :meth:`finish`, in float32 or better; differentiable.

        Args:
            values: (B, n, F).
            mask: Boolean (B, n) or None, as in :meth:`forward`.
            max_tokens: Number of tokens of the whole sample, with or without padding.
        """
        raise NotImplementedError

    def finish(self, summaries: Sequence[Summary], number: int | Tensor) -> Tensor:
        """Compute the result (B, width F) from the summaries of all tokens; differentiable.

        Args:
            summaries: Summaries of all parts, in any order.
            number: Real tokens of each sample (B, 1), at least 1; with one summary also one number for all samples.
        """
        raise NotImplementedError

    def weight_scores(self, tokens: Tensor, logits: Tensor) -> Tensor:
        """Compute the scores (B, N) that determine the weights, from features (B, N, C) and logits (B, N)."""
        return logits

    def weights(self, scores: Tensor, mask: Tensor | None, feature: int) -> Tensor:
        """Compute each token's weight (B, N) in one value of the result: nonnegative, with sum 1.

        Args:
            scores: What :meth:`weight_scores` gave for all tokens.
            mask: As in :meth:`forward`.
            feature: Its number.
        """
        raise NotImplementedError

    def rest(self, weights: Tensor, mask: Tensor | None, feature: int) -> Tensor:
        """Compute the remainder (B,) that is added to the sum of the weighted values."""
        return weights.new_zeros(len(weights))


class Average(Pooling):
    """The mean of the features."""

    additive = True
    weighted = False

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :class:`Pooling`."""
        return masked_mean(values, mask)

    def summary(self, values: Tensor, mask: Tensor | None, max_tokens: int) -> Summary:
        """See :class:`Pooling`: the sum."""
        return (_zero_padding(values, mask).sum(dim=1, dtype=torch.float64),)

    def finish(self, summaries: Sequence[Summary], number: int | Tensor) -> Tensor:
        """See :class:`Pooling`."""
        return torch.stack([total for (total,) in summaries]).sum(dim=0) / number


class MeanStd(Pooling):
    """The mean of the features over the tokens, then their standard deviation, which a rare finding changes more."""

    width = 2
    weighted = False
    eps = 1e-6

    def summary(self, values: Tensor, mask: Tensor | None, max_tokens: int) -> Summary:
        """See :class:`Pooling`: number, mean, and squares about the mean, which avoids cancellation."""
        values = _zero_padding(values, mask).to(wide_type(values))
        number = values.new_full((len(values), 1), values.shape[1]) if mask is None else mask.sum(1, keepdim=True)
        number = number.to(values.dtype)
        mean = values.sum(dim=1) / number.clamp(min=1)
        squares = _zero_padding((values - mean.unsqueeze(1)).square(), mask).sum(dim=1)
        return number, mean, squares

    def finish(self, summaries: Sequence[Summary], number: int | Tensor) -> Tensor:
        """See :class:`Pooling`; merged after Chan et al. 1983."""
        numbers, means, squares = (torch.stack(parts) for parts in zip(*summaries, strict=True))
        mean = (numbers * means).sum(0) / number
        variance = (squares + numbers * (means - mean).square()).sum(0) / number
        return torch.cat([mean, (variance + self.eps).sqrt()], dim=1)


class Gated(Pooling):
    """Gated attention of one query: softmax(w . (tanh(V x) * sigmoid(U x))) (Ilse et al. 2018, arXiv:1802.04712)."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.value = nn.Linear(features, features // 2)
        self.gate = nn.Linear(features, features // 2)
        self.score = nn.Linear(features // 2, 1, bias=False)

    def scores(self, values: Tensor) -> Tensor:
        """Compute the logits (B, N, 1) of the softmax."""
        return self.score(self.value(values).tanh() * self.gate(values).sigmoid())

    def summary(self, values: Tensor, mask: Tensor | None, max_tokens: int) -> Summary:
        """See :class:`Pooling`: the logarithm of the sum of all exponentials, and the mean under their weights."""
        (scores, values), exact = widen(_mask_padding(self.scores(values), mask), _zero_padding(values, mask))
        peak = scores.logsumexp(dim=1)  # (B, 1)
        with exact:
            mean = _exp(scores, peak.unsqueeze(1)).mT @ values  # (B, 1, F)
        return peak, mean.squeeze(1)

    def finish(self, summaries: Sequence[Summary], number: int | Tensor) -> Tensor:
        """See :class:`Pooling`."""
        peaks, means = (torch.stack(parts) for parts in zip(*summaries, strict=True))
        return (_exp(peaks, peaks.logsumexp(dim=0)) * means).sum(dim=0)

    def weight_scores(self, tokens: Tensor, logits: Tensor) -> Tensor:
        """See :class:`Pooling`."""
        return self.scores(tokens).squeeze(2).to(logits.dtype)

    def weights(self, scores: Tensor, mask: Tensor | None, feature: int) -> Tensor:
        """See :class:`Pooling`."""
        return _mask_padding(scores, mask).softmax(dim=1)


class LogSumExp(Pooling):
    """log mean exp(r z) / r of the tokens' logits z, with a learned sharpness r per class.

    It tends to the mean for r near 0, and to the maximum for large r.
    """

    of_logits = True

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.log_sharpness = nn.Parameter(torch.zeros(features))

    def summary(self, values: Tensor, mask: Tensor | None, max_tokens: int) -> Summary:
        """See :class:`Pooling`: the logarithm of the sum of all exponentials."""
        values = values.to(wide_type(values)) * self.log_sharpness.exp()
        return (_mask_padding(values, mask).logsumexp(dim=1),)

    def finish(self, summaries: Sequence[Summary], number: int | Tensor) -> Tensor:
        """See :class:`Pooling`."""
        total = torch.stack([part for (part,) in summaries]).logsumexp(dim=0)
        count = number.to(total.dtype) if isinstance(number, Tensor) else torch.full_like(total, number)
        return (total - count.log()).masked_fill(total == -math.inf, 0) / self.log_sharpness.exp()

    def weights(self, scores: Tensor, mask: Tensor | None, feature: int) -> Tensor:
        """See :class:`Pooling`."""
        return _mask_padding(scores * self.log_sharpness[feature].exp(), mask).softmax(dim=1)

    def rest(self, weights: Tensor, mask: Tensor | None, feature: int) -> Tensor:
        """See :class:`Pooling`: the entropy term of uneven weights."""
        number = weights.shape[1] if mask is None else mask.sum(dim=1, keepdim=True)
        return -torch.xlogy(weights, weights * number).sum(dim=1) / self.log_sharpness[feature].exp()


class TopK(Pooling):
    """The mean of each class's highest logits, those of one token in ``one_in``.

    A finding on a few of thousands of tokens gets the whole gradient, instead of its share of the tokens as in an
    average. The number of selected tokens is proportional to that of all, so that the result is stable across sizes.

    Args:
        features: F.
        one_in: One token in this many is selected, but at least four if there are as many.

    Raises:
        UserError: A number below 1.
    """

    of_logits = True
    min_tokens = 4  # the maximum of few tokens is mostly noise

    def __init__(self, features: int, one_in: int = 64) -> None:
        super().__init__(features)
        if one_in < 1:
            raise UserError(f"Got one_in={one_in}: expected a whole number from 1 on; one token of these is selected.")
        self.one_in = one_in

    def summary(self, values: Tensor, mask: Tensor | None, max_tokens: int) -> Summary:
        """See :class:`Pooling`: the highest values (B, k or n, F), the highest first."""
        share = (max_tokens + self.one_in - 1) // self.one_in
        rows = torch.sym_min(values.shape[1], torch.sym_max(self.min_tokens, share))
        return (_mask_padding(values.to(wide_type(values)), mask).topk(rows, dim=1).values,)

    def finish(self, summaries: Sequence[Summary], number: int | Tensor) -> Tensor:
        """See :class:`Pooling`."""
        top = torch.cat([part[0] for part in summaries], dim=1)
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
        return share.clamp(min=self.min_tokens).minimum(number)

    def weights(self, scores: Tensor, mask: Tensor | None, feature: int) -> Tensor:
        """See :class:`Pooling`."""
        number = torch.full_like(scores[:, :1], scores.shape[1]) if mask is None else mask.sum(1, keepdim=True)
        selected = self.num_selected(number.clamp(min=1))
        rank = _mask_padding(scores, mask).argsort(dim=1, descending=True).argsort(dim=1)
        return (rank < selected).to(scores.dtype) / selected


class MeanTopK(TopK):
    """Half the mean of all logits plus half that of the highest: for both diffuse and rare findings."""

    def summary(self, values: Tensor, mask: Tensor | None, max_tokens: int) -> Summary:
        """See :class:`Pooling`."""
        total = _zero_padding(values, mask).sum(dim=1, dtype=wide_type(values))
        return *super().summary(values, mask, max_tokens), total

    def finish(self, summaries: Sequence[Summary], number: int | Tensor) -> Tensor:
        """See :class:`Pooling`."""
        mean = torch.stack([total for _, total in summaries]).sum(dim=0) / number
        return (super().finish(summaries, number) + mean) / 2

    def weights(self, scores: Tensor, mask: Tensor | None, feature: int) -> Tensor:
        """See :class:`Pooling`."""
        uniform = torch.ones_like(scores) if mask is None else mask.to(scores.dtype)
        uniform = uniform / uniform.sum(dim=1, keepdim=True).clamp(min=1)
        return (super().weights(scores, mask, feature) + uniform) / 2


POOLINGS: dict[str, type[Pooling]] = {
    "avg": Average,
    "token": Average,  # of the class token alone
    "topk": TopK,
    "mean_topk": MeanTopK,
    "lse": LogSumExp,
    "gated": Gated,
    "mean_std": MeanStd,
}


def create_pooling(name: str, features: int, options: Mapping[str, Any]) -> Pooling:
    """Create a pooling by its name in :data:`POOLINGS`; UserError for an unknown option."""
    known = set(inspect.signature(POOLINGS[name].__init__).parameters) - {"self", "features"}
    for option in options:
        if option not in known:
            names = ", ".join(sorted(known)) or "none"
            raise UserError(f"Got the option {option!r} for pool={name!r}, whose options are: {names}.")
    return POOLINGS[name](features, **options)


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
    """Set padding to minus infinity; values (B, N) or (B, N, F)."""
    return values if mask is None else values.masked_fill(~mask.view(*mask.shape, *[1] * (values.ndim - 2)), -math.inf)


def _exp(scores: Tensor, peak: Tensor) -> Tensor:
    """Compute exp(scores - peak), 0 where both are minus infinity, as for samples of padding only."""
    return (scores - peak.clamp(min=torch.finfo(peak.dtype).min)).exp()
