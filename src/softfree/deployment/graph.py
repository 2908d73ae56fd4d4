"""Models as ONNX graphs: for any batch size, and for any image size if the model allows it."""

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
from softfree.deployment.onnx_passes import find_float16_nodes, find_layers
from softfree.inference.ensemble import Ensemble
from softfree.inference.unusual import TrainingDistribution
from softfree.models import BagTransformer, VisionTransformer, VolumeTransformer
from softfree.models.case import CaseTransformer
from softfree.models.slide import SlideTransformer
from softfree.models.token_mean import token_mean
from softfree_runtime.core.errors import UserError
from softfree_runtime.metadata import Metadata

# The first opset with an attention operator, so that softmax models also get a fused kernel.
OPSET = 23
PIXELS = ("batch", "channels", "height", "width")


@dataclass(frozen=True)
class Graph:
    """An exported model.

    Attributes:
        proto: The ONNX model: input ``pixels`` (B, C, H, W), ``voxels`` (B, C, D, H, W), ``tiles`` (B, N, F + 3)
            or ``images`` (B, R, F + 3), output ``logits`` (B, K), and ``distance`` (B,) from the training samples if
            that is known.
        size: Sides of its input, without channels; None for any.
        layers: Names of the nodes that are linear layers or convolutions of the model, except the head.
        float16_nodes: Names of the nodes that may compute in half precision: ``layers`` and all of the MLPs.
    """

    proto: onnx.ModelProto
    size: tuple[int, ...] | None
    layers: tuple[str, ...]
    float16_nodes: tuple[str, ...]


class UnpaddedBags(nn.Module):
    """A bag transformer for bags without padding, which needs no mask."""

    def __init__(self, model: BagTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tiles: Tensor) -> Tensor:
        """Map bags (B, N, F + 3) to logits (B, K)."""
        model = self.model
        tokens, _ = model.with_class_token(model.patch_embed(tiles), None)
        return model.forward_head(model.norm(model.blocks(tokens, None)))


