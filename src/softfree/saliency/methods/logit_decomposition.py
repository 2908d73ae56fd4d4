"""The exact split of a class's log odds over the tokens of the last layer, for heads whose logits are sums over tokens.

The logit of class j is sum_n l_jn. For an average, with z the mean of the N tokens t_n, s the standard deviation of z
over its C features, and w, b the row of the head:

    logit = w . (gamma * (z - mean z) / s + beta) + b = sum_n [g . (t_n - mean t_n) + w . beta + b] / N,
    g = w * gamma / s

The standard deviation s belongs to the whole image; with s fixed, the logit is a plain sum over tokens.

For a head that pools features with weights, x_n the normalized tokens and a_nc the weight of token n in feature c, such
as 1 / k for the k tokens that "topk" selects for a feature, and 0 for all others:

    logit = sum_n sum_c w_c a_nc x_nc + b

The log odds are sum_j a_j logit_j - H (:mod:`softfree.saliency.log_odds`), and the part of token n in those of class c:

    sum_j a_j l_jn - h_n H,

with h_n the mean weight of the token over the features, 1 / N for an average. So the biases and H, which belong to no
token, are distributed as the head weights its tokens, and the parts sum to the log odds: the sum of the map is positive
exactly where the probability of the class is above one half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softfree.models.classifier import Classifier
from softfree.models.pooling import Summary, masked_mean
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
        summary = model.pooling.summary(tokens.double(), mask, tokens.shape[1])
        number = odds.rest.new_full((len(tokens), 1), tokens.shape[1]) if mask is None else mask.sum(1, keepdim=True)
        split = PooledSplit(model, [summary], number.clamp(min=1), odds)
        return split.parts(0, tokens, mask, tokens.shape[1])
    slope, constant = average_head_slope(model, masked_mean(tokens.double(), mask), odds)
    parts = (tokens.double() @ slope.unsqueeze(2)).squeeze(2) + constant.unsqueeze(1)  # (B, N)
    if mask is None:
        return parts / parts.shape[1]
    return parts.masked_fill(~mask, 0) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def require_split(model: Classifier, others: str) -> None:
    """Raise a UserError for a head without a split, naming other methods."""
    if model.pool == "token":
        raise UserError(
            "--method split needs a logit that is a sum over the tokens, and this model pools its class token: "
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


class PooledSplit:
    """The split for a head that pools features with weights, from the summaries of all tokens.

    The gradient of the pooled features with respect to the tokens holds the weights, which are constant around them.

    Args:
        model: With such a head.
        summaries: Of all parts of the sample.
        number: Real tokens of each sample (B, 1).
        odds: The log odds as a sum over logits.
    """

    def __init__(self, model: Classifier, summaries: Sequence[Summary], number: Tensor, odds: LinearLogOdds) -> None:
        self.pooling = model.pooling
        row = odds.shares @ _head(model).weight.double()  # (B, C)
        self.constant = _biases(model, odds) + odds.rest  # (B,)
        flat = [part.detach().double().requires_grad_() for summary in summaries for part in summary]
        size = len(summaries[0])
        leaves = [tuple(flat[start : start + size]) for start in range(0, len(flat), size)]
        with torch.enable_grad():
            pooled = self.pooling.finish(leaves, number.double())
            ends = ((pooled * row).sum(), pooled.mean(dim=1).sum())
        slopes = [torch.autograd.grad(end, flat, retain_graph=True, materialize_grads=True) for end in ends]
        self._slopes = [[both[start : start + size] for both in slopes] for start in range(0, len(flat), size)]

    def parts(self, number: int, tokens: Tensor, mask: Tensor | None, max_tokens: int) -> Tensor:
        """Return the parts (B, n), float64, of the tokens (B, n, C) of the summary with this number."""
        if not tokens.shape[1]:
            return self.constant.new_zeros(tokens.shape[:2])
        with torch.enable_grad():
            x = tokens.detach().double().requires_grad_()
            summary = self.pooling.summary(x, mask, max_tokens)
        slope, weights = (
            torch.autograd.grad(summary, x, grads, retain_graph=True)[0] for grads in self._slopes[number]
        )
        return (x.detach() * slope).sum(dim=2) + weights.sum(dim=2) * self.constant.unsqueeze(1)


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
    number = max(1, stream.num_tokens)
    if model.pool != "avg":
        pooled = PooledSplit(model, forward.summaries, odds.rest.new_full((1, 1), number), odds)
        parts = (
            pooled.parts(chunk, tokens[:, forward.front(chunk) :], None, number)[0]
            for chunk, tokens in enumerate(stream.outputs())
        )
        return [F.pad(part, (forward.front(chunk), 0)) for chunk, part in enumerate(parts)]
    mean = sum(total for (total,) in forward.summaries) / number
    assert isinstance(mean, Tensor)
    slope, constant = average_head_slope(model, mean, odds)
    return [(tokens[0].double() @ slope[0] + constant) / number for tokens in stream.outputs()]


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
