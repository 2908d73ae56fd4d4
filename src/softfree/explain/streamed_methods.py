"""What each method that streams does with a sample that has gone forward: values (n,) a chunk, class token included.

The split computes the last layer once more. The gradient and GradCAM go back from there to the tokens of their layer.
The rollout and a row of attention weights need the tokens of a layer twice: for what is looked with, and for what is
looked at. What a method needs again waits in the token store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from softfree.attention.streaming import TokenStats
from softfree.explain import logit_decomposition as split
from softfree.explain.activations import Entry, attention
from softfree.explain.log_odds import OfLogits
from softfree.explain.maps import Question, query_number
from softfree.explain.options import MapMethod
from softfree.models.classifier import Classifier
from softfree.models.pooling import Summary
from softfree.streaming.backward import Backward
from softfree.streaming.forward import Stream
from softfree.streaming.streamed import bar
from softfree_runtime.core.errors import UserError


class Passed(NamedTuple):
    """A sample that has gone forward: its stream, what that kept, the summaries of its chunks, whether bars show."""

    model: Classifier
    stream: Stream
    summaries: list[Summary]
    progress: bool

    @property
    def chunks(self) -> range:
        """Numbers of the chunks."""
        return range(len(self.stream.source.sizes))

    def front(self, chunk: int) -> int:
        """How many tokens of a chunk are no part of the grid, such as a class token."""
        return 0 if chunk else self.stream.source.prefix


class Method(NamedTuple):
    """A method: its values, and the layer that it looks at by itself."""

    compute: Callable[[Passed, Question], list[Tensor]]
    layer: int


def does_not_stream(method: str) -> str:
    """Say so of a method, and what to ask for instead."""
    known = ", ".join(STREAMED)
    return f"--method {method} does not stream, since it passes the sample many times: expected {known}"


def streamed_defaults(model: Classifier) -> tuple[MapMethod, MapMethod]:
    """Choose two methods that stream and whose totals agree with the prediction, the one of more use first."""
    return ("split", "gradcam") if split.has_split(model) else ("gradcam", "gradient")


def _split(passed: Passed, asked: Question) -> list[Tensor]:
    """As :func:`softfree.explain.logit_decomposition.split_odds` does, with what is known of all tokens."""
    model, stream = passed.model, passed.stream
    split.refuse(model, "gradient, gradcam, rollout or attention")
    odds = asked.odds.of_logits(stream.logits(passed.summaries), asked.target)
    if model.pool != "avg":
        return _split_weighed(passed, odds, asked.target)
    number = max(1, stream.number)
    mean = sum(total for (total,) in passed.summaries) / number
    assert isinstance(mean, Tensor)
    slope, constant = split.averaged(model, mean, odds)
    return [(tokens[0].double() @ slope[0] + constant) / number for tokens in stream.outputs()]


def _split_weighed(passed: Passed, odds: OfLogits, target: int) -> list[Tensor]:
    """Find what each token says, two numbers a token and class that counts, and then what it weighs among all."""
    model, stream = passed.model, passed.stream
    found = [split.said(model, tokens[:, passed.front(chunk) :], odds) for chunk, tokens in enumerate(stream.outputs())]
    if not found:
        return []
    whole = {
        k: (torch.cat([part[k][0] for part in found], dim=1), torch.cat([part[k][1] for part in found], dim=1))
        for k in found[0]
    }
    parts = split.weighed(model, whole, None, odds, target)
    chunks = parts[0].split([part[target][0].shape[1] for part in found])
    return [F.pad(part, (passed.front(chunk), 0)) for chunk, part in enumerate(chunks)]


def _gradient(passed: Passed, asked: Question) -> list[Tensor]:
    with _way_back(passed, asked) as entering:
        both = (entering(chunk) for chunk in passed.chunks)
        return [(tokens.double() * gradient).sum(-1)[0] for tokens, gradient in both]


def _grad_cam(passed: Passed, asked: Question) -> list[Tensor]:
    with _way_back(passed, asked) as entering:
        total = torch.zeros(passed.model.embed_dim, dtype=torch.float64, device=passed.stream.device)
        for chunk in passed.chunks:
            total += entering(chunk)[1][0, passed.front(chunk) :].sum(0, dtype=torch.float64)
        weights = total / max(1, passed.stream.number)
        tokens = (passed.stream.load(_level(passed, asked), chunk)[0].double() for chunk in passed.chunks)
        return [(part @ weights).relu() for part in tokens]


@contextmanager
def _way_back(passed: Passed, asked: Question) -> Iterator[Callable[[int], tuple[Tensor, Tensor]]]:
    """Give what leads from a chunk to its tokens and the gradient by them, in the layer that is asked for."""
    with torch.enable_grad():
        flat = [part.detach().requires_grad_() for summary in passed.summaries for part in summary]
        logits = passed.stream.logits(passed.stream.grouped(flat))
        slopes = torch.autograd.grad(asked.odds(logits, asked.target)[0], flat, materialize_grads=True)
    with bar(passed.progress, "backward", passed.stream) as advance:
        back = Backward(passed.stream, passed.stream.grouped(slopes), advance, parameters=False)
        with back.down_to(_level(passed, asked)) as entering:
            yield entering


def _level(passed: Passed, asked: Question) -> int:
    assert asked.layer is not None
    return asked.layer % len(passed.model.blocks)


def _rollout(passed: Passed, _asked: Question) -> list[Tensor]:
    """As :func:`softfree.explain.rollout.rollout` does, half and half with the residual connection."""
    weights = _looked_at(passed)
    for level in reversed(range(len(passed.stream.layers))):
        streaming, looked = passed.stream.layers[level].streaming, torch.zeros(())
        for chunk, part in enumerate(weights):
            looked = looked + part @ streaming.queries(*_seen(passed, level, chunk))  # (1, H, D)
        for chunk, part in enumerate(weights):
            mixed = looked.unsqueeze(2) @ streaming.keys(*_seen(passed, level, chunk)).mT  # (1, H, 1, n)
            weights[chunk] = (part + mixed.mean(1)[0, 0]) / 2
    return weights


def _looked_at(passed: Passed) -> list[Tensor]:
    """1 at the class token where it is pooled, else 1 / N at each token of the grid."""
    stream, token = passed.stream, passed.model.pool == "token"
    share = 0.0 if token else 1 / max(1, stream.number)
    weights = [torch.full((size,), share, dtype=stream.wide, device=stream.device) for size in stream.source.sizes]
    if weights:
        weights[0][: stream.source.prefix] = float(token)
    return weights


def _row(passed: Passed, asked: Question) -> list[Tensor]:
    """Signed weights of one token, of one head or the mean over heads."""
    level, source = _level(passed, asked), passed.stream.source
    module = attention(passed.model, level)
    if asked.head is not None and not 0 <= asked.head < module.num_heads:
        raise UserError(
            f"--head {asked.head}: the layer has {module.num_heads} heads, from 0 to {module.num_heads - 1}"
        )
    chunk, place = _find(passed, asked)
    streaming = passed.stream.layers[level].streaming
    query = streaming.queries(*_seen(passed, level, chunk))[:, :, place : place + 1]
    rows = (query @ streaming.keys(*_seen(passed, level, number)).mT for number in range(len(source.sizes)))
    return [row[0, :, 0].mean(0) if asked.head is None else row[0, asked.head, 0] for row in rows]


def _find(passed: Passed, asked: Question) -> tuple[int, int]:
    """The chunk in which the token lies whose row is asked for, and its number there."""
    source = passed.stream.source
    grid = getattr(source, "grid", (passed.stream.number,))
    mask = getattr(source, "mask", None)
    whole = torch.empty(1, 1).expand(1, source.prefix + torch.Size(grid).numel()).unsqueeze(-1)
    number = query_number(passed.model, Entry(whole, None, grid), asked.at)
    if mask is not None and number >= source.prefix:
        real = mask.flatten()
        if not real[number - source.prefix]:
            raise UserError(f"--at {asked.at}: the mask has no token there; expected a place inside what is real")
        number = source.prefix + int(real[: number - source.prefix].sum())
    for chunk, size in enumerate(source.sizes):
        if number < size:
            return chunk, number
        number -= size
    raise UserError("Got a sample without a token: there is no row to show.")


def _seen(passed: Passed, level: int, chunk: int) -> tuple[Tensor, TokenStats]:
    """A chunk's input of the attention, and the statistics of all tokens."""
    return passed.stream.layers[level].normed(passed.stream.load(level, chunk)), passed.stream.stats[level]


STREAMED: dict[str, Method] = {
    "split": Method(_split, -1),
    "gradient": Method(_gradient, 0),
    "gradcam": Method(_grad_cam, -1),
    "rollout": Method(_rollout, 0),
    "attention": Method(_row, -1),
}
