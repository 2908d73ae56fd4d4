"""The methods that stream, after a streamed forward pass: values (n,) per chunk, including the class token.

The split recomputes the last layer. Gradient and GradCAM go backward from there to the input tokens of their layer.
Rollout and a row of attention weights read the tokens of a layer twice, for queries and for keys. Tokens that a method
needs again are kept in the token store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from softfree.attention.streaming import TokenStats
from softfree.models.classifier import Classifier
from softfree.models.pooling import Summary
from softfree.saliency import logit_decomposition as split
from softfree.saliency.activations import EncoderInput, attention
from softfree.saliency.log_odds import LinearLogOdds
from softfree.saliency.maps import MapRequest, query_number
from softfree.saliency.options import MapMethod
from softfree.streaming.backward import Backward
from softfree.streaming.forward import Stream
from softfree.streaming.streamed import bar
from softfree_runtime.core.errors import UserError


class StreamedPass(NamedTuple):
    """A streamed forward pass: the stream, the summaries of its chunks, and whether to show progress bars."""

    model: Classifier
    stream: Stream
    summaries: list[Summary]
    progress: bool

    @property
    def chunks(self) -> range:
        """Numbers of the chunks."""
        return range(len(self.stream.source.sizes))

    def front(self, chunk: int) -> int:
        """Number of tokens of a chunk outside the grid, such as a class token."""
        return 0 if chunk else self.stream.source.prefix


class Method(NamedTuple):
    """A method: computes values; uses ``layer`` by default."""

    compute: Callable[[StreamedPass, MapRequest], list[Tensor]]
    layer: int


def does_not_stream(method: str) -> str:
    """Error message for a method that does not stream."""
    known = ", ".join(STREAMED)
    return f"--method {method} does not stream, since it runs the sample many times: expected {known}"


def streamed_defaults(model: Classifier) -> tuple[MapMethod, MapMethod]:
    """Choose two methods that stream, the more useful one first."""
    return ("split", "gradcam") if split.has_split(model) else ("gradcam", "gradient")


def _split(forward: StreamedPass, request: MapRequest) -> list[Tensor]:
    """As :func:`softfree.saliency.logit_decomposition.split_log_odds`, from the summaries of all tokens."""
    model, stream = forward.model, forward.stream
    split.require_split(model, "gradient, gradcam, rollout or attention")
    odds = request.odds.linearize(stream.logits(forward.summaries), request.target)
    if model.pool != "avg":
        return _split_weighed(forward, odds, request.target)
    number = max(1, stream.number)
    mean = sum(total for (total,) in forward.summaries) / number
    assert isinstance(mean, Tensor)
    slope, constant = split.average_head_slope(model, mean, odds)
    return [(tokens[0].double() @ slope[0] + constant) / number for tokens in stream.outputs()]


def _split_weighed(forward: StreamedPass, odds: LinearLogOdds, target: int) -> list[Tensor]:
    """Collect two numbers per token and class with a share, and then weight them over all tokens."""
    model, stream = forward.model, forward.stream
    found = [
        split.token_logits(model, tokens[:, forward.front(chunk) :], odds)
        for chunk, tokens in enumerate(stream.outputs())
    ]
    if not found:
        return []
    whole = {
        k: (torch.cat([part[k][0] for part in found], dim=1), torch.cat([part[k][1] for part in found], dim=1))
        for k in found[0]
    }
    parts = split.weighted_parts(model, whole, None, odds, target)
    chunks = parts[0].split([part[target][0].shape[1] for part in found])
    return [F.pad(part, (forward.front(chunk), 0)) for chunk, part in enumerate(chunks)]


def _gradient(forward: StreamedPass, request: MapRequest) -> list[Tensor]:
    with _backward(forward, request) as entering:
        both = (entering(chunk) for chunk in forward.chunks)
        return [(tokens.double() * gradient).sum(-1)[0] for tokens, gradient in both]


def _grad_cam(forward: StreamedPass, request: MapRequest) -> list[Tensor]:
    with _backward(forward, request) as entering:
        total = torch.zeros(forward.model.embed_dim, dtype=torch.float64, device=forward.stream.device)
        for chunk in forward.chunks:
            total += entering(chunk)[1][0, forward.front(chunk) :].sum(0, dtype=torch.float64)
        weights = total / max(1, forward.stream.number)
        tokens = (forward.stream.load(_level(forward, request), chunk)[0].double() for chunk in forward.chunks)
        return [(part @ weights).relu() for part in tokens]


@contextmanager
def _backward(forward: StreamedPass, request: MapRequest) -> Iterator[Callable[[int], tuple[Tensor, Tensor]]]:
    """Yield a function from a chunk to its tokens, and the gradient with respect to them, in the requested layer."""
    with torch.enable_grad():
        flat = [part.detach().requires_grad_() for summary in forward.summaries for part in summary]
        logits = forward.stream.logits(forward.stream.grouped(flat))
        slopes = torch.autograd.grad(request.odds(logits, request.target)[0], flat, materialize_grads=True)
    with bar(forward.progress, "backward", forward.stream) as advance:
        back = Backward(forward.stream, forward.stream.grouped(slopes), advance, parameters=False)
        with back.down_to(_level(forward, request)) as entering:
            yield entering


def _level(forward: StreamedPass, request: MapRequest) -> int:
    assert request.layer is not None
    return request.layer % len(forward.model.blocks)


def _rollout(forward: StreamedPass, _request: MapRequest) -> list[Tensor]:
    """As :func:`softfree.saliency.rollout.rollout`, half and half with the residual connection."""
    weights = _readout_weights(forward)
    for level in reversed(range(len(forward.stream.layers))):
        streaming, looked = forward.stream.layers[level].streaming, torch.zeros(())
        for chunk, part in enumerate(weights):
            looked = looked + part @ streaming.queries(*_seen(forward, level, chunk))  # (1, H, D)
        for chunk, part in enumerate(weights):
            mixed = looked.unsqueeze(2) @ streaming.keys(*_seen(forward, level, chunk)).mT  # (1, H, 1, n)
            weights[chunk] = (part + mixed.mean(1)[0, 0]) / 2
    return weights


def _readout_weights(forward: StreamedPass) -> list[Tensor]:
    """1 at the class token where it is pooled, else 1 / N at each token of the grid."""
    stream, token = forward.stream, forward.model.pool == "token"
    share = 0.0 if token else 1 / max(1, stream.number)
    weights = [torch.full((size,), share, dtype=stream.wide, device=stream.device) for size in stream.source.sizes]
    if weights:
        weights[0][: stream.source.prefix] = float(token)
    return weights


def _row(forward: StreamedPass, request: MapRequest) -> list[Tensor]:
    """Signed weights of one token, of one head or the mean over heads."""
    level, source = _level(forward, request), forward.stream.source
    module = attention(forward.model, level)
    if request.head is not None and not 0 <= request.head < module.num_heads:
        raise UserError(
            f"--head {request.head}: the layer has {module.num_heads} heads, from 0 to {module.num_heads - 1}"
        )
    chunk, place = _find(forward, request)
    streaming = forward.stream.layers[level].streaming
    query = streaming.queries(*_seen(forward, level, chunk))[:, :, place : place + 1]
    rows = (query @ streaming.keys(*_seen(forward, level, number)).mT for number in range(len(source.sizes)))
    return [row[0, :, 0].mean(0) if request.head is None else row[0, request.head, 0] for row in rows]


def _find(forward: StreamedPass, request: MapRequest) -> tuple[int, int]:
    """The chunk of the query token, and its number within the chunk."""
    source = forward.stream.source
    grid = getattr(source, "grid", (forward.stream.number,))
    mask = getattr(source, "mask", None)
    whole = torch.empty(1, 1).expand(1, source.prefix + torch.Size(grid).numel()).unsqueeze(-1)
    number = query_number(forward.model, EncoderInput(whole, None, grid), request.at)
    if mask is not None and number >= source.prefix:
        real = mask.flatten()
        if not real[number - source.prefix]:
            raise UserError(f"--at {request.at}: the mask has no token there; expected a position inside the mask")
        number = source.prefix + int(real[: number - source.prefix].sum())
    for chunk, size in enumerate(source.sizes):
        if number < size:
            return chunk, number
        number -= size
    raise UserError("Got a sample without a token: there is no row to show.")


def _seen(forward: StreamedPass, level: int, chunk: int) -> tuple[Tensor, TokenStats]:
    """A chunk's input of the attention, and the statistics of all tokens."""
    return forward.stream.layers[level].normed(forward.stream.load(level, chunk)), forward.stream.stats[level]


STREAMED: dict[str, Method] = {
    "split": Method(_split, -1),
    "gradient": Method(_gradient, 0),
    "gradcam": Method(_grad_cam, -1),
    "rollout": Method(_rollout, 0),
    "attention": Method(_row, -1),
}
