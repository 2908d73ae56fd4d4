"""Half precision in a graph: all weights are stored so, and plain layers and MLPs calculate so.

What sums over tokens stays in float32, as do norms, softmax, the residuals and the head: SeqNorm's covariances hold
products of N tokens, whose sum overflows float16 or loses the small ones. onnxruntime's own converter is not used: it
narrows the images themselves, and its nodes do not stand in the order that ONNX asks for.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from softfree.export.graph import Graph

# Fewer numbers than this are not worth a node that widens them.
FEW = 1024
# Operators whose inputs are all numbers to calculate with, none a shape or an axis.
_ARITHMETIC = {"MatMul", "Gemm", "Conv", "Gelu", "Add", "Mul", "Relu", "HardSwish", "Pow"}


def to_halves(graph: Graph) -> onnx.ModelProto:
    """Give a copy of a graph in half precision; it takes and gives float32 all the same."""
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    halves: dict[str, str] = {}  # the half of what has a name in float32
    nodes = [_store_in_half(weight, halves) for weight in proto.graph.initializer if _is_large(weight)]
    for node in proto.graph.node:
        if node.name not in graph.narrow or node.op_type not in _ARITHMETIC:
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
    used = {name for node in nodes for name in node.input} | {one.name for one in proto.graph.output}
    kept = [node for node in nodes if node.op_type != "Cast" or node.output[0] in used]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    return proto


def _is_large(weight: onnx.TensorProto) -> bool:
    return weight.data_type == TensorProto.FLOAT and math.prod(weight.dims) >= FEW


def _store_in_half(weight: onnx.TensorProto, halves: dict[str, str]) -> onnx.NodeProto:
    """Halve a weight in place; give the node that widens it for those that calculate in float32."""
    name = weight.name
    halves[name] = f"{name}_half"
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), halves[name]))
    return _cast(halves[name], name, TensorProto.FLOAT)


def _cast(name: str, to: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [name], [to], name=f"{to}_cast", to=kind)
