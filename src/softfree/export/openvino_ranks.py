"""Products of operands of equal rank, for runtimes that do not broadcast a matrix over a batch in front."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper


def equal_ranks(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Give a copy in which the first operand of no product is a matrix where the second is a batch of them.

    OpenVINO's CPU plug-in cannot plan ``(m, k) @ (batch, k, n)`` with sizes that are known only when it runs.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    graph = changed.graph
    ranks = {one.name: len(one.dims) for one in graph.initializer}
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
