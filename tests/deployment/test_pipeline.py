"""A run becomes a file that gives the same rows, or there is no file."""

import json
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from softfree.deployment.graph import Graph, make_graph
from softfree.deployment.onnx_passes import to_float16
from softfree.deployment.options import ExportOptions
from softfree.deployment.parity import check_distances, check_parity
from softfree.deployment.pipeline import Exported, export
from softfree.deployment.quantization import quantize_static
from softfree.deployment.samples import Sample
from softfree.inference.run import Run
from softfree.models import create_model
from softfree_runtime import Model, predict
from softfree_runtime.core.errors import UserError
from softfree_runtime.metadata import Metadata
from softfree_runtime.phantoms import check_file
from softfree_runtime.readers import DecodedImage, read_image

SMALL = {"depth": 1, "embed_dim": 32, "num_heads": 2, "patch_size": 8, "num_classes": 2, "img_size": 32, "in_chans": 1}


def test_the_same_rows(run: Run, exported: Exported) -> None:
    folder = str(Path(run.config["options"]["table"]).parent)
    expected, found = run.predict(folder), predict(exported.path, folder)
    assert list(found[0]) == list(expected)
    for name in ("path", "status", "reason", "predicted", "set", "abstain", "unusual"):
        assert [row[name] for row in found] == expected[name].tolist()
    for name in ("p_low", "p_high", "raw_high", "distance"):
        np.testing.assert_allclose([row[name] for row in found], expected[name], atol=1e-5)


def test_proof_at_three_sizes(exported: Exported) -> None:
    assert exported.size is None
    assert len(exported.parity.differences) == 3
    assert exported.parity.largest < 1e-5
    assert not list(exported.path.parent.glob(".*part*"))


def test_metadata(run: Run, exported: Exported) -> None:
    about = Model(exported.path).metadata
    assert about.task == run.task
    assert about.temperature == run.calibration.temperature
    assert about.thresholds == run.calibration.thresholds
    assert about.sets == run.calibration.sets
    assert about.unusual_rate == run.distributions[0].rate == 0.2, "four validation patients"
    assert about.metrics["auroc"]["n"] == 8
    assert "## Results: test split" in about.card
    assert f"| AUROC | {about.metrics['auroc']['value']:.3f} |" in about.card
    np.testing.assert_allclose(about.phantoms["logits"], run.directory.read_phantoms()["logits"], atol=1e-4)
    assert check_file(exported.path).difference == 0
    assert about.versions["torch"] == torch.__version__.partition("+")[0]


def test_nothing_tells_where_it_was_made(exported: Exported) -> None:
    content = exported.path.read_bytes()
    for trace in (b"/softfree/", b"site-packages", b".py", str(exported.path.parent).encode()):
        assert trace not in content


@pytest.mark.parametrize(("side", "gram"), [(72, True), pytest.param(32, False, marks=pytest.mark.slow)])
def test_orders(side: int, gram: bool) -> None:
    """The Gram order where it is the faster, at the run's own size; neither has anything of the size of N x N.

    With ReLU squared, no operator of a table of values is left.
    """
    model = create_model("seqnorm_vit_nano_patch16", **SMALL | {"img_size": side}, act="relu2").eval()
    graph = make_graph(model, 1, side)
    proto = graph.proto
    operators = {node.op_type for node in proto.graph.node}
    assert "Relu" in operators
    assert not operators & {"Softmax", "Attention", "Loop", "Scan", "Erf", "Exp", "Gelu", "Tanh", "Sigmoid", "Log"}
    assert len(graph.layers) == (2 if gram else 4)
    assert model.blocks[0].attn.order == "auto"
    tokens = 7  # rows by columns of an image of 56 x 8 pixels: no other axis has this length
    proto.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(node.output[0])
        for node in proto.graph.node
        if node.op_type == "MatMul"
    )
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    pixels = np.random.default_rng(0).standard_normal((1, 1, 56, 8)).astype(np.float32)
    logits, *products = session.run(None, {"pixels": pixels})
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(torch.from_numpy(pixels)).numpy(), rtol=1e-4, atol=1e-4)
    shapes = [found.shape for found in products]
    with_tokens = [shape for shape in shapes if tokens in shape]
    assert len(with_tokens) >= 4  # patches, the attention's last large product, two of the MLP
    assert not [shape for shape in shapes if shape.count(tokens) > 1]
    assert any(3 * 32 in shape for shape in with_tokens) == (not gram)  # Q, K and V of the tokens


