"""A model as an ONNX graph: for any number of pictures, and of any size where the model's graph can be written so."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from softfree.attention import NystromformerAttention, SoftAttention
from softfree.errors import UserError
from softfree.export.nodes import layers_of, without_sums
from softfree.export.orders import orders_for
from softfree.export.positions import resize_positions
from softfree.models import VisionTransformer
from softfree.runtime.metadata import Metadata

# The first opset with an attention operator, so that softmax models get a runtime's fused kernel, too.
OPSET = 23
# Attentions with landmarks on a grid: the exporter reasons about one of any size for many minutes, without a result.
ONE_SIZE = (SoftAttention, NystromformerAttention)


@dataclass(frozen=True)
class Graph:
    """An exported model.

    Attributes:
        proto: the ONNX model; input ``pixels`` (B, C, H, W), output ``logits`` (B, K).
        size: height and width that it takes; None for any.
        layers: names of its nodes that are a linear layer or a convolution of the model, but for the head.
        narrow: names of its nodes that may calculate in half precision: these and the rest of the MLPs.
    """

    proto: onnx.ModelProto
    size: tuple[int, int] | None
    layers: tuple[str, ...]
    narrow: tuple[str, ...]


class AnySize(nn.Module):
    """A vision transformer whose positions are resized inside the graph."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pictures (B, C, H, W) to logits (B, K), as the model does."""
        model = self.model
        tokens, grid = model.patch_embed(pixels)
        tokens, _ = model.with_class_token(tokens, None)
        if model.pos_embed is not None:
            resized = resize_positions(model.pos_embed, model.grid_size, grid[0], grid[1], model.num_prefix_tokens)
            tokens = tokens + resized
        return model.forward_head(model.norm(model.blocks(tokens, None, grid)))


def make_graph(model: nn.Module, channels: int, side: int) -> Graph:
    """Write a classifier of pictures as a graph.

    Args:
        model: on the CPU, in evaluation mode.
        channels: of the pictures.
        side: of the pictures, pixels; the only side that the graph takes if the model cannot be written for any, else
            the one at which it is fastest.

    Returns:
        The graph, without any note of where it was made.

    Raises:
        UserError: a model that cannot be exported.
    """
    # Unequal sides, or the exporter would take them for one.
    example = torch.zeros(2, channels, side, side + 32)
    if isinstance(model, VisionTransformer) and not any(isinstance(part, ONE_SIZE) for part in model.modules()):
        tokens = model.num_prefix_tokens + (-(-side // model.patch_size)) ** 2
        with contextlib.suppress(torch.onnx.errors.OnnxExporterError), orders_for(model, tokens):
            any_size = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
            return _cleaned(_export(AnySize(model), example, any_size), None)
    try:
        proto = _export(model, torch.zeros(2, channels, side, side), {0: Dim.DYNAMIC})
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"{type(model).__name__} cannot be written as an ONNX graph: {reason}") from None
    return _cleaned(proto, (side, side))


def _export(model: nn.Module, example: Tensor, dynamic: dict[int, Any]) -> onnx.ModelProto:
    with quiet(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            dynamic_shapes=(dynamic,),
            input_names=["pixels"],
            output_names=["logits"],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the advice of exporters and quantisers, on whichever logger; errors are raised all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _cleaned(proto: onnx.ModelProto, size: tuple[int, int] | None) -> Graph:
    """Keep which nodes are layers; drop the exporter's notes, which name the files of this machine."""
    graph = proto.graph
    layers = layers_of(graph)
    narrow = without_sums(graph, layers)
    noted: list[Any] = [proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for one in noted:
        del one.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
    for names, found in ((("batch", "channels", "height", "width"), graph.input[0]), (("batch",), graph.output[0])):
        for name, axis in zip(names, found.type.tensor_type.shape.dim, strict=False):
            if axis.dim_param:
                _rename(graph, axis.dim_param, name)
    return Graph(proto, size, layers, narrow)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param == old:
                axis.dim_param = new


def write_graph(proto: onnx.ModelProto, about: Metadata, path: Path) -> None:
    """Write a graph with its metadata in one file."""
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, about.to_strings())
    proto.producer_name, proto.producer_version = "softfree", about.versions.get("softfree", "")
    onnx.save_model(proto, path)
