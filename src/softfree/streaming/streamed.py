"""Streaming for users: logits of a sample of any size, with or without a graph to its parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn

from softfree.core.progress import console
from softfree.models.bag import BagTransformer
from softfree.models.case import CaseTransformer
from softfree.models.classifier import Classifier
from softfree.models.pooling import Summary
from softfree.models.slide import SlideTransformer
from softfree.models.vit import VisionTransformer
from softfree.models.vit3d import VolumeTransformer
from softfree.streaming.backward import Backward, trainable
from softfree.streaming.bags import BagTokens
from softfree.streaming.cases import CaseTokens
from softfree.streaming.forward import Advance, Stream
from softfree.streaming.image_rows import Rows
from softfree.streaming.layers import why_model_cannot
from softfree.streaming.slides import SlideTokens
from softfree.streaming.token_sources import ImageTokens, TokenSource
from softfree.streaming.volumes import VolumeTokens
from softfree_runtime.core.errors import UserError

Sample = TokenSource | Rows | Tensor | np.ndarray


@dataclass(frozen=True)
class Streaming:
    """How to stream a sample.

    Attributes:
        store: Where tokens are kept: "ram", or a folder on a disk.
        dtype: Storage type: None for the tokens' own, or torch.bfloat16 for half the space.
        chunk: Approximate number of tokens processed at a time. More than a few thousand cost memory and save no time.
        progress: Show a progress bar.
    """

    store: str | Path = "ram"
    dtype: torch.dtype | None = None
    chunk: int = 8192
    progress: bool = False

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise UserError(f"Got chunk={self.chunk}: expected a positive number of tokens.")
        if self.dtype not in (None, torch.float32, torch.bfloat16):
            raise UserError(f"Got dtype={self.dtype} for stored tokens: expected torch.float32 or torch.bfloat16.")


def stream_forward(
    model: nn.Module, sample: Sample, streaming: Streaming | None = None, mask: Tensor | None = None
) -> Tensor:
    """Classify one sample, without gradients.

    Args:
        model: One of softfree's transformers, on its device; see
            :func:`~softfree.streaming.layers.can_stream`.
        sample: An image (channels, H, W), volume (channels, D, H, W), bag (N, F + 3) or case (R, F + 3) as a tensor or
            array (a memory-mapped one, unless of a case, is read in chunks); an image as
            :class:`~softfree.streaming.image_rows.Rows`; or any
            :class:`~softfree.streaming.token_sources.TokenSource`.
        streaming: How to stream; default: ``Streaming()``.
        mask: Boolean (N,), True for real patch tokens in raster order of an image or volume; None when all are real.

    Returns:
        Logits (1, num_classes), as ``model(sample[None], mask)`` would give.

    Raises:
        UserError: A model that cannot stream, a sample that does not fit it, or no space for the tokens.
    """
    streaming = streaming or Streaming()
    source = source_of(model, sample, streaming, mask)
    with torch.inference_mode():
        stream = _stream(model, source, streaming)
        logits = stream.logits(_run_forward(stream, streaming.progress))
    return logits.clone()  # outside inference mode, so that autograd may use it


def streamed(
    model: nn.Module, sample: Sample, streaming: Streaming | None = None, mask: Tensor | None = None
) -> Tensor:
    """Classify one sample with a graph: ``backward()`` streams, too, and fills the parameters' ``grad``.

    The inputs of all layers are kept for it and then freed: a second ``backward()`` is refused. Without gradients, this
    is :func:`stream_forward`. Arguments, result and errors are the same.
    """
    streaming = streaming or Streaming()
    parameters = trainable(model.parameters())
    if not torch.is_grad_enabled() or not parameters:
        return stream_forward(model, sample, streaming, mask)
    source = source_of(model, sample, streaming, mask)
    stream = _stream(model, source, streaming, kept_from=0)
    flat: tuple[Tensor, ...] = _StreamFunction.apply(stream, streaming.progress, *parameters)
    return stream.logits(stream.grouped(flat))


def stream_backward(
    model: nn.Module,
    sample: Sample,
    loss: Callable[[Tensor], Tensor],
    streaming: Streaming | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run forward and backward: add the gradients of ``loss(logits)`` to the parameters' ``grad``.

    Returns:
        The loss and the logits (1, num_classes), detached.
    """
    logits = streamed(model, sample, streaming, mask)
    value = loss(logits)
    value.backward()
    return value.detach(), logits.detach()


