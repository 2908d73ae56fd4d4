"""Passes over an ONNX graph: finding its layers, float16, and two repairs for OpenVINO.

In float16, all weights are stored in half precision, and linear layers, convolutions and MLPs compute in it. Sums over
tokens stay in float32, as do norms, softmax, the residuals and the head: SeqNorm's covariances hold products of N
tokens, whose sum overflows float16 or loses the small ones. onnxruntime's own converter is not used: it converts the
images themselves, and its nodes are not in the order that ONNX requires.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from softfree.attention import ATTENTIONS

_CLASSES = "pkg.torch.onnx.class_hierarchy"
_SCOPES = "pkg.torch.onnx.name_scopes"
_LAYERS = ("'torch.nn.modules.linear.Linear'", "'torch.nn.modules.conv.Conv2d'", "'torch.nn.modules.conv.Conv3d'")
_MLP = "'timm.layers.mlp.Mlp'"
_POOLING_OR_HEAD = re.compile(r"['.](head|pooling)['.]")
# Weights with fewer numbers are not worth a cast.
MIN_FLOAT16_SIZE = 1024
# Operators whose inputs are all numbers to compute with, not shapes or axes.
_ARITHMETIC = {"MatMul", "Gemm", "Conv", "Gelu", "Add", "Mul", "Relu", "HardSwish", "Pow"}


def find_layers(graph: onnx.GraphProto) -> tuple[str, ...]:
    """Name the nodes that are linear layers or convolutions of the model, except in the pooling and the head.

    The exporter's metadata tells the modules of a node; call this before it is removed. Attentions with
    ``functional_projections`` may have linear layers without their modules.
    """
    weight_ranks = {weight.name: len(weight.dims) for weight in graph.initializer}
    methods = (method for method in ATTENTIONS.values() if method.functional_projections)
    functional = tuple(f"'{method.__module__}.{method.__qualname__}'" for method in methods)
    return tuple(node.name for node in graph.node if _is_layer(node, weight_ranks, functional))


def _is_layer(node: onnx.NodeProto, weight_ranks: dict[str, int], functional: Collection[str]) -> bool:
    classes, scopes = _metadata(node, _CLASSES), _metadata(node, _SCOPES)
    if node.op_type not in ("MatMul", "Gemm", "Conv") or _POOLING_OR_HEAD.search(scopes):
        return False
    if any(kind in classes for kind in _LAYERS):
        return True
    tokens_by_weights = weight_ranks.get(node.input[1]) == 2 and node.input[0] not in weight_ranks
    return tokens_by_weights and any(kind in classes for kind in functional)


def find_float16_nodes(graph: onnx.GraphProto, layers: Collection[str]) -> tuple[str, ...]:
    """Name the nodes that may compute in float16, as under torch's autocast: ``layers``, and all nodes of the MLPs."""
    return tuple(node.name for node in graph.node if node.name in layers or _MLP in _metadata(node, _CLASSES))


def _metadata(node: onnx.NodeProto, key: str) -> str:
    return next((entry.value for entry in node.metadata_props if entry.key == key), "")


def to_float16(proto: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """Return a copy in which the nodes ``names`` compute in float16; its input and output stay float32."""
    converted = onnx.ModelProto()
    converted.CopyFrom(proto)
    halves: dict[str, str] = {}  # float32 tensor to its float16 copy
    nodes = [_store_in_float16(weight, halves) for weight in converted.graph.initializer if _is_large(weight)]
    for node in converted.graph.node:
        if node.name not in names or node.op_type not in _ARITHMETIC:
            nodes.append(node)
            continue
        for name in dict.fromkeys(node.input):
            if name not in halves:
                halves[name] = f"{name}_half"
                nodes.append(_cast(name, halves[name], TensorProto.FLOAT16))
        node.input[:] = [halves[name] for name in node.input]
        (name,) = node.output
        halves[name] = node.output[0] = f"{name}_half"
        nodes += [node, _cast(halves[name], name, TensorProto.FLOAT)]
    used = {name for node in nodes for name in node.input} | {output.name for output in converted.graph.output}
    kept = [node for node in nodes if node.op_type != "Cast" or node.output[0] in used]
    del converted.graph.node[:]
    converted.graph.node.extend(kept)
    return converted


def _is_large(weight: onnx.TensorProto) -> bool:
    return weight.data_type == TensorProto.FLOAT and math.prod(weight.dims) >= MIN_FLOAT16_SIZE


def _store_in_float16(weight: onnx.TensorProto, halves: dict[str, str]) -> onnx.NodeProto:
    """Convert a weight in place; return the cast for the nodes that compute in float32."""
    name = weight.name
    halves[name] = f"{name}_half"
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), halves[name]))
    return _cast(halves[name], name, TensorProto.FLOAT)


def _cast(name: str, to: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [to], name=f"{to}_cast", to=kind)


def equalize_ranks(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which no product has a matrix as first and a batch of matrices as second operand.

    OpenVINO's CPU plug-in cannot plan ``(m, k) @ (batch, k, n)`` if the sizes are known only at run time.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    graph = changed.graph
    ranks = {weight.name: len(weight.dims) for weight in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        ranks[value.name] = len(value.type.tensor_type.shape.dim)
    axis = numpy_helper.from_array(np.array([0]), "softfree_axis")
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "MatMul" and ranks.get(node.input[0]) == 2 and ranks.get(node.input[1], 0) > 2:
            batched = f"{node.name}_batched"
            nodes.append(helper.make_node("Unsqueeze", [node.input[0], axis.name], [batched], name=f"{batched}_node"))
            node.input[0] = batched
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(axis)
    return changed


def separate_pooling(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which a maximum with the lowest float32 follows each max pooling, and changes nothing.

    Without it, OpenVINO's CPU plug-in computes GELU(MaxPool(Conv(x))) as MaxPool(GELU(Conv(x))), as if GELU were
    monotonic: 2026.4 does, with errors of up to GELU's minimum, 0.17.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    graph = changed.graph
    lowest = numpy_helper.from_array(np.array(np.finfo(np.float32).min), "softfree_lowest")
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "MaxPool":
            (name,) = node.output
            node.output[0] = f"{name}_pooled"
            nodes.append(helper.make_node("Max", [node.output[0], lowest.name], [name], name=f"{name}_max"))
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.append(lowest)
    return changed
