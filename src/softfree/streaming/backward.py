"""Streamed backward pass: from gradients of the pooled summaries to those of all parameters, one pass per layer.

The pass of layer l visits each chunk once. With x_l the input of layer l and s_l the sums over all tokens that its
attention needs, a visit

1. recomputes x_{l+1} from x_l, with its graph;
2. adds to dL/dx_{l+1}, which the previous pass left, the part that comes through the sums of the layer above (their
   gradient is known once that pass is over), and the gradients of the parameters before those sums;
3. differentiates x_{l+1}: dL/dx_l except for the part through the sums s_l, the gradients of the block's parameters,
   and this chunk's share of dA, dc and dcenter.

After the last chunk, the graph of C x C tensors gives the gradient of s_l. Each token is read once per layer, and the
work is that of checkpointing each block.
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
        advance: Called after each chunk.
        parameters: Also compute gradients of the parameters, not only of the tokens.
    """

    def __init__(
        self, stream: Stream, grads: Sequence[Summary], advance: Advance = lambda: None, parameters: bool = True
    ) -> None:
        self.stream, self.grads, self.advance, self.parameters = stream, grads, advance, parameters
        self.gradients = Gradients()
        self.stat_grads: list[Tensor] = []  # of the layer above

    def run(self) -> dict[Tensor, Tensor]:
        """Return the gradient of each parameter that has one, and close the stream."""
        with self._open():
            if self.stream.source.sizes:
                self._backward_layers(0)
                self._backward_tokenizer()
        return self.gradients.sums

    @contextmanager
    def backward_to(self, level: int) -> Iterator[Callable[[int], tuple[Tensor, Tensor]]]:
        """Propagate back to the input of a layer, and close the stream at the end.

        Yields:
            A function from a chunk's number to its tokens (1, n, C) and dL/dtokens, rounded as in the store.
        """

        def load_chunk(chunk: int) -> tuple[Tensor, Tensor]:
            tokens = self.stream.load(level, chunk)
            return tokens, self._token_grad(level, chunk, tokens)

        with self._open():
            if self.stream.source.sizes:
                self._backward_layers(level)
            yield load_chunk

    @contextmanager
    def _open(self) -> Iterator[None]:
        stream = self.stream
        sizes, width = stream.source.sizes, stream.model.embed_dim
        with (
            stream.store or TokenStore([], width, stream.dtype),
            TokenStore(sizes, width, stream.dtype, 1, stream.location) as self.token_grads,
            torch.autocast(stream.device.type, enabled=False),  # recomputation restores it
            torch.enable_grad(),
        ):
            yield

    def _backward_layers(self, level: int) -> None:
        for number in reversed(range(level, len(self.stream.layers))):
            self._backward_layer(number)

    def _trainable(self, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
        return trainable(parameters) if self.parameters else []

    def _backward_layer(self, level: int) -> None:
        """Compute the gradients of a layer's input from those of its output, without the part through its sums."""
        stream, layer = self.stream, self.stream.layers[level]
        with torch.no_grad():
            affine_map = layer.streaming.affine_map(stream.stats[level])
        affine_map = affine_map.leaf()
        totals = AffineMap(*(torch.zeros_like(tensor) for tensor in affine_map))
        model = stream.model
        last_modules = [model.norm, model.head] if level + 1 == len(stream.layers) else []
        parameters = self._trainable(p for module in (layer.block, *last_modules) for p in module.parameters())
        for chunk in range(len(stream.source.sizes)):
            x = stream.load(level, chunk).detach().requires_grad_()
            token_grad: Tensor | None = None
            if level + 1 < len(stream.layers) or stream.is_pooled(chunk):
                with stream.autocast():
                    out = layer(x, affine_map)
                outputs, out_grads = self._above(level + 1, chunk, out)
                token_grad, *grads = torch.autograd.grad(
                    outputs, [x, *affine_map, *parameters], out_grads, allow_unused=True
                )
                for total, grad in zip(totals, grads[:3], strict=True):
                    total += 0 if grad is None else grad
                self.gradients.add(parameters, grads[3:])
            self.token_grads.write(0, chunk, torch.zeros_like(x) if token_grad is None else token_grad)
            self.advance()
        attention = self._trainable(layer.block.attn.parameters())
        self.stat_grads, attention_grads = layer.streaming.backward(stream.stats[level], totals, attention)
        self.gradients.add(attention, attention_grads)

    def _above(self, level: int, chunk: int, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the tensors to differentiate, and their gradients, of a chunk that enters a layer or the pooling."""
        if level < len(self.stream.layers):
            return [x], [self._token_grad(level, chunk, x)]
        with self.stream.autocast():
            summary = self.stream.pool(x, chunk)
        pairs = [pair for pair in zip(summary, self.grads[chunk], strict=True) if pair[0].requires_grad]
        return [tensor for tensor, _ in pairs], [grad for _, grad in pairs]

    def _token_grad(self, level: int, chunk: int, x: Tensor) -> Tensor:
        """Return dL/dx of a chunk x that enters a layer."""
        return self.token_grads.read(0, chunk, x.dtype, x.device) + self._through_sums(level, x)

    def _through_sums(self, level: int, x: Tensor) -> Tensor:
        """Return the gradient of a chunk through the sums of a layer's attention."""
        stream, layer = self.stream, self.stream.layers[level]
        assert stream.store is not None
        x = x.detach().to(stream.store.dtype).to(x.dtype).requires_grad_()  # rounded as it entered the sums
        with stream.autocast():
            tensors, grads = layer.streaming.vjp(layer.normed(x), stream.stats[level], self.stat_grads)
        parameters = self._trainable([*layer.block.norm1.parameters(), *layer.block.attn.parameters()])
        token_grad, *parameter_grads = torch.autograd.grad(tensors, [x, *parameters], grads, allow_unused=True)
        self.gradients.add(parameters, parameter_grads)
        return token_grad

    def _backward_tokenizer(self) -> None:
        """Compute the gradients of the tokenizer's parameters from those of the tokens."""
        parameters = trainable(self.stream.source.parameters)
        for chunk in range(len(self.stream.source.sizes)):
            with self.stream.autocast():
                tokens = self.stream.source.tokens(chunk)
            outputs, out_grads = self._above(0, chunk, tokens)
            if tokens.requires_grad:
                self.gradients.add(parameters, torch.autograd.grad(outputs, parameters, out_grads, allow_unused=True))
            self.advance()


def trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Filter out frozen parameters."""
    return [parameter for parameter in parameters if parameter.requires_grad]