class WithDistance(nn.Module):
    """A classifier that also gives the distance of its samples from those of training, (B,), halfway on its way.

    Args:
        model: A classifier, or an ensemble of them.
        distributions: Where the training samples lie, for each member.
        module: Calls ``model``; default: itself.
    """

    def __init__(
        self, model: nn.Module, distributions: Sequence[TrainingDistribution], module: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.module = module or model
        self.members = list(model.members) if isinstance(model, Ensemble) else [model]
        for number, distribution in enumerate(distributions):
            self.register_buffer(f"mean{number}", torch.from_numpy(distribution.mean))
            self.register_buffer(f"whitening{number}", torch.from_numpy(distribution.whitening.T.copy()))

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Map samples to logits (B, K) and distances (B,)."""
        with contextlib.ExitStack() as stack:
            collected = [stack.enter_context(token_mean(member)) for member in self.members]
            logits = self.module(samples)
        distances = []
        for number, (tokens,) in enumerate(collected):
            centered = tokens - self.get_buffer(f"mean{number}")
            distances.append((centered @ self.get_buffer(f"whitening{number}")).square().sum(dim=1).sqrt())
        return logits, torch.stack(distances).mean(dim=0)


def make_graph(model: nn.Module, channels: int, side: int, distributions: Sequence[TrainingDistribution] = ()) -> Graph:
    """Export a classifier of images, or of slides as pixels.

    Args:
        model: On the CPU, in evaluation mode.
        channels: Channels of the images, without that of clinical variables.
        side: Side of the images in pixels: the one at which the graph is fastest, or the only one it takes.
        distributions: Where the training samples lie, for each member; none for a graph without distances.

    Returns:
        The graph, without metadata about this machine.

    Raises:
        UserError: A model that cannot be exported.
    """
    first = model.members[0] if isinstance(model, Ensemble) else model
    channels += isinstance(first, SlideTransformer)
    # With equal sides the exporter would assume that they are always equal.
    example = torch.zeros(2, channels, side, side + 32)
    module = WithDistance(model, distributions) if distributions else model
    if isinstance(first, VisionTransformer) and not has_fixed_size(model):
        tokens = first.num_prefix_tokens + (-(-side // first.patch_size)) ** 2
        with contextlib.suppress(torch.onnx.errors.OnnxExporterError), tuned_for(model, tokens):
            any_size = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
            return _clean(_export(module, example, any_size, "pixels"), None, PIXELS)
    proto = _export_or_raise(model, module, torch.zeros(2, channels, side, side), {0: Dim.DYNAMIC}, "pixels")
    return _clean(proto, (side, side), PIXELS)


def make_volume_graph(
    model: nn.Module, channels: int, shape: Sequence[int], distributions: Sequence[TrainingDistribution] = ()
) -> Graph:
    """Export a classifier in three dimensions, for the one ``shape`` (D, H, W) that preprocessing gives.

    Raises:
        UserError: A model that cannot be exported.
    """
    first = model.members[0] if isinstance(model, Ensemble) else model
    assert isinstance(first, VolumeTransformer)
    tokens = first.num_prefix_tokens + math.prod(-(-s // p) for s, p in zip(shape, first.patch_size, strict=True))
    module = WithDistance(model, distributions) if distributions else model
    with tuned_for(model, tokens):
        proto = _export_or_raise(model, module, torch.zeros(2, channels, *shape), {0: Dim.DYNAMIC}, "voxels")
    return _clean(proto, tuple(shape), ("batch",))


def make_case_graph(model: nn.Module, images: int, distributions: Sequence[TrainingDistribution] = ()) -> Graph:
    """Export a classifier of cases for any number of images; it is fastest at about ``images``.

    Raises:
        UserError: A model that cannot be exported.
    """
    first = model.members[0] if isinstance(model, Ensemble) else model
    assert isinstance(first, CaseTransformer)
    if has_fixed_size(model):
        raise UserError(
            f"a {type(first).__name__} with landmarks exports for a fixed number of images only, but cases differ; "
            "train one with another attention, such as seqnorm"
        )
    example = torch.zeros(2, 3, first.row_width)
    tokens = sum(math.prod(first.grid_of(number)) for number in range(len(first.image_shapes)))
    module = WithDistance(model, distributions) if distributions else model
    with tuned_for(model, images * tokens):
        proto = _export_or_raise(model, module, example, {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, "images")
    return _clean(proto, None, ("batch", "images"))


def make_bag_graph(model: BagTransformer, tiles: int, distributions: Sequence[TrainingDistribution] = ()) -> Graph:
    """Export a classifier of bags for any number of tiles; it is fastest at about ``tiles``.

    Raises:
        UserError: A model that cannot be exported, such as one with landmarks for a fixed number of tiles.
    """
    if has_fixed_size(model):
        raise UserError(
            f"a {type(model).__name__} with landmarks exports for a fixed number of tiles only, but bags differ; "
            "train one with another attention, such as seqnorm"
        )
    example = torch.zeros(2, 300, model.row_width)
    module: nn.Module = UnpaddedBags(model)
    module = WithDistance(model, distributions, module) if distributions else module
    with tuned_for(model, model.num_prefix_tokens + tiles):
        proto = _export_or_raise(model, module, example, {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, "tiles")
    return _clean(proto, None, ("batch", "tiles"))


def has_fixed_size(model: nn.Module) -> bool:
    """Return whether a model exports for a fixed number of tokens only."""
    return any(isinstance(part, Attention) and part.fixed_size for part in model.modules())


@contextlib.contextmanager
def tuned_for(model: nn.Module, tokens: int) -> Iterator[None]:
    """Make each attention use its fastest implementation for ``tokens``, whatever the size of the example.

    All give the same logits at any number of tokens; only the speed differs.
    """
    with contextlib.ExitStack() as stack:
        for part in model.modules():
            if isinstance(part, Attention):
                stack.enter_context(part.tuned_for(tokens))
        yield


def _export_or_raise(model: nn.Module, module: nn.Module, example: Tensor, dynamic: dict[int, Any], name: str) -> Any:
    try:
        return _export(module, example, dynamic, name)
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(f"{type(model).__name__} cannot be exported to ONNX: {reason}") from None


def _export(model: nn.Module, example: Tensor, dynamic: dict[int, Any], name: str) -> onnx.ModelProto:
    with quiet(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            dynamic_shapes=(dynamic,),
            input_names=[name],
            output_names=["logits", "distance"] if isinstance(model, WithDistance) else ["logits"],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of exporters and quantizers on all loggers; errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _clean(proto: onnx.ModelProto, size: tuple[int, ...] | None, axes: tuple[str, ...]) -> Graph:
    """Find the layers, then remove the exporter's metadata, which names files of this machine."""
    graph = proto.graph
    layers = find_layers(graph)
    float16_nodes = find_float16_nodes(graph, layers)
    parts: list[Any] = [proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    for part in parts:
        del part.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
    for names, tensor in ((axes, graph.input[0]), *((("batch",), output) for output in graph.output)):
        for name, axis in zip(names, tensor.type.tensor_type.shape.dim, strict=False):
            if axis.dim_param:
                _rename(graph, axis.dim_param, name)
    return Graph(proto, size, layers, float16_nodes)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param == old:
                axis.dim_param = new


def write_graph(proto: onnx.ModelProto, about: Metadata, path: Path) -> None:
    """Write a graph and its metadata to one file."""
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, about.to_strings())
    proto.producer_name, proto.producer_version = "softfree", about.versions.get("softfree", "")
    onnx.save_model(proto, path)
