"""A small ONNX file as softfree export makes it, written by hand: the mean of each channel, then a matrix."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from softfree_runtime.core.task import Task
from softfree_runtime.metadata import Metadata
from softfree_runtime.preprocessing.image import NumpyImagePreprocessing

ABOUT = Metadata(
    Task("binary", ("well", "ill")), NumpyImagePreprocessing(32, "pad", 1, (0.5,), (0.25,)), 2.0, {"ill": 0.4}
)


def write_model(path: Path, about: Metadata | None = ABOUT, channels: int = 1, classes: int = 2) -> Path:
    weights = np.linspace(-1, 1, channels * classes, dtype=np.float32).reshape(channels, classes)
    height, width = about.size if about is not None and about.size else ("height", "width")
    distance = [helper.make_node("ReduceL2", ["means", "last"], ["distance"], keepdims=0)]
    if about is None or about.unusual_rate is None:
        distance = []
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
            helper.make_node("MatMul", ["means", "weights"], ["logits"]),
            *distance,
        ],
        "small",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", channels, height, width])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes]),
            *(helper.make_tensor_value_info("distance", TensorProto.FLOAT, ["batch"]) for _ in distance),
        ],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array([2, 3]), "axes"),
            numpy_helper.from_array(np.array([1]), "last"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if about is not None:
        helper.set_model_props(proto, about.to_strings())
    onnx.save(proto, path)
    return path
