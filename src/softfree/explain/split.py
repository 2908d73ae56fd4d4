"""The exact split of a class logit over the tokens of the last layer, for heads whose logit is a sum over tokens.

An average, with z the mean of the N tokens t_n, s the deviation of z over its C features, and w, b the row of the head
for the class:

    logit = w . (gamma * (z - mean z) / s + beta) + b = sum_n g . (t_n - mean t_n) / N + (w . beta + b),
    g = w * gamma / s

The deviation s belongs to the whole image. With s as it is, the logit is a plain sum over tokens and a constant.

A head that weighs tokens, with x_n the normalized tokens and a_n their weights in the class, which sum to 1 (1 / k for
those that "topk" chooses):

    logit = sum_n a_n (w . x_n + b) + c = sum_n a_n w . (x_n - beta) + (w . beta + b + c),

where c is zero but for "lse": there it is what log mean exp(r z) / r falls short of the mean under its own weights.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from softfree.errors import UserError
from softfree.explain.passes import Entry, patch_mask, through
from softfree.models.classifier import Classifier
from softfree.models.pooling import masked_mean

MEANING = (
    "Split: the exact parts of the class logit, one for each token of the last layer; with the constant they sum to "
    "the logit. A token has seen all others by then, so that a part is not what its pixels alone would give."
)


@torch.no_grad()
def split_logit(model: Classifier, entry: Entry, class_index: int, last: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Split a class logit over the tokens.

    Args:
        model: In evaluation mode.
        entry: What :func:`~softfree.explain.passes.enter` gave.
        class_index: The output column.
        last: The tokens (B, P + N, C) after the last layer, where they are known already.

    Returns:
        The parts (B, N) and the constant (B,), float64; their sum is the logit.

    Raises:
        UserError: a head whose logit is no sum over tokens.
    """
    refuse(model, "gradient, gradcam, rollout, attention or integrated")
    mask = patch_mask(model, entry)
    tokens = model.norm(through(model, entry) if last is None else last)[:, model.num_prefix_tokens :]
    if model.pool != "avg":
        return weighed(model, *said(model, tokens, class_index), mask, class_index)
    slope = slope_at(model, masked_mean(tokens.double(), mask), class_index)
    parts = (tokens.double() @ slope.unsqueeze(2)).squeeze(2)  # (B, N)
    parts = parts / parts.shape[1] if mask is None else parts.masked_fill(~mask, 0) / mask.sum(dim=1, keepdim=True)
    return parts, constant_of(model, class_index).expand(len(parts))


def has_split(model: Classifier) -> bool:
    """Whether the logits are sums over tokens."""
    return model.pool == "avg" or (model.pool != "token" and model.pooling.weighted)


def refuse(model: Classifier, others: str) -> None:
    """Raise a UserError for a head that has no split, naming other methods."""
    if not has_split(model):
        what = "its class token" if model.pool == "token" else "the deviation of its tokens"
        raise UserError(
            f"--method split needs a logit that is a sum over the tokens, and this model pools {what}: "
            f"expected --method {others}"
        )


def slope_at(model: Classifier, mean: Tensor, class_index: int) -> Tensor:
    """Give g (B, C) of an average head, less its mean, from the means of the tokens (B, C) in float64."""
    assert isinstance(model.fc_norm, nn.LayerNorm)
    root = (mean.var(dim=1, correction=0, keepdim=True) + model.fc_norm.eps).rsqrt()  # (B, 1)
    slope = _row(model, class_index) * model.fc_norm.weight.double() * root
    return slope - slope.mean(dim=1, keepdim=True)  # the mean of t_n goes out of the slope instead


def constant_of(model: Classifier, class_index: int) -> Tensor:
    """Give w . beta + b, which no token has a part in."""
    last = cast(nn.Linear, model.head)
    constant = _row(model, class_index) @ _shift(model)
    return constant if last.bias is None else constant + last.bias[class_index]


def said(model: Classifier, tokens: Tensor, class_index: int) -> tuple[Tensor, Tensor]:
    """Give w . (x_n - beta), and what the weight of a token follows from, of normalized tokens: (B, N) in float64."""
    values = (tokens.double() - _shift(model)) @ _row(model, class_index)
    return values, model.pooling.decisive(tokens, values + constant_of(model, class_index))


def weighed(
    model: Classifier, values: Tensor, decisive: Tensor, mask: Tensor | None, class_index: int
) -> tuple[Tensor, Tensor]:
    """Give the parts (B, N) and the constant (B,) of what :func:`said` gave for all tokens."""
    weights = model.pooling.weights(decisive, mask, class_index)
    rest = model.pooling.rest(weights, mask, class_index)
    return weights * values, constant_of(model, class_index) + rest


def _row(model: Classifier, class_index: int) -> Tensor:
    return cast(nn.Linear, model.head).weight[class_index].double()


def _shift(model: Classifier) -> Tensor:
    return cast(nn.LayerNorm, model.fc_norm if model.pool == "avg" else model.norm).bias.double()
