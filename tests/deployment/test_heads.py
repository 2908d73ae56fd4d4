"""Every head in a graph of any size, in both runtimes, against the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from softfree.deployment.graph import Graph, make_bag_graph, make_graph, make_volume_graph
from softfree.deployment.onnx_passes import to_float16
from softfree.models import create_model

TINY: dict[str, Any] = {"depth": 1, "embed_dim": 32, "num_heads": 2, "num_classes": 3}
HEADS = ("topk", "mean_topk")
pytestmark = pytest.mark.slow


def make(name: str, pool: str, **options: Any) -> Any:
    torch.manual_seed(0)
    model = create_model(name, pool=pool, **TINY, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def check(model: nn.Module, proto: onnx.ModelProto, samples: list[torch.Tensor], tolerance: float = 1e-5) -> None:
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    (given,) = session.get_inputs()
    for sample in samples:
        with torch.no_grad():
            want = model(sample).numpy()
        np.testing.assert_allclose(session.run(None, {given.name: sample.numpy()})[0], want, atol=tolerance)


def in_openvino(model: nn.Module, graph: Graph, samples: list[torch.Tensor], folder: Path) -> None:
    openvino = pytest.importorskip("openvino")
    onnx.save(graph.proto, folder / "model.onnx")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(folder / "model.onnx"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for sample in samples:
        with torch.no_grad():
            np.testing.assert_allclose(compiled([sample.numpy()])[0], model(sample).numpy(), atol=1e-5)


@pytest.mark.parametrize("pool", HEADS)
def test_images(pool: str, tmp_path: Path) -> None:
    """From one token to so many that more than the fewest are chosen."""
    options = {"pool_options": {"one_in": 8}} if "topk" in pool else {}
    model = make("seqnorm_vit_nano_patch16", pool, patch_size=8, img_size=32, in_chans=1, **options)
    graph = make_graph(model, 1, 32)
    assert graph.size is None
    samples = [torch.randn(shape) for shape in ((1, 1, 8, 8), (2, 1, 32, 40), (1, 1, 90, 80))]
    check(model, graph.proto, samples)
    check(model, to_float16(graph.proto, graph.float16_nodes), samples, 2e-2)
    assert len(graph.layers) == 4, "neither the pooling nor the head calculates in half precision or in integers"
    in_openvino(model, graph, samples, tmp_path)


@pytest.mark.parametrize("tokens", ["few", "many"])
def test_importance_of_tokens(tokens: str, tmp_path: Path) -> None:
    """A graph of any size, whose example had few tokens or many."""
    model = make(
        "seqnorm_vit_nano_patch16", "mean_topk", patch_size=8, img_size=32, attention_options={"importance": 4.0}
    )
    side = 32 if tokens == "few" else 128
    graph = make_graph(model, 3, side)
    samples = [torch.randn(shape) for shape in ((1, 3, 8, 8), (2, 3, 32, 40), (1, 3, 90, 160))]
    check(model, graph.proto, samples)
    check(model, to_float16(graph.proto, graph.float16_nodes), samples, 2e-2)
    in_openvino(model, graph, samples, tmp_path)


@pytest.mark.parametrize("pool", HEADS)
def test_bags_and_volumes(pool: str) -> None:
    model = make("seqnorm_bag_nano", pool, in_features=16)
    check(model, make_bag_graph(model, 100).proto, [torch.rand(2, tiles, 19) for tiles in (1, 100, 700)])
    model = make("seqnorm_vit3d_nano", pool, patch_size=(2, 4, 4))
    check(model, make_volume_graph(model, 1, (8, 16, 20)).proto, [torch.rand(3, 1, 8, 16, 20)])