def test_any_image(run: Run, exported: Exported) -> None:
    model = Model(exported.path)
    for shape in ((1, 1, 32, 32), (3, 1, 40, 19), (2, 1, 9, 100)):
        pixels = torch.randn(shape)
        with torch.no_grad():
            expected = run.model.cpu()(pixels).numpy()
        np.testing.assert_allclose(model.logits(pixels.numpy()), expected, atol=1e-5)


def test_other_logits_are_refused(run: Run, exported: Exported) -> None:
    model = Model(exported.path)
    image = DecodedImage(
        np.random.default_rng(0).integers(0, 255, (40, 30, 1), dtype=np.uint8), 0.0, 255.0, None, (), ""
    )
    for wrong in (2e-4, np.nan):
        with pytest.raises(UserError, match=r"differs from the run by .* no file was written"):
            check_parity(
                run, [Sample(image)], model.metadata.preprocessing, lambda x, by=wrong: model.logits(x) + by, True
            )  # type: ignore[misc]


def test_other_distances_are_refused(run: Run, exported: Exported) -> None:
    model = Model(exported.path)
    images = [
        Sample(read_image(path)) for path in sorted(Path(run.config["options"]["table"]).parent.glob("*.png"))[:3]
    ]

    steps = model.metadata.preprocessing
    assert check_distances(run, images, steps, model.distances, 1e-4) < 1e-5
    for by in (1.001, np.nan):
        with pytest.raises(UserError, match=r"distance from the training samples differs .* no file was written"):
            check_distances(run, images, steps, lambda pixels, by=by: model.distances(pixels) * by, 1e-4)  # type: ignore[misc]


