"""The exact split of a class logit over the tokens of the last layer, for average-pooled heads.

With z the mean of the N tokens t_n, s the deviation of z over its C features, and w, b the row of the head for the
class:

    logit = w . (gamma * (z - mean z) / s + beta) + b = sum_n g . (t_n - mean t_n) / N + (w . beta + b),
    g = w * gamma / s

The deviation s belongs to the whole image. With s as it is, the logit is a plain sum over tokens and a constant.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softfree.errors import UserError
from softfree.explain.passes import Entry, patch_mask, through
from softfree.models.classifier import Classifier, masked_mean

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
        UserError: a class token is pooled, so that the logit is no sum over tokens.
    """
    if model.pool != "avg":
        raise UserError(
            "--method split needs an average over the tokens, and this model pools its class token: "
            "expected --method gradient, gradcam, rollout, attention or integrated"
        )
    assert isinstance(model.fc_norm, nn.LayerNorm)
    assert isinstance(model.head, nn.Linear)
    mask = patch_mask(model, entry)
    tokens = model.norm(through(model, entry) if last is None else last)[:, model.num_prefix_tokens :].double()
    mean = masked_mean(tokens, mask)  # (B, C)
    root = (mean.var(dim=1, correction=0, keepdim=True) + model.fc_norm.eps).rsqrt()  # (B, 1)
    row = model.head.weight[class_index].double()
    slope = row * model.fc_norm.weight.double() * root  # (B, C)
    slope = slope - slope.mean(dim=1, keepdim=True)  # the mean of t_n goes out of the slope instead
    parts = (tokens @ slope.unsqueeze(2)).squeeze(2)  # (B, N)
    parts = parts / parts.shape[1] if mask is None else parts.masked_fill(~mask, 0) / mask.sum(dim=1, keepdim=True)
    constant = row @ model.fc_norm.bias.double() + (0 if model.head.bias is None else model.head.bias[class_index])
    return parts, constant.expand(len(parts))
