"""Maps from one backward pass, for every attention: gradient times input and GradCAM on tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from softfree.models.classifier import Classifier
from softfree.models.pooling import masked_mean
from softfree.saliency.activations import EncoderInput, GradientPass, classify, patch_mask
from softfree.saliency.log_odds import LogOdds
from softfree.saliency.methods.base import ForwardPass, MapRequest, Method, StreamedPass
from softfree.streaming.backward import Backward
from softfree.streaming.streamed import progress_bar


def gradient_times_input(
    model: Classifier, entry: EncoderInput, gradient_pass: GradientPass, odds: LogOdds, target: int
) -> Tensor:
    """Gradient with respect to a layer's input tokens, times these tokens (Simonyan et al. 2014; Shrikumar 2016).

    The sum is the slope of the log odds as all tokens grow. Its sign means nothing: each layer begins with a norm that
    undoes the growth, so larger tokens only weaken what the layers add to them.

    Args:
        model: In evaluation mode.
        entry: From :func:`~softfree.saliency.activations.encoder_input`.
        gradient_pass: From :func:`~softfree.saliency.activations.run_blocks_with_grad`; of layer 0 for the patches
            with their positions.
        odds: Turns logits into the log odds to explain.
        target: The class.

    Returns:
        (B, N), signed; 0 for padded tokens.
    """
    tokens, gradient = _gradient(model, entry, gradient_pass, odds, target)
    return _zero_padded((tokens * gradient).sum(-1), model, entry)


def grad_cam(model: Classifier, entry: EncoderInput, gradient_pass: GradientPass, odds: LogOdds, target: int) -> Tensor:
    """GradCAM (Selvaraju et al. 2017, arXiv:1610.02391) with a layer's input tokens as feature maps.

    ``relu(sum_c a_c t_nc)``, where ``a_c`` is the mean over the grid of the gradient with respect to ``t_nc``. The
    tokens are those of the residual stream, before the layer's norm: SeqNorm removes the mean over the tokens, so that
    after the norm every a_c would be zero.

    Args:
        model: In evaluation mode.
        entry: From :func:`~softfree.saliency.activations.encoder_input`.
        gradient_pass: From :func:`~softfree.saliency.activations.run_blocks_with_grad`, usually of the last layer.
        odds: Turns logits into the log odds to explain.
        target: The class.

    Returns:
        (B, N), not negative; 0 for padded tokens.
    """
    tokens, gradient = _gradient(model, entry, gradient_pass, odds, target)
    weights = masked_mean(gradient, patch_mask(model, entry))  # (B, C)
    return _zero_padded((tokens @ weights.unsqueeze(2)).squeeze(2).relu(), model, entry)


def _gradient(
    model: Classifier, entry: EncoderInput, gradient_pass: GradientPass, odds: LogOdds, target: int
) -> tuple[Tensor, Tensor]:
    """The layer's input tokens on the grid, and the gradient with respect to them, (B, N, C) each."""
    with torch.enable_grad():
        total = odds(classify(model, entry, gradient_pass.last), target).sum()
        (gradient,) = torch.autograd.grad(total, gradient_pass.tokens)
    prefix = model.num_prefix_tokens
    return gradient_pass.tokens.detach()[:, prefix:], gradient[:, prefix:]


def _zero_padded(values: Tensor, model: Classifier, entry: EncoderInput) -> Tensor:
    mask = patch_mask(model, entry)
    return values if mask is None else values.masked_fill(~mask, 0)


def _graph(forward: ForwardPass) -> tuple[Classifier, EncoderInput, GradientPass]:
    assert forward.gradient_pass is not None
    return forward.model, forward.entry, forward.gradient_pass


def _compute_gradient(forward: ForwardPass, request: MapRequest) -> Tensor:
    return gradient_times_input(*_graph(forward), request.odds, request.target)


def _compute_grad_cam(forward: ForwardPass, request: MapRequest) -> Tensor:
    return grad_cam(*_graph(forward), request.odds, request.target)


def _stream_gradient(forward: StreamedPass, request: MapRequest) -> list[Tensor]:
    with _backward(forward, request) as load_chunk:
        both = (load_chunk(chunk) for chunk in forward.chunks)
        return [(tokens.double() * gradient).sum(-1)[0] for tokens, gradient in both]


def _stream_grad_cam(forward: StreamedPass, request: MapRequest) -> list[Tensor]:
    with _backward(forward, request) as load_chunk:
        total = torch.zeros(forward.model.embed_dim, dtype=torch.float64, device=forward.stream.device)
        for chunk in forward.chunks:
            total += load_chunk(chunk)[1][0, forward.front(chunk) :].sum(0, dtype=torch.float64)
        weights = total / max(1, forward.stream.num_tokens)
        tokens = (forward.stream.load(_level(forward, request), chunk)[0].double() for chunk in forward.chunks)
        return [(part @ weights).relu() for part in tokens]


@contextmanager
def _backward(forward: StreamedPass, request: MapRequest) -> Iterator[Callable[[int], tuple[Tensor, Tensor]]]:
    """Yield a function from a chunk to its tokens, and the gradient with respect to them, in the requested layer."""
    with torch.enable_grad():
        flat = [part.detach().requires_grad_() for summary in forward.summaries for part in summary]
        logits = forward.stream.logits(forward.stream.grouped(flat))
        slopes = torch.autograd.grad(request.odds(logits, request.target)[0], flat, materialize_grads=True)
    with progress_bar(forward.progress, "backward", forward.stream) as advance:
        back = Backward(forward.stream, forward.stream.grouped(slopes), advance, parameters=False)
        with back.backward_to(_level(forward, request)) as load_chunk:
            yield load_chunk


def _level(forward: StreamedPass, request: MapRequest) -> int:
    return request.layer % len(forward.model.blocks)


GRADIENT = Method(
    title="Gradient times input",
    meaning=(
        "how the log odds of the class would change, to first order, if a token grew; it looks at one point only, "
        "where a confident model is flat, and neither its sum nor its sign tells what was predicted."
    ),
    compute=_compute_gradient,
    stream=_stream_gradient,
    layer=0,
    takes=frozenset({"layer"}),
    needs_gradient=True,
)
GRADCAM = Method(
    title="GradCAM",
    meaning=(
        "where those features are strong that on average raise the log odds of the class; evidence against the class "
        "is not shown, and the values do not sum to the log odds."
    ),
    compute=_compute_grad_cam,
    stream=_stream_grad_cam,
    signed=False,
    takes=frozenset({"layer"}),
    needs_gradient=True,
)