def test_rounding_of_distances_far_below_the_limit(run: Run, exported: Exported) -> None:
    model = Model(exported.path)
    images = [Sample(read_image(next(Path(run.config["options"]["table"]).parent.glob("*.png"))))]
    near = [replace(distribution, whitening=distribution.whitening * 1e-3) for distribution in run.distributions]
    of_run = SimpleNamespace(model=run.model, distributions=near, preprocessing=run.preprocessing)

    def shifted(by: float) -> float:
        return check_distances(
            of_run, images, model.metadata.preprocessing, lambda pixels: model.distances(pixels) * 1e-3 + by, 1e-3
        )  # type: ignore[arg-type]

    assert 4e-4 < shifted(5e-5) < 6e-4
    with pytest.raises(UserError, match="differs from the run's"):
        shifted(2e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"out": Path("m.xml")}, "ending in .onnx"),
        ({"format": "openvino", "int8": "static"}, "is for --format onnx"),
        ({"format": "executorch", "out": Path("m.onnx")}, "ending in .pte"),
        ({"format": "executorch", "precision": "fp16"}, "is for --format onnx and openvino"),
        ({"precision": "fp16", "int8": "static"}, "expected one of them"),
        ({"margin": 2.0}, "--margin 2.0"),
        ({"count": 0}, "expected at least 1"),
        ({"images": Path("/nowhere")}, "no such file"),
    ],
)
def test_bad_options(run: Run, options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        export(run.folder, ExportOptions(**options))


def test_no_readable_image(run: Run, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_text("nothing")
    with pytest.raises(UserError, match="none of 1 images for the parity check"):
        export(run.folder, ExportOptions(images=tmp_path / "images", out=tmp_path / "m.onnx"))
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["static", "weights"])
def test_int8(run: Run, tmp_path: Path, kind: str) -> None:
    images = tmp_path / "images"
    shutil.copytree(Path(run.config["options"]["table"]).parent, images, ignore=shutil.ignore_patterns("*.csv"))
    (images / "broken.png").write_text("nothing")
    options = ExportOptions(out=tmp_path / "m.onnx", calibration=images, calibration_count=40, margin=0.5, max_shift=1)
    done = export(run.folder, replace(options, int8=kind))
    assert done.loss is not None
    assert done.loss.n == 8
    assert done.loss.calibrated_on == (32 if kind == "static" else 0)
    assert len(done.unreadable) == (kind == "static")
    image = Image.fromarray(np.zeros((20, 30), np.uint8))
    image.save(tmp_path / "a.png")
    about = Model(done.path).metadata
    assert about.quantized == kind
    assert re.search(r"Distances from the training samples shift by up to \d+\.\d %", about.card)
    assert about.loss == done.loss.to_dict()
    assert predict(done.path, tmp_path / "a.png")[0]["status"] == "ok"


def test_integers_stay_integers(run: Run, graph: Graph, tmp_path: Path) -> None:
    """Each linear layer runs as one product of integers that gives float32, not as floats between conversions."""
    onnx.save(graph.proto, tmp_path / "float.onnx")
    pixels = np.random.default_rng(0).standard_normal((4, 1, 1, 32, 32)).astype(np.float32)
    proto = quantize_static(graph, tmp_path / "float.onnx", pixels)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert operators["MatMulIntegerToFloat"] == 4  # the stem's convolutions stay as they are
    assert operators["DequantizeLinear"] == 0
    with torch.no_grad():
        expected = run.model(torch.from_numpy(pixels[0])).numpy()
    result = session.run(None, {"pixels": pixels[0]})[0]
    assert 1e-6 < np.abs(result - expected).max() < 0.1
    for weight in proto.graph.initializer:
        if weight.data_type == onnx.TensorProto.INT8:
            assert np.abs(onnx.numpy_helper.to_array(weight)).max() <= 64  # two products fit into 16 bits


def test_float16(run: Run, graph: Graph) -> None:
    proto = to_float16(graph.proto, graph.float16_nodes)
    onnx.checker.check_model(proto, full_check=True)
    half, wide = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    large = {weight.data_type for weight in proto.graph.initializer if np.prod(weight.dims) >= 1024}
    assert large & {half, wide} == {half}
    known = onnx.shape_inference.infer_shapes(proto).graph.value_info
    kinds = {value.name: value.type.tensor_type.elem_type for value in known}
    results = {
        kind: {kinds[node.output[0]] for node in proto.graph.node if node.op_type == kind}
        for kind in ("LayerNormalization", "ReduceSum", "Gelu", "MatMul")
    }
    # The activations of the stem stay wide, those of the MLP do not.
    assert results == {"LayerNormalization": {wide}, "ReduceSum": {wide}, "Gelu": {half, wide}, "MatMul": {half, wide}}
    pixels = np.random.default_rng(0).standard_normal((2, 1, 40, 33)).astype(np.float32)
    with torch.no_grad():
        expected = run.model.cpu()(torch.from_numpy(pixels)).numpy()
    logits = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"pixels": pixels})[0]
    assert 1e-7 < np.abs(logits - expected).max() < 1e-2


@pytest.mark.slow
def test_export_float16(run: Run, exported: Exported, tmp_path: Path) -> None:
    done = export(run.folder, ExportOptions(precision="fp16", out=tmp_path / "m.onnx", margin=0.5))
    assert done.loss is not None
    assert done.loss.bits == "fp16"
    assert 1e-7 < done.parity.largest < 2e-2
    assert Model(done.path).metadata.precision == "fp16"
    assert Model(exported.path).metadata.precision == "fp32"


@pytest.mark.slow
def test_sums_do_not_overflow_in_half() -> None:
    """An image whose covariances lie beyond float16 gives the logits of float32."""
    torch.manual_seed(0)
    model = create_model("seqnorm_vit_nano_patch16", **SMALL | {"img_size": 128}).eval()
    with torch.no_grad():
        model.blocks[0].norm1.weight.fill_(1000.0)
        expected = model(torch.ones(1, 1, 128, 128).cumsum(3)).numpy()
    graph = make_graph(model, 1, 128)
    proto = to_float16(graph.proto, graph.float16_nodes)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    result = session.run(None, {"pixels": np.ones((1, 1, 128, 128), np.float32).cumsum(3)})[0]
    np.testing.assert_allclose(result, expected, atol=2e-2)


