"""One row of a layer's attention weights, without an N x N matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from softfree.attention import Attention
from softfree.attention.base import Grid, wide_type
from softfree.models.classifier import Classifier
from softfree.saliency.activations import EncoderInput, attention
from softfree.saliency.methods.base import ForwardPass, MapRequest, Method, StreamedPass
from softfree_runtime.core.errors import UserError


def attention_row(
    module: Attention, x: Tensor, query: int, mask: Tensor | None = None, grid: Grid | None = None
) -> Tensor:
    """Compute the weights with which one token attends to all tokens, in each head, negative ones included.

    Args:
        module: In evaluation mode.
        x: Its input (B, N, C).
        query: Number of the token.
        mask: True for real tokens (B, N), or None for all.
        grid: See :meth:`~softfree.attention.Attention.forward`.

    Returns:
        (B, H, N), float32 or better; 0 for padded tokens.

    Raises:
        UserError: The method has no attention weights.
    """
    unit = torch.zeros(x.shape[:2], dtype=wide_type(x), device=x.device)
    unit[:, query] = 1
    return module.weighted_rows(x, unit, mask, grid)


def query_number(model: Classifier, entry: EncoderInput, at: Sequence[float] | None) -> int:
    """Number of the token at fractions of the sample's sides; default: a pooled class token, else the center."""
    prefix = model.num_prefix_tokens
    grid = entry.grid or (entry.tokens.shape[1] - prefix,)
    if at is None:
        if model.pool == "token":
            return 0
        at = [0.5] * len(grid)
    if len(at) != len(grid) or not all(0 <= fraction < 1 for fraction in at):
        example = ", ".join(["0.5"] * len(grid))
        raise UserError(
            f"--at {list(at)}: expected fractions of the sample's sides from 0 to below 1, as '[{example}]'"
        )
    position = [int(fraction * side) for fraction, side in zip(reversed(at), grid, strict=True)]
    return prefix + int(np.ravel_multi_index(position, grid))


def _checked_attention(model: Classifier, request: MapRequest) -> Attention:
    """Return the attention of the requested layer; UserError if it does not have the requested head."""
    module = attention(model, request.layer)
    if request.head is not None and not 0 <= request.head < module.num_heads:
        raise UserError(
            f"--head {request.head}: the layer has {module.num_heads} heads, from 0 to {module.num_heads - 1}"
        )
    return module


def _compute(forward: ForwardPass, request: MapRequest) -> Tensor:
    """Signed weights of one token, of one head or the mean over heads."""
    model, entry = forward.model, forward.entry
    module = _checked_attention(model, request)
    weights = attention_row(
        module, forward.inputs[request.layer], query_number(model, entry, request.at), entry.mask, entry.grid
    )
    weights = weights.mean(1) if request.head is None else weights[:, request.head]
    return weights[:, model.num_prefix_tokens :]


def _stream(forward: StreamedPass, request: MapRequest) -> list[Tensor]:
    """Read the tokens of the layer for their keys, once the query is known."""
    _checked_attention(forward.model, request)
    layer = request.layer % len(forward.model.blocks)
    streaming = forward.stream.layers[layer].streaming
    query_chunk, number = _query_position(forward, request)
    query = streaming.queries(*forward.attention_input(layer, query_chunk))[:, :, number : number + 1]
    rows = (query @ streaming.keys(*forward.attention_input(layer, chunk)).mT for chunk in forward.chunks)
    return [row[0, :, 0].mean(0) if request.head is None else row[0, request.head, 0] for row in rows]


def _query_position(forward: StreamedPass, request: MapRequest) -> tuple[int, int]:
    """The chunk of the query token, and its number within the chunk."""
    source = forward.stream.source
    grid = getattr(source, "grid", (forward.stream.num_tokens,))
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


ATTENTION = Method(
    title="Attention",
    meaning=(
        "the signed weights with which one layer mixes values for one token; not what those values hold by then, nor "
        "what later layers make of them, and it is the same for every class."
    ),
    compute=_compute,
    stream=_stream,
    class_specific=False,
    takes=frozenset({"layer", "head", "at"}),
    needs_attention_inputs=True,
)
