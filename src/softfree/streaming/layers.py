"""The layers of a model, applied to one chunk once the sums over all tokens are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from softfree.attention.streaming import AffineMap, StreamingAttention, streaming_form, why_not_streaming
from softfree.models.classifier import Classifier
from softfree.models.encoder import Block
from softfree.models.layers import apply_in_chunks
from softfree_runtime.core.errors import UserError


@dataclass(frozen=True)
class Layer:
    """A block, its streaming attention, and the factors of its two branches in this pass (stochastic depth)."""

    block: Block
    streaming: StreamingAttention
    factors: tuple[float, float] = (1.0, 1.0)

    def normed(self, x: Tensor) -> Tensor:
        """Normalize tokens (1, n, C) for the attention."""
        return cast(Tensor, self.block.norm1(x))

    def __call__(self, x: Tensor, affine_map: AffineMap) -> Tensor:
        """Map tokens (1, n, C) to those of the next layer; without gradients, in chunks that fit the cache."""
        if not torch.is_grad_enabled():
            return apply_in_chunks(lambda chunk: self._feed(self._attend(chunk, affine_map)), x, self.block.hidden)
        return self._feed(self._attend(x, affine_map))

    def _attend(self, x: Tensor, affine_map: AffineMap) -> Tensor:
        y = self.block.ls1(self.streaming.apply(self.normed(x), affine_map))
        return x + (y if self.factors[0] == 1 else y * self.factors[0])

    def _feed(self, x: Tensor) -> Tensor:
        block, factor = self.block, self.factors[1]
        chunk_size = block.mlp_chunk if torch.is_grad_enabled() else x.shape[1]
        y = apply_in_chunks(lambda chunk: block.ls2(block.mlp(block.norm2(chunk))), x, block.hidden, chunk_size)
        return x + (y if factor == 1 else y * factor)


def layers_of(model: Classifier) -> list[Layer]:
    """Return the layers of a model; stochastic depth is drawn as the model itself would for one sample.

    Raises:
        UserError: A model that cannot stream.
    """
    reason = why_model_cannot(model)
    if reason:
        raise UserError(reason)
    layers = []
    for block in model.blocks:
        assert isinstance(block, Block)
        ones = block.norm2.weight.new_ones(1, 1, 1)
        factors = float(block.drop_path1(ones)), float(block.drop_path2(ones))
        layers.append(Layer(block, streaming_form(block.attn), factors))
    return layers


def can_stream(model: nn.Module) -> bool:
    """Whether a model can stream in its current mode (training or evaluation)."""
    return not why_model_cannot(model)


def why_model_cannot(model: nn.Module) -> str:
    """Explain why a model cannot stream; empty if it can."""
    if not isinstance(model, Classifier):
        return (
            f"{type(model).__name__} cannot stream: expected one of softfree's transformers, such as seqnorm_vit_tiny."
        )
    for block in model.blocks:
        assert isinstance(block, Block)
        if why_not_streaming(block.attn):
            return why_not_streaming(block.attn)
        if block.pos_conv is not None:
            return "Got pos_conv=True, whose tokens need their neighbors: create the model without it to stream."
        if any(isinstance(layer, nn.Dropout) and layer.training and layer.p for layer in block.modules()):
            return "Got proj_drop in training, which a stream cannot repeat in its backward pass: use drop_path_rate."
    return ""
