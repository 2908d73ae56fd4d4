"""Maps of samples whose tokens are streamed in chunks, with the same values as in memory.

Whether a sample is explained in memory or streamed is also decided here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from softfree.core.precision import products_in
from softfree.models.classifier import Classifier
from softfree.saliency.activations import block, classifier
from softfree.saliency.log_odds import LogOdds
from softfree.saliency.maps import Map, class_number, explain_tensor, not_finite
from softfree.saliency.methods import (
    METHODS,
    STREAMED,
    MapRequest,
    StreamedPass,
    default_methods,
    does_not_stream,
    known_method,
    refuse_unused,
    streamed_defaults,
)
from softfree.saliency.options import MapMethod
from softfree.streaming.adaptive import AdaptiveForward
from softfree.streaming.forward import Stream
from softfree.streaming.image_rows import Rows
from softfree.streaming.streamed import Sample, Streaming, progress_bar, source_of
from softfree.streaming.token_sources import TokenSource
from softfree_runtime.core.errors import ReadError, UserError

if TYPE_CHECKING:
    from softfree.inference.run import Run


def explain_pair(
    run: Run, sample: Tensor | Rows, adaptive: AdaptiveForward, method: MapMethod | None = None, **parameters: Any
) -> tuple[Map, ...]:
    """Explain a sample by the requested method, or by default with the two most useful ones, for comparison.

    Arguments and errors are those of :func:`explain_as_fits`.

    Raises:
        ReadError: The model's numbers are not finite.
    """
    maps = tuple(_maps(run, sample, adaptive, method, **parameters))
    if not all(np.isfinite(map_.values).all() for map_ in maps):  # a gradient may overflow where logits do not
        raise not_finite()
    return maps


def _maps(
    run: Run, sample: Tensor | Rows, adaptive: AdaptiveForward, method: MapMethod | None, **parameters: Any
) -> Iterator[Map]:
    if method is not None:
        yield explain_as_fits(run, sample, adaptive, method, **parameters)
        return
    model = classifier(run.model)
    first, second = default_methods(model)
    if not fits(model, sample, adaptive, first):
        first, second = streamed_defaults(model)
    first_map = explain_as_fits(run, sample, adaptive, first, **parameters)
    yield first_map
    yield explain_as_fits(run, sample, adaptive, second, target=first_map.target)


def fits(model: Classifier, sample: Tensor | Rows, adaptive: AdaptiveForward, method: str) -> bool:
    """Whether a sample is explained in memory rather than streamed."""
    if not isinstance(sample, Tensor):
        return False
    device = next(model.parameters()).device
    shape = torch.empty(1, device=device).expand(1, *sample.shape)  # the plan looks at nothing else
    with torch.set_grad_enabled(METHODS[method].keeps_layers):
        return not adaptive.streams(shape)


def explain_as_fits(
    run: Run, sample: Tensor | Rows, adaptive: AdaptiveForward, method: MapMethod | None = None, **parameters: Any
) -> Map:
    """Explain a sample in memory, or streamed if ``adaptive`` would stream it.

    Args:
        run: Whose model and classes.
        sample: As the model takes it, without a batch axis; rows of what is too long to be read at once are streamed.
        adaptive: Of the run's model.
        method: As :func:`~softfree.saliency.maps.explain_tensor` has it.
        **parameters: Target, layer, head and place, likewise.

    Raises:
        ReadError: A sample that does not fit, and a method that does not stream.
        UserError: As of :func:`explain_streamed`.
    """
    network = classifier(run.model)
    device = next(network.parameters()).device
    if fits(network, sample, adaptive, known_method(method or default_methods(network)[0])):
        assert isinstance(sample, Tensor)
        with products_in(adaptive.precision, device):
            return explain_tensor(run, sample, method, **parameters)
    if not isinstance(sample, Tensor) and adaptive.why_not_rows():
        size = f"{sample.shape[2]} x {sample.shape[1]}"
        raise ReadError(f"{size} pixels are too many to be read at once, and {adaptive.why_not_rows()}", "too_large")
    if method is not None and method not in STREAMED and adaptive.options.stream == "auto":
        raise ReadError(f"the sample does not fit in memory, and {does_not_stream(method)}", "too_large")
    with products_in(adaptive.precision, device):
        return explain_streamed(run, sample, method, streaming=adaptive.streaming, **parameters)


def explain_streamed(
    model: Run | nn.Module,
    sample: Sample,
    method: MapMethod | None = None,
    *,
    target: str | int | None = None,
    layer: int | None = None,
    head: int | None = None,
    at: Sequence[float] | None = None,
    odds: LogOdds | None = None,
    streaming: Streaming | None = None,
    mask: Tensor | None = None,
) -> Map:
    """Explain the log odds of a class for one sample, with tokens in chunks.

    The values are those of :func:`~softfree.saliency.maps.explain_tensor` up to rounding. With N tokens of width C, the
    store holds N C numbers for ``split``; for the others N C for each layer from the one that they use to the last,
    and N C more for ``gradient`` and ``gradcam``.

    Args:
        model: A run, or a classifier that can stream, in evaluation mode.
        sample: As :func:`~softfree.streaming.streamed.stream_forward` takes it.
        method: A key of :data:`~softfree.saliency.methods.STREAMED`; default: the split, or GradCAM where the
            model has none.
        target: As in memory, like ``layer``, ``head`` and ``at``.
        layer: See there.
        head: See there.
        at: See there; a place where the mask has a token.
        odds: See there.
        streaming: How; default :class:`~softfree.streaming.streamed.Streaming`.
        mask: Boolean (N,), True for real tokens of a grid; None if all are.

    Raises:
        UserError: What cannot be asked in memory, a model that cannot stream, a method that does not, or no space for
            the tokens.
    """
    network = classifier(model if isinstance(model, nn.Module) else model.model)
    name = streamed_defaults(network)[0] if method is None else known_method(method)
    refuse_unused(name, layer=layer, head=head, at=at)
    spec, streaming = METHODS[name], streaming or Streaming()
    if spec.stream is None:
        raise UserError(does_not_stream(name))
    layer = spec.layer if layer is None else layer
    block(network, layer)
    source = source_of(network, sample, streaming, mask)
    stream = Stream(network, source, streaming.store, streaming.dtype, layer % len(network.blocks))
    try:
        with torch.no_grad():
            with progress_bar(streaming.progress, "forward", stream) as advance:
                summaries = stream.forward(advance)
            logits = stream.logits(summaries).double()
            logits_of_sample = logits[0].cpu().numpy()
            index = class_number(model, network, target, logits_of_sample)
            odds = odds or LogOdds.of(model)
            forward = StreamedPass(network, stream, summaries, streaming.progress)
            values = spec.stream(forward, MapRequest(index, layer, head, at, odds))
    finally:
        stream.close()
        torch.clear_autocast_cache()  # weights that were cast here have no graph
    return Map(_on_grid(values, source), name, index, logits_of_sample, float(odds(logits, index)[0]))


def _on_grid(values: Sequence[Tensor], source: TokenSource) -> np.ndarray:
    """Put the values (n,) of all chunks, including the class token, on the grid of tokens; 0 for masked tokens."""
    flat = np.concatenate([np.empty(0), *(part.double().cpu().numpy() for part in values)])[source.prefix :]
    mask = getattr(source, "mask", None)
    grid = getattr(source, "grid", flat.shape)
    if mask is None:
        return flat.reshape(grid)
    out = np.zeros(grid)
    out[mask.cpu().numpy().reshape(grid)] = flat
    return out
