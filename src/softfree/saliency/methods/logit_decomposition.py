"""The exact split of a class's log odds over the tokens of the last layer, for heads whose logits are sums over tokens.

The logit of class j is sum_n l_jn. For an average, with z the mean of the N tokens t_n, s the standard deviation of z
over its C features, and w, b the row of the head:

    logit = w . (gamma * (z - mean z) / s + beta) + b = sum_n [g . (t_n - mean t_n) + w . beta + b] / N,
    g = w * gamma / s

The standard deviation s belongs to the whole image; with s fixed, the logit is a plain sum over tokens.

For a head that weights tokens, with x_n the normalized tokens and a_n their weights in the class, which sum to 1 (1 / k
for the tokens that "topk" selects):

    logit = sum_n a_n (w . x_n + b + c),

where c is zero except for "lse": there it is log mean exp(r z) / r minus the mean under its own weights.

The log odds are sum_j a_j logit_j - H (:mod:`softfree.saliency.log_odds`), and the part of token n in those of class c:

    sum_j a_j l_jn - h_n H,

with h_n the weight of the token in class c, 1 / N for an average. So the biases and H, which belong to no token, are
distributed as the head weights its tokens, and the parts sum to the log odds: the sum of the map is positive exactly
where the probability of the class is above one half.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softfree.models.classifier import Classifier
from softfree.models.pooling import masked_mean
from softfree.saliency.activations import EncoderInput, patch_mask
from softfree.saliency.log_odds import LinearLogOdds
from softfree.saliency.methods.base import ForwardPass, MapRequest, Method, StreamedPass
from softfree_runtime.core.errors import UserError


@torch.no_grad()
def split_log_odds(model: Classifier, entry: EncoderInput, last: Tensor, odds: LinearLogOdds, target: int) -> Tensor:
    """Split the log odds of a class over the tokens.

    Args:
        model: In evaluation mode.
        entry: From :func:`~softfree.saliency.activations.encoder_input`.
        last: The tokens (B, P + N, C) after the last layer.
        odds: The log odds as a sum over logits.
        target: The class.

    Returns:
        The parts (B, N), float64; 0 for padded tokens. Their sum is the log odds.

    Raises:
        UserError: The logits of the head are not sums over tokens.
    """
    require_split(model, "gradient, gradcam, rollout, attention or integrated")
    mask = patch_mask(model, entry)
    tokens = model.norm(last)[:, model.num_prefix_tokens :]
    if model.pool != "avg":
        return weighted_parts(model, token_logits(model, tokens, odds), mask, odds, target)
    slope, constant = average_head_slope(model, masked_mean(tokens.double(), mask), odds)
    parts = (tokens.double() @ slope.unsqueeze(2)).squeeze(2) + constant.unsqueeze(1)  # (B, N)
    if mask is None:
        return parts / parts.shape[1]
    return parts.masked_fill(~mask, 0) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def has_split(model: Classifier) -> bool:
    """Whether the logits are sums over tokens."""
    return model.pool == "avg" or (model.pool != "token" and model.pooling.weighted)


def require_split(model: Classifier, others: str) -> None:
    """Raise a UserError for a head without a split, naming other methods."""
    if not has_split(model):
        pooled = "its class token" if model.pool == "token" else "the standard deviation of its tokens"
        raise UserError(
            f"--method split needs a logit that is a sum over the tokens, and this model pools {pooled}: "
            f"expected --method {others}"
        )


def average_head_slope(model: Classifier, mean: Tensor, odds: LinearLogOdds) -> tuple[Tensor, Tensor]:
    """Compute g (B, C) of an average head, minus its mean, and the constant of all tokens (B,), for the log odds.

    Args:
        model: With an average head.
        mean: Of the tokens (B, C), float64.
        odds: The log odds as a sum over logits.
    """
    assert isinstance(model.fc_norm, nn.LayerNorm)
    root = (mean.var(dim=1, correction=0, keepdim=True) + model.fc_norm.eps).rsqrt()  # (B, 1)
    row = odds.shares @ _head(model).weight.double()  # (B, C)
    slope = row * model.fc_norm.weight.double() * root
    # The mean of t_n is subtracted from the slope instead.
    return slope - slope.mean(dim=1, keepdim=True), row @ model.fc_norm.bias.double() + _biases(model, odds) + odds.rest


def token_logits(model: Classifier, tokens: Tensor, odds: LinearLogOdds) -> dict[int, tuple[Tensor, Tensor]]:
    """Logits of normalized tokens, and what their weights follow from, of each class with a share.

    Returns:
        (B, N) in float64 each, by class number.
    """
    head, by_class = _head(model), {}
    for k in odds.shares.any(dim=0).nonzero()[:, 0].tolist():
        logits = tokens.double() @ head.weight[k].double()
        logits = logits if head.bias is None else logits + head.bias[k].double()
        by_class[k] = logits, model.pooling.weight_scores(tokens, logits)
    return by_class


def weighted_parts(
    model: Classifier,
    logits_by_class: Mapping[int, tuple[Tensor, Tensor]],
    mask: Tensor | None,
    odds: LinearLogOdds,
    target: int,
) -> Tensor:
    """Parts (B, N) of all tokens, from :func:`token_logits`."""
    parts = torch.zeros_like(logits_by_class[target][0])
    for k, (logits, decisive) in logits_by_class.items():
        weights = model.pooling.weights(decisive, mask, k)
        logits = logits + model.pooling.rest(weights, mask, k).unsqueeze(1)
        parts += odds.shares[:, k : k + 1] * weights * logits
        if k == target:
            parts += odds.rest.unsqueeze(1) * weights
    return parts


def _head(model: Classifier) -> nn.Linear:
    return cast(nn.Linear, model.head)


def _biases(model: Classifier, odds: LinearLogOdds) -> Tensor:
    bias = _head(model).bias
    return odds.rest.new_zeros(()) if bias is None else odds.shares @ bias.double()


def _compute(forward: ForwardPass, request: MapRequest) -> Tensor:
    shares = request.odds.linearize(forward.logits, request.target)
    return split_log_odds(forward.model, forward.entry, forward.last, shares, request.target)


def _stream(forward: StreamedPass, request: MapRequest) -> list[Tensor]:
    """As :func:`split_log_odds`, from the summaries of all tokens; the last layer is computed again."""
    model, stream = forward.model, forward.stream
    require_split(model, "gradient, gradcam, rollout or attention")
    odds = request.odds.linearize(stream.logits(forward.summaries), request.target)
    if model.pool != "avg":
        return _stream_weighted(forward, odds, request.target)
    number = max(1, stream.number)
    mean = sum(total for (total,) in forward.summaries) / number
    assert isinstance(mean, Tensor)
    slope, constant = average_head_slope(model, mean, odds)
    return [(tokens[0].double() @ slope[0] + constant) / number for tokens in stream.outputs()]


def _stream_weighted(forward: StreamedPass, odds: LinearLogOdds, target: int) -> list[Tensor]:
    """Collect two numbers per token and class with a share, and then weight them over all tokens."""
    model, stream = forward.model, forward.stream
    chunk_logits = [
        token_logits(model, tokens[:, forward.front(chunk) :], odds) for chunk, tokens in enumerate(stream.outputs())
    ]
    if not chunk_logits:
        return []
    whole = {
        k: (
            torch.cat([part[k][0] for part in chunk_logits], dim=1),
            torch.cat([part[k][1] for part in chunk_logits], dim=1),
        )
        for k in chunk_logits[0]
    }
    parts = weighted_parts(model, whole, None, odds, target)
    chunks = parts[0].split([part[target][0].shape[1] for part in chunk_logits])
    return [F.pad(part, (forward.front(chunk), 0)) for chunk, part in enumerate(chunks)]


SPLIT = Method(
    title="Split",
    meaning=(
        "the exact parts of the log odds of the class, one for each token of the last layer; they sum to the log "
        "odds. By then a token has seen all others, so a part is not what its pixels alone would give."
    ),
    compute=_compute,
    stream=_stream,
    keeps_layers=False,
)
