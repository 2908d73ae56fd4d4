"""Attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928) as a chain of vectors: never an N x N matrix.

In each layer the weights, averaged over heads, are mixed with the residual connection; the layers are multiplied:

    u^T A_L ... A_2 A_1,        A_l = (mean_h W_l,h + I) / 2, or mean_h W_l,h + I

where u is what the head reads: the class token, or the average of the tokens. From the left, each step multiplies a
vector by W_l, which takes O(N C) for linear attentions, and for softmax as long as its forward pass.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from softfree.attention.base import wide_type
from softfree.models.classifier import Classifier
from softfree.saliency.activations import EncoderInput, attention, attention_inputs
from softfree.saliency.methods.base import ForwardPass, MapRequest, Method, StreamedPass
from softfree_runtime.core.errors import unknown_name

Residual = Literal["half", "identity"]


def rollout(
    model: Classifier, entry: EncoderInput, residual: Residual = "half", inputs: list[Tensor] | None = None
) -> Tensor:
    """Multiply the attention weights of all layers, from the head back to the tokens.

    Signed weights stay signed, and rows are not rescaled: softmax rows sum to 1, those of other attentions to anything,
    including zero.

    Args:
        model: In evaluation mode.
        entry: From :func:`~softfree.saliency.activations.encoder_input`.
        residual: "half" for (W + I) / 2, as in the paper; "identity" for W + I, as the layers compute it.
        inputs: From :func:`~softfree.saliency.activations.attention_inputs`, if already computed; the list is consumed.

    Returns:
        (B, N) for the tokens of the grid, float32 or better, without the share of a class token.

    Raises:
        UserError: An unknown residual, or an attention of another library.
    """
    if residual not in get_args(Residual):
        raise unknown_name("residual of the rollout:", residual, get_args(Residual))
    if inputs is None:
        inputs, _ = attention_inputs(model, entry)
    weights = readout_weights(model, entry)
    for layer in reversed(range(len(inputs))):
        x = inputs.pop()
        mixed = attention(model, layer).weighted_rows(x, weights, entry.mask, entry.grid).mean(dim=1)
        weights = weights + mixed if residual == "identity" else (weights + mixed) / 2
    return weights[:, model.num_prefix_tokens :]


def readout_weights(model: Classifier, entry: EncoderInput) -> Tensor:
    """Weights u (B, P + N): 1 at the class token where it is pooled, else 1 / N at each real token of the grid."""
    tokens = entry.tokens
    weights = torch.zeros(tokens.shape[:2], dtype=wide_type(tokens), device=tokens.device)
    if model.pool == "token":
        weights[:, 0] = 1
        return weights
    weights[:, model.num_prefix_tokens :] = 1
    if entry.mask is not None:
        weights = weights.masked_fill(~entry.mask, 0)
    return weights / weights.sum(dim=1, keepdim=True)


def _compute(forward: ForwardPass, _request: MapRequest) -> Tensor:
    return rollout(forward.model, forward.entry, inputs=forward.inputs)


def _stream(forward: StreamedPass, _request: MapRequest) -> list[Tensor]:
    """As :func:`rollout`; the tokens of a layer are read twice, for queries and for keys."""
    weights = _streamed_readout(forward)
    for level in reversed(range(len(forward.stream.layers))):
        streaming, looked = forward.stream.layers[level].streaming, torch.zeros(())
        for chunk, part in enumerate(weights):
            looked = looked + part @ streaming.queries(*forward.attention_input(level, chunk))  # (1, H, D)
        for chunk, part in enumerate(weights):
            mixed = looked.unsqueeze(2) @ streaming.keys(*forward.attention_input(level, chunk)).mT  # (1, H, 1, n)
            weights[chunk] = (part + mixed.mean(1)[0, 0]) / 2
    return weights


def _streamed_readout(forward: StreamedPass) -> list[Tensor]:
    """As :func:`readout_weights`, per chunk."""
    stream, token = forward.stream, forward.model.pool == "token"
    share = 0.0 if token else 1 / max(1, stream.num_tokens)
    weights = [torch.full((size,), share, dtype=stream.wide, device=stream.device) for size in stream.source.sizes]
    if weights:
        weights[0][: stream.source.prefix] = float(token)
    return weights


ROLLOUT = Method(
    title="Rollout",
    meaning=(
        "how the attention weights of all layers, mixed half and half with the residual connection, carry tokens to "
        "the head; it ignores values and MLPs, and it is the same for every class."
    ),
    compute=_compute,
    stream=_stream,
    layer=0,
    class_specific=False,
    needs_attention_inputs=True,
)
