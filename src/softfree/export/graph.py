"""A model as an ONNX graph: for any number of samples, and of any size where the model's graph can be written so."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from softfree.attention import Attention
from softfree.export.node_metadata import layers_of, without_sums
from softfree.models import BagTransformer, VisionTransformer, VolumeTransformer
from softfree.models.pos_embed import resize_in_graph
from softfree_runtime.core.errors import UserError
from softfree_runtime.metadata import Metadata

# The first opset with an attention operator, so that softmax models get a runtime's fused kernel, too.
OPSET = 23
PIXELS = ("batch", "channels", "height", "width")


@dataclass(frozen=True)
class Graph:
    """An exported model.

    Attributes:
        proto: the ONNX model; input ``pixels`` (B, C, H, W), ``voxels`` (B, C, D, H, W) or ``tiles`` (B, N, F + 3),
            output ``logits`` (B, K).
        size: sides that it takes, without channels; None for any.
        layers: names of its nodes that are a linear layer or a convolution of the model, but for the head.
        narrow: names of its nodes that may calculate in half precision: these and the rest of the MLPs.
    """

    proto: onnx.ModelProto
    size: tuple[int, ...] | None
    layers: tuple[str, ...]
    narrow: tuple[str, ...]


class AnySize(nn.Module):
    """A vision transformer whose positions are resized inside the graph."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, K), as the model does."""
        model = self.model
        tokens, grid = model.patch_embed(pixels)
        tokens, _ = model.with_class_token(tokens, None)
        if model.pos_embed is not None:
            resized = resize_in_graph(model.pos_embed, model.grid_size, grid, model.num_prefix_tokens)
            tokens = tokens + resized
        return model.forward_head(model.norm(model.blocks(tokens, None, grid)))


class AnyBag(nn.Module):
    """A transformer of bags without padding: every row is a tile, so that no mask is needed."""

    def __init__(self, model: BagTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tiles: Tensor) -> Tensor:
        """Map bags (B, N, F + 3) to logits (B, K), as the model does."""
        model = self.model
        tokens, _ = model.with_class_token(model.patch_embed(tiles), None)
        return model.forward_head(model.norm(model.blocks(tokens, None)))


def make_graph(model: nn.Module, channels: int, side: int) -> Graph:
    """Write a classifier of images, or of slides as pixels, as a graph.

    Args:
        model: on the CPU, in evaluation mode.
        channels: of the images.
        side: of the images, pixels; the only side that the graph takes if the model cannot be written for any, else
            the one at which it is fastest.

    Returns:
        The graph, without any note of where it was made.

    Raises:
        UserError: a model that cannot be exported.
    """
    # Unequal sides, or the exporter would take them for one.
    example = torch.zeros(2, channels, side, side + 32)
    if isinstance(model, VisionTransformer) and not has_fixed_size(model):
        tokens = model.num_prefix_tokens + (-(-side // model.patch_size)) ** 2
        with contextlib.suppress(torch.onnx.errors.OnnxExporterError), tuned_for(model, tokens):
            any_size = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
            return _cleaned(_export(AnySize(model), example, any_size, "pixels"), None, PIXELS)
    proto = _or_refused(model, model, torch.zeros(2, channels, side, side), {0: Dim.DYNAMIC}, "pixels")
    return _cleaned(proto, (side, side), PIXELS)


def make_volume_graph(model: VolumeTransformer, channels: int, shape: Sequence[int]) -> Graph:
    """Write a classifier of volumes (C, D, H, W) as a graph for one ``shape`` (D, H, W), which all have once prepared.

    Raises:
        UserError: a model that cannot be exported.
    """
    tokens = model.num_prefix_tokens + math.prod(-(-s // p) for s, p in zip(shape, model.patch_size, strict=True))
    with tuned_for(model, tokens):
        proto = _or_refused(model, model, torch.zeros(2, channels, *shape), {0: Dim.DYNAMIC}, "voxels")
    return _cleaned(proto, tuple(shape), ("batch",))


def make_bag_graph(model: BagTransformer, tiles: int) -> Graph:
    """Write a classifier of bags as a graph for any number of tiles; it is fastest at about ``tiles``.

    Raises:
        UserError: a model that cannot be exported, as one whose landmarks are found for one number of tiles.
    """
    if has_fixed_size(model):
        raise UserError(
            f"a {type(model).__name__} with landmarks exports for one number of tiles only, and bags differ; "
            "train one with another attention, such as seqnorm"
        )
    example = torch.zeros(2, 300, model.in_features + 3)
    with tuned_for(model, model.num_prefix_tokens + tiles):
        proto = _or_refused(model, AnyBag(model), example, {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, "tiles")
    return _cleaned(proto, None, ("batch", "tiles"))


def has_fixed_size(model: nn.Module) -> bool:
    """Whether a model's graph takes one number of tokens only."""
    return any(isinstance(part, Attention) and part.fixed_size for part in model.modules())


@contextlib.contextmanager
def tuned_for(model: nn.Module, tokens: int) -> Iterator[None]:
    """Let each attention take its fastest implementation for a number of tokens, whatever the example has.

    All give the same logits at any number of tokens; only the speed differs.
    """
    with contextlib.ExitStack() as stack:
        for part in model.modules():
            if isinstance(part, Attention):
                stack.enter_context(part.tuned_for(tokens))
        yield


def _or_refused(model: nn.Module, module: nn.Module, example: Tensor, dynamic: dict[int, Any], name: str) -> Any:
    try:
        return _export(module, example, dynamic, name)
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"{type(model).__name__} cannot be written as an ONNX graph: {reason}") from None


def _export(model: nn.Module, example: Tensor, dynamic: dict[int, Any], name: str) -> onnx.ModelProto:
    with quiet(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            dynamic_shapes=(dynamic,),
            input_names=[name],
            output_names=["logits"],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the advice of exporters and quantizers, on whichever logger; errors are raised all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _cleaned(proto: onnx.ModelProto, size: tuple[int, ...] | None, axes: tuple[str, ...]) -> Graph:
    """Keep which nodes are layers; drop the exporter's notes, which name the files of this machine."""
    graph = proto.graph
    layers = layers_of(graph)
    narrow = without_sums(graph, layers)
    noted: list[Any] = [proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for one in noted:
        del one.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
    for names, found in ((axes, graph.input[0]), (("batch",), graph.output[0])):
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
