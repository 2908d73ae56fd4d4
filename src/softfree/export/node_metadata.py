"""Which nodes of a graph do what: read from the exporter's notes, before they are dropped."""

from __future__ import annotations

import re
from collections.abc import Collection

import onnx

from softfree.attention import ATTENTIONS

_CLASSES = "pkg.torch.onnx.class_hierarchy"
_SCOPES = "pkg.torch.onnx.name_scopes"
_LAYERS = ("'torch.nn.modules.linear.Linear'", "'torch.nn.modules.conv.Conv2d'", "'torch.nn.modules.conv.Conv3d'")
_MLP = "'timm.layers.mlp.Mlp'"
_END = re.compile(r"['.](head|pooling)['.]")


def layers_of(graph: onnx.GraphProto) -> tuple[str, ...]:
    """Name the nodes that are a linear layer or a convolution of the model, but for the pooling and the head.

    Attentions with ``functional_projections`` may have linear layers without their modules.
    """
    stored = {one.name: len(one.dims) for one in graph.initializer}
    methods = (method for method in ATTENTIONS.values() if method.functional_projections)
    functional = tuple(f"'{method.__module__}.{method.__qualname__}'" for method in methods)
    return tuple(node.name for node in graph.node if _is_layer(node, stored, functional))


def _is_layer(node: onnx.NodeProto, stored: dict[str, int], functional: Collection[str]) -> bool:
    classes, scopes = _noted(node, _CLASSES), _noted(node, _SCOPES)
    if node.op_type not in ("MatMul", "Gemm", "Conv") or _END.search(scopes):
        return False
    tokens_by_weights = stored.get(node.input[1]) == 2 and node.input[0] not in stored
    if any(kind in classes for kind in _LAYERS):
        return True
    return tokens_by_weights and any(kind in classes for kind in functional)


def without_sums(graph: onnx.GraphProto, layers: Collection[str]) -> tuple[str, ...]:
    """Name the nodes that may calculate in half precision: ``layers``, and all of the MLPs.

    As under torch's autocast. What is left out are norms, residuals, positions, and all that sums over tokens.
    """
    return tuple(node.name for node in graph.node if node.name in layers or _MLP in _noted(node, _CLASSES))


def _noted(node: onnx.NodeProto, key: str) -> str:
    return next((one.value for one in node.metadata_props if one.key == key), "")
