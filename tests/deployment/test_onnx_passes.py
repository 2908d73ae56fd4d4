"""Passes change graphs, and not their results."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from softfree.deployment.onnx_passes import equalize_ranks, separate_pooling


def test_equal_result() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.random((4, 5), dtype=np.float32), rng.random((6, 3), dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["left", "x"], ["a"], "one"),
            helper.make_node("MatMul", ["a", "right"], ["y"], "two"),
        ],
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 3])],
        [numpy_helper.from_array(left, "left"), numpy_helper.from_array(right, "right")],
        value_info=[helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", 4, 6])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    changed = equalize_ranks(proto)
    assert [node.op_type for node in proto.graph.node] == ["MatMul", "MatMul"]
    assert [node.op_type for node in changed.graph.node] == ["Unsqueeze", "MatMul", "MatMul"]
    onnx.checker.check_model(changed, full_check=True)
    x = rng.random((2, 5, 6), dtype=np.float32)
    (found,) = onnxruntime.InferenceSession(changed.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(found, left @ x @ right, rtol=1e-5)


def test_activations_after_max_pooling_stay_after_it() -> None:
    """OpenVINO moves them before it, which is right only for monotonic ones."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 4, 3, 3)).astype(np.float32) / 6
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "weight"], ["a"], "one", pads=[1, 1, 1, 1]),
            helper.make_node("MaxPool", ["a"], ["b"], "two", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("Gelu", ["b"], ["y"], "three"),
        ],
        "stem",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [numpy_helper.from_array(weight, "weight")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    changed = separate_pooling(proto)
    assert [node.op_type for node in changed.graph.node] == ["Conv", "MaxPool", "Max", "Gelu"]
    onnx.checker.check_model(changed, full_check=True)
    x = rng.normal(size=(2, 4, 16, 16)).astype(np.float32)
    pooled = torch.nn.functional.max_pool2d(
        torch.nn.functional.conv2d(torch.tensor(x), torch.tensor(weight), padding=1), 3, 2, 1
    )
    expected = torch.nn.functional.gelu(pooled).numpy()
    (found,) = onnxruntime.InferenceSession(changed.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(found, expected, atol=1e-5)
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().read_model(changed.SerializeToString())
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled(x)[0], expected, atol=1e-5)
