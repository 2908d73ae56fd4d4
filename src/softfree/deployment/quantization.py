"""Int8 quantization of the linear layers of a graph.

Only linear layers of the model are quantized: not the head, and not the small products of SeqNorm's Gram order, which
hold covariances and take little time. Nor the convolutions of a stem: they are no faster in int8, and caused twenty
times the error of everything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from softfree.deployment.graph import Graph, quiet
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.telemetry import import_onnxruntime


def quantize_static(graph: Graph, source: Path, batches: Iterable[np.ndarray]) -> onnx.ModelProto:
    """Compute the linear layers in int8, with ranges calibrated on preprocessed samples.

    Matrix products return float32: what follows (a bias, an activation, a residual) is float32 anyway, and rounding
    again would cost time and precision. Weights have 7 bits: processors without four-way integer dot products (AVX2,
    AVX-512 without VNNI) add pairs of products in 16 bits, which 8 by 8 bits overflow.

    Args:
        graph: The graph to quantize.
        source: Its file.
        batches: Preprocessed batches.

    Returns:
        The graph with pairs of QuantizeLinear and DequantizeLinear around these layers.

    Raises:
        UserError: A graph without linear layers.
    """
    layers, library = _linear(graph), import_onnxruntime("onnxruntime.quantization")
    with TemporaryDirectory() as folder, quiet():
        target = Path(folder) / "int8.onnx"
        library.quantize_static(
            source,
            target,
            _Batches(graph.proto.graph.input[0].name, batches),
            quant_format=library.QuantFormat.QDQ,
            nodes_to_quantize=layers,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=["MatMul", "Gemm"],
            activation_type=library.QuantType.QUInt8,
            weight_type=library.QuantType.QInt8,
            extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )
        return onnx.load(target)


def quantize_weights(graph: Graph) -> onnx.ModelProto:
    """Store the weights of the linear layers in int8; ranges are computed at run time.

    Raises:
        UserError: A graph without linear layers.
    """
    layers, library = _linear(graph), import_onnxruntime("onnxruntime.quantization")
    plain = onnx.ModelProto()
    plain.CopyFrom(graph.proto)
    # The quantizer transposes the head and then fails on the old shape of its weights.
    del plain.graph.value_info[:]
    with TemporaryDirectory() as folder, quiet():
        target = Path(folder) / "int8.onnx"
        library.quantize_dynamic(
            plain,
            target,
            op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_quantize=layers,
            per_channel=True,
            reduce_range=True,
            weight_type=library.QuantType.QInt8,
        )
        return onnx.load(target)


def _linear(graph: Graph) -> list[str]:
    names = [node.name for node in graph.proto.graph.node if node.name in graph.layers and node.op_type != "Conv"]
    if not names:
        raise UserError("the graph has no linear layer to quantize; export without --int8")
    return names


class _Batches:
    """Preprocessed samples, one batch at a time."""

    def __init__(self, name: str, batches: Iterable[np.ndarray]) -> None:
        self._input = name
        self._rest: Iterator[np.ndarray] = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next input of the graph, or None at the end."""
        samples = next(self._rest, None)
        return None if samples is None else {self._input: samples}
