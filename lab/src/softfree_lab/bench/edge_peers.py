"""Softmax attention as onnxruntime runs it best: its own fused operator in place of ONNX's."""

from __future__ import annotations

import onnx
from onnx import helper

DOMAIN = "com.microsoft"


def with_fused_attention(proto: onnx.ModelProto, heads: int) -> onnx.ModelProto:
    """Give a copy in which each ``Attention`` of ONNX is a ``MultiHeadAttention`` of onnxruntime.

    That operator takes Q, K and V as (B, N, C), so that the transposes of the heads go as well, and computes blocks of
    the scores at a time (Dao et al. 2022, arXiv:2205.14135), where onnxruntime's kernel for ONNX's operator writes all
    N x N of them.

    Args:
        proto: A graph of softfree's softmax models: each operand is a Reshape, then a Transpose of (B, N, C).
        heads: H.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    graph = changed.graph
    made_by = {name: node for node in graph.node for name in node.output}
    taken_by = {name: node for node in graph.node for name in node.input}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "Attention":
            nodes.append(node)
            continue
        plain = [made_by[made_by[name].input[0]].input[0] for name in node.input[:3]]
        last = taken_by[taken_by[node.output[0]].output[0]]
        fused = helper.make_node(
            "MultiHeadAttention", plain, [last.output[0]], node.name, domain=DOMAIN, num_heads=heads
        )
        nodes.append(fused)
    del graph.node[:]
    graph.node.extend(_needed(nodes, {one.name for one in graph.output}))
    used = {name for node in graph.node for name in node.input}
    stored = [one for one in graph.initializer if one.name in used]
    del graph.initializer[:]
    graph.initializer.extend(stored)
    changed.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return changed


def _needed(nodes: list[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Leave out nodes whose results nobody takes, and those that make what is taken twice."""
    kept: list[onnx.NodeProto] = []
    made: set[str] = set()
    for node in nodes:  # the fused operator comes first, and has the name of the reshape that follows
        if not made & set(node.output):
            kept.append(node)
            made |= set(node.output)
    found: list[onnx.NodeProto] = []
    for node in reversed(kept):
        if wanted & set(node.output):
            found.append(node)
            wanted = wanted | set(node.input)
    return found[::-1]
