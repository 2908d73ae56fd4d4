"""Streamed backward pass: from gradients of the pooled summaries to those of all parameters, one pass per layer.

A visit of a chunk does everything that one layer needs there. With x_l the input of layer l and s_l the sums over all
tokens that its attention needs, it

1. computes x_{l+1} from x_l again, with its graph;
2. adds to dL/dx_{l+1}, which the pass above left, the part that comes through the sums of the layer above (their
   gradient is known once that pass is over), and the gradients of the parameters before those sums;
3. differentiates x_{l+1}: dL/dx_l except for the part through the sums s_l, the gradients of the block's parameters,
   and this chunk's share of dA, dc and dcenter.

After the last chunk, the graph of C x C tensors gives the gradient of s_l. So each token is read once per layer, and
the work is that of checkpointing each block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from softfree.attention.base import wide_type
from softfree.attention.streaming import AffineMap
from softfree.models.pooling import Summary
from softfree.streaming.forward import Advance, Stream
from softfree.streaming.store import TokenStore


class Gradients:
    """Sums of gradients by parameter, in float32 or better."""

    def __init__(self) -> None:
        self.sums: dict[Tensor, Tensor] = {}

    def add(self, parameters: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
        """Add gradients; None adds nothing."""
        for parameter, grad in zip(parameters, grads, strict=True):
            if grad is not None:
                grad = grad.to(wide_type(grad))
                self.sums[parameter] = self.sums[parameter].add_(grad) if parameter in self.sums else grad.clone()


class Backward:
    """One backward pass.

    Args:
        stream: A stream after its forward pass, which kept the inputs of the layers.
        grads: dL/dsummary of each chunk whose tokens are pooled.
        advance: Called after each visit of a chunk.
        parameters: Compute gradients of the parameters, not only those of tokens.
    """

    def __init__(
        self, stream: Stream, grads: Sequence[Summary], advance: Advance = lambda: None, parameters: bool = True
    ) -> None:
        self.stream, self.grads, self.advance, self.parameters = stream, grads, advance, parameters
        self.gradients = Gradients()
        self.of_stats: list[Tensor] = []  # of the layer above

    def run(self) -> dict[Tensor, Tensor]:
        """Return the gradient of each parameter that has one, and close the stream."""
        with self._open():
            if self.stream.source.sizes:
                self._descend_to(0)
                self._reach_tokens()
        return self.gradients.sums

    @contextmanager
    def down_to(self, level: int) -> Iterator[Callable[[int], tuple[Tensor, Tensor]]]:
        """Go back to the input of a layer, and close the stream at the end.

        Yields:
            A function from a chunk's number to its tokens (1, n, C) and dL/dtokens, rounded as the store rounds.
        """

        def entering(chunk: int) -> tuple[Tensor, Tensor]:
            tokens = self.stream.load(level, chunk)
            return tokens, self._slope(level, chunk, tokens)

        with self._open():
            if self.stream.source.sizes:
                self._descend_to(level)
            yield entering

    @contextmanager
    def _open(self) -> Iterator[None]:
        stream = self.stream
        sizes, width = stream.source.sizes, stream.model.embed_dim
        with (
            stream.store or TokenStore([], width, stream.dtype),
            TokenStore(sizes, width, stream.dtype, 1, stream.place) as self.slopes,
            torch.autocast(stream.device.type, enabled=False),  # recomputation restores it
            torch.enable_grad(),
        ):
            yield

    def _descend_to(self, level: int) -> None:
        for above in reversed(range(level, len(self.stream.layers))):
            self._descend(above)

    def _wanted(self, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        return trainable(parameters) if self.parameters else []

    def _descend(self, level: int) -> None:
        """Go from the gradients of a layer's output to those of its input, without the part through its sums."""
        stream, layer = self.stream, self.stream.layers[level]
        with torch.no_grad():
            affine_map = layer.streaming.affine_map(stream.stats[level])
        affine_map = affine_map.leaf()
        totals = AffineMap(*(torch.zeros_like(tensor) for tensor in affine_map))
        model = stream.model
        above = [model.norm, model.head] if level + 1 == len(stream.layers) else []
        own = self._wanted(p for module in (layer.block, *above) for p in module.parameters())
        for chunk in range(len(stream.source.sizes)):
            x = stream.load(level, chunk).detach().requires_grad_()
            slope: Tensor | None = None
            if level + 1 < len(stream.layers) or stream.is_pooled(chunk):
                with stream.autocast():
                    out = layer(x, affine_map)
                ends, slopes = self._above(level + 1, chunk, out)
                slope, *grads = torch.autograd.grad(ends, [x, *affine_map, *own], slopes, allow_unused=True)
                for total, part in zip(totals, grads[:3], strict=True):
                    total += 0 if part is None else part
                self.gradients.add(own, grads[3:])
            self.slopes.write(0, chunk, torch.zeros_like(x) if slope is None else slope)
            self.advance()
        attention = self._wanted(layer.block.attn.parameters())
        self.of_stats, grads_of_parameters = layer.streaming.backward(stream.stats[level], totals, attention)
        self.gradients.add(attention, grads_of_parameters)

    def _above(self, level: int, chunk: int, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return what to differentiate of a chunk that enters a layer or, above the last, the pooling."""
        if level < len(self.stream.layers):
            return [x], [self._slope(level, chunk, x)]
        with self.stream.autocast():
            summary = self.stream.pool(x, chunk)
        ends = [(part, grad) for part, grad in zip(summary, self.grads[chunk], strict=True) if part.requires_grad]
        return [part for part, _ in ends], [grad for _, grad in ends]

    def _slope(self, level: int, chunk: int, x: Tensor) -> Tensor:
        """Return dL/dx of a chunk that enters a layer."""
        return self.slopes.read(0, chunk, x.dtype, x.device) + self._through_sums(level, x)

    def _through_sums(self, level: int, x: Tensor) -> Tensor:
        """Return the gradient of a chunk through the sums of a layer's attention."""
        stream, layer = self.stream, self.stream.layers[level]
        assert stream.store is not None
        x = x.detach().to(stream.store.dtype).to(x.dtype).requires_grad_()  # rounded as it entered the sums
        with stream.autocast():
            tensors, grads = layer.streaming.vjp(layer.normed(x), stream.stats[level], self.of_stats)
        own = self._wanted([*layer.block.norm1.parameters(), *layer.block.attn.parameters()])
        slope, *own_grads = torch.autograd.grad(tensors, [x, *own], grads, allow_unused=True)
        self.gradients.add(own, own_grads)
        return slope

    def _reach_tokens(self) -> None:
        """Go from the gradients of the tokens to those of the parameters that they come from."""
        own = trainable(self.stream.source.parameters)
        for chunk in range(len(self.stream.source.sizes)):
            with self.stream.autocast():
                tokens = self.stream.source.tokens(chunk)
            ends, slopes = self._above(0, chunk, tokens)
            if tokens.requires_grad:
                self.gradients.add(own, torch.autograd.grad(ends, own, slopes, allow_unused=True))
            self.advance()


def trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Filter out frozen parameters."""
    return [parameter for parameter in parameters if parameter.requires_grad]