@pytest.mark.slow
def test_int8_beyond_the_margin(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from softfree.deployment import loss

    lost = SimpleNamespace(b=0.9, a=0.8, high=-0.05, low=-0.15, method="x", reason=None)
    monkeypatch.setattr(loss, "compare", lambda *_, **__: SimpleNamespace(differences={"auroc": lost}))
    for out in (tmp_path / "m.onnx", tmp_path / "new" / "folder" / "m.onnx"):
        with pytest.raises(UserError, match=r"loss 0.1000 \(95 % interval 0.0500 to 0.1500"):
            export(run.folder, ExportOptions(int8="weights", out=out))
        assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("form", ["openvino", "executorch"])
@pytest.mark.parametrize("there", [False, True], ids=["new", "over another"])
def test_a_failed_proof_leaves_what_was_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, there: bool
) -> None:
    pytest.importorskip({"openvino": "openvino", "executorch": "executorch.exir"}[form])
    names = {"openvino": ("m.xml", "m.bin"), "executorch": ("m.pte", "m.json")}[form]
    for name in names if there else ():
        (tmp_path / name).write_text(name)

    def differs(*_: object, **__: object) -> None:
        raise UserError("the exported model differs")

    monkeypatch.setattr(f"softfree.deployment.{form}.check_parity", differs)
    with pytest.raises(UserError, match="differs"):
        export(run.folder, ExportOptions(format=form, out=tmp_path / names[0]))
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {n: n for n in names if there}


@pytest.mark.slow
def test_openvino(run: Run, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    done = export(run.folder, ExportOptions(format="openvino", out=tmp_path / "m.xml"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.bin", "m.xml"]
    assert done.parity.largest < 1e-4
    half = export(run.folder, ExportOptions(format="openvino", out=tmp_path / "h.xml", precision="fp16", margin=0.5))
    assert half.loss is not None
    assert 1e-6 < half.parity.largest < 2e-2
    assert (tmp_path / "h.bin").stat().st_size < 0.6 * (tmp_path / "m.bin").stat().st_size
    model = openvino.Core().read_model(tmp_path / "m.xml")
    assert [output.get_any_name() for output in model.outputs] == ["logits", "distance"]
    assert model.get_rt_info(["softfree", "classes"]).astype(str) == json.dumps(list(run.task.classes))
    told = openvino.Core().read_model(tmp_path / "h.xml").get_rt_info(["softfree", "loss"]).astype(str)
    assert json.loads(told) == half.loss.to_dict()


def test_executorch_is_missing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "executorch.exir", None)
    with pytest.raises(UserError, match=r"pip install softfree\[executorch\]"):
        export(run.folder, ExportOptions(format="executorch", out=tmp_path / "m.pte"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_executorch(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("executorch.exir")
    done = export(run.folder, ExportOptions(format="executorch", out=tmp_path / "m.pte"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.json", "m.pte"]
    assert done.size == (32, 32)
    assert done.parity.largest < 1e-4
    about = Metadata.from_strings(json.loads((tmp_path / "m.json").read_text()), tmp_path / "m.json")
    assert about.task == run.task
    assert (about.sets, about.unusual_rate) == (run.calibration.sets, None), "the program gives logits alone"
    assert about.size == (32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["softmax", "sima", "soft"])
def test_other_attentions(name: str) -> None:
    model = create_model(f"{name}_vit_nano_patch16", **SMALL).eval()
    graph = make_graph(model, 1, 32)
    side = 32 if graph.size is None else graph.size[0]
    session = onnxruntime.InferenceSession(graph.proto.SerializeToString())
    pixels = torch.randn(3, 1, side, side)
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"pixels": pixels.numpy()})[0], model(pixels).numpy(), atol=1e-4)
    assert (graph.size is None) == (name != "soft")
