"""The exact split of a class's log odds over the tokens of the last layer, for heads whose logits are sums over tokens.

A logit of class j is sum_n l_jn. For an average, with z the mean of the N tokens t_n, s the deviation of z over its C
features, and w, b the row of the head:

    logit = w . (gamma * (z - mean z) / s + beta) + b = sum_n [g . (t_n - mean t_n) + w . beta + b] / N,
    g = w * gamma / s

The deviation s belongs to the whole image. With s as it is, the logit is a plain sum over tokens.

For a head that weighs tokens, with x_n the normalized tokens and a_n their weights in the class, which sum to 1 (1 / k
for those that "topk" chooses):

    logit = sum_n a_n (w . x_n + b + c),

where c is zero but for "lse": there it is what log mean exp(r z) / r falls short of the mean under its own weights.

The log odds are sum_j a_j logit_j - H (:mod:`softfree.explain.log_odds`), and a token's part in those of class c is

    sum_j a_j l_jn - h_n H,

with h_n the weight of the token in class c, 1 / N for an average. So what belongs to no token, the biases and H, is
shared out as the head weighs its tokens, and the parts sum to the log odds: the map is for the class as a whole exactly
where its probability is above a half.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from softfree.explain.activations import Entry, patch_mask
from softfree.explain.log_odds import OfLogits
from softfree.models.classifier import Classifier
from softfree.models.pooling import masked_mean
from softfree_runtime.core.errors import UserError

MEANING = (
    "Split: the exact parts of the log odds of the class, one for each token of the last layer; they sum to the log "
    "odds. A token has seen all others by then, so that a part is not what its pixels alone would give."
)


@torch.no_grad()
def split_odds(model: Classifier, entry: Entry, last: Tensor, odds: OfLogits, target: int) -> Tensor:
    """Split the log odds of a class over the tokens.

    Args:
        model: In evaluation mode.
        entry: What :func:`~softfree.explain.activations.enter` gave.
        last: The tokens (B, P + N, C) after the last layer.
        odds: The log odds as a sum over logits.
        target: The class.

    Returns:
        The parts (B, N), float64; 0 for padded tokens. Their sum is the log odds.

    Raises:
        UserError: a head whose logits are no sums over tokens.
    """
    refuse(model, "gradient, gradcam, rollout, attention or integrated")
    mask = patch_mask(model, entry)
    tokens = model.norm(last)[:, model.num_prefix_tokens :]
    if model.pool != "avg":
        return weighed(model, said(model, tokens, odds), mask, odds, target)
    slope, constant = averaged(model, masked_mean(tokens.double(), mask), odds)
    parts = (tokens.double() @ slope.unsqueeze(2)).squeeze(2) + constant.unsqueeze(1)  # (B, N)
    if mask is None:
        return parts / parts.shape[1]
    return parts.masked_fill(~mask, 0) / mask.sum(dim=1, keepdim=True).clamp(min=1)


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


def averaged(model: Classifier, mean: Tensor, odds: OfLogits) -> tuple[Tensor, Tensor]:
    """Give g (B, C) of an average head, less its mean, and what is the same for all tokens (B,), for the log odds.

    Args:
        model: With an average head.
        mean: Of the tokens (B, C), float64.
        odds: The log odds as a sum over logits.
    """
    assert isinstance(model.fc_norm, nn.LayerNorm)
    root = (mean.var(dim=1, correction=0, keepdim=True) + model.fc_norm.eps).rsqrt()  # (B, 1)
    row = odds.shares @ _head(model).weight.double()  # (B, C)
    slope = row * model.fc_norm.weight.double() * root
    # The mean of t_n goes out of the slope instead.
    return slope - slope.mean(dim=1, keepdim=True), row @ model.fc_norm.bias.double() + _biases(model, odds) + odds.rest


def said(model: Classifier, tokens: Tensor, odds: OfLogits) -> dict[int, tuple[Tensor, Tensor]]:
    """Give the logits of normalized tokens, and what their weights follow from, of each class that counts.

    Returns:
        By the number of the class, (B, N) in float64 each.
    """
    head, found = _head(model), {}
    for k in odds.shares.any(dim=0).nonzero()[:, 0].tolist():
        logits = tokens.double() @ head.weight[k].double()
        logits = logits if head.bias is None else logits + head.bias[k].double()
        found[k] = logits, model.pooling.decisive(tokens, logits)
    return found


def weighed(
    model: Classifier,
    spoken: Mapping[int, tuple[Tensor, Tensor]],
    mask: Tensor | None,
    odds: OfLogits,
    target: int,
) -> Tensor:
    """Give the parts (B, N) of what :func:`said` gave for all tokens."""
    parts = torch.zeros_like(spoken[target][0])
    for k, (logits, decisive) in spoken.items():
        weights = model.pooling.weights(decisive, mask, k)
        logits = logits + model.pooling.rest(weights, mask, k).unsqueeze(1)
        parts += odds.shares[:, k : k + 1] * weights * logits
        if k == target:
            parts += odds.rest.unsqueeze(1) * weights
    return parts


def _head(model: Classifier) -> nn.Linear:
    return cast(nn.Linear, model.head)


def _biases(model: Classifier, odds: OfLogits) -> Tensor:
    bias = _head(model).bias
    return odds.rest.new_zeros(()) if bias is None else odds.shares @ bias.double()