class StreamedModel(nn.Module):
    """A model that takes samples one by one, each in chunks, with the same parameters, forward and backward.

    Args:
        model: The model to stream.
        streaming: How to stream; default: ``Streaming()``.

    Raises:
        UserError: A model that cannot stream.
    """

    def __init__(self, model: nn.Module, streaming: Streaming | None = None) -> None:
        super().__init__()
        if why_model_cannot(model):
            raise UserError(why_model_cannot(model))
        self.model, self.streaming = model, streaming or Streaming()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map samples (B, ...) to logits (B, num_classes); the mask (B, N) is True for real tokens of images."""
        masks = [None] * len(x) if mask is None else list(mask)
        return torch.cat(
            [streamed(self.model, sample, self.streaming, real) for sample, real in zip(x, masks, strict=True)]
        )


def source_of(model: nn.Module, sample: Sample, streaming: Streaming, mask: Tensor | None = None) -> TokenSource:
    """Return the token source of a sample."""
    if isinstance(sample, TokenSource):
        return sample
    if isinstance(model, BagTransformer) and isinstance(sample, Tensor | np.ndarray):
        if mask is not None:
            raise UserError("Got a mask for a bag: mark padding with NaN coordinates instead.")
        return BagTokens(model, sample, streaming.chunk)
    if isinstance(model, CaseTransformer) and isinstance(sample, Tensor | np.ndarray):
        if mask is not None:
            raise UserError("Got a mask for a case of several images: mark padding with NaN instead.")
        return CaseTokens(model, sample, streaming.chunk)
    if isinstance(model, VolumeTransformer) and isinstance(sample, Tensor | np.ndarray):
        return VolumeTokens(model, sample, streaming.chunk, mask)
    if not isinstance(model, VisionTransformer) or isinstance(model, CaseTransformer):
        raise UserError(
            f"Got {type(sample).__name__} for {type(model).__name__}: expected an array of the shape that the model "
            "takes, or a TokenSource."
        )
    if isinstance(model, SlideTransformer):
        return SlideTokens(model, sample, streaming.chunk, mask)
    return ImageTokens(model, sample, streaming.chunk, mask)


class _StreamFunction(torch.autograd.Function):
    """Summaries of a stream's chunks, flattened; backward is streamed as well, under the same autocast."""

    @staticmethod
    def forward(ctx: Any, stream: Stream, progress: bool, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.stream, ctx.progress, ctx.parameters = stream, progress, parameters
        return tuple(tensor for summary in _run_forward(stream, progress) for tensor in summary)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.stream is None:
            raise UserError(
                "Got a second backward() through a stream, whose tokens have been freed: compute the logits again."
            )
        stream, ctx.stream = ctx.stream, None
        with progress_bar(ctx.progress, "backward", stream) as advance:
            gradients = Backward(stream, stream.grouped(grads), advance).run()
        return None, None, *(gradients[p].to(p.dtype) if p in gradients else None for p in ctx.parameters)


def _stream(model: nn.Module, source: TokenSource, streaming: Streaming, kept_from: int | None = None) -> Stream:
    return Stream(cast(Classifier, model), source, streaming.store, streaming.dtype, kept_from)


def _run_forward(stream: Stream, progress: bool) -> list[Summary]:
    with progress_bar(progress, "forward", stream) as advance:
        return stream.forward(advance)


@contextmanager
def progress_bar(progress: bool, description: str, stream: Stream) -> Iterator[Advance]:
    """Show the progress of a pass, if ``progress``; yield a function to call after each chunk."""
    with Progress(console=console, disable=not progress, transient=True) as bars:
        bar = bars.add_task(description, total=(len(stream.layers) + 1) * len(stream.source.sizes))
        yield lambda: bars.advance(bar)
