"""Products of unequal ranks become products of equal ones with the same result."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from softfree.deployment.onnx_passes import equalize_ranks


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
