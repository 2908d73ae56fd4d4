"""A file that cannot be used is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from softfree_runtime import Model
from softfree_runtime.core.conformal import ConformalSets
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.metadata import Metadata


def refused(path: Path, words: str) -> None:
    with pytest.raises(UserError, match=words) as raised:
        Model(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_logits(model: Path) -> None:
    pixels = np.random.default_rng(0).random((3, 1, 8, 9), dtype=np.float32)
    expected = pixels.mean((2, 3)) @ np.array([[-1.0, 1.0]])
    np.testing.assert_allclose(Model(model, threads=1).logits(pixels), expected, atol=1e-6)


def test_metadata_come_back(make_model: Callable[..., Path], about: Callable[..., Metadata]) -> None:
    sets = ConformalSets(0.8, {"well": 0.1, "ill": 0.4})
    text = about(
        card="Grün\nund gut", versions={"softfree": "1"}, metrics={"auroc": {"value": 0.9}}, size=(8, 9),
        precision="fp16", sets=sets, unusual_rate=0.05,
    )  # fmt: skip
    assert Model(make_model(text)).metadata == text


def test_metadata_of_earlier_files(about: Callable[..., Metadata]) -> None:
    strings = about().to_strings()
    del strings["precision"], strings["sets"], strings["unusual_rate"]
    strings["preprocessing"] = json.dumps(about().preprocessing.to_dict())
    assert Metadata.from_strings(strings, "m.onnx") == about()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.8, 0.99])
def test_truncated(model: Path, share: float) -> None:
    content = model.read_bytes()
    model.write_bytes(content[: int(share * len(content))])
    refused(model, "truncated|metadata")


def test_not_ours(model: Path, make_model: Callable[..., Path], tmp_path: Path) -> None:
    refused(make_model(None), "not made by softfree export")
    refused(tmp_path, "is a folder")
    refused(tmp_path / "none.onnx", "does not exist")
    model.write_text("some text")
    refused(model, "cannot be opened as an ONNX model")


def test_a_graph_that_breaks_its_promise(make_model: Callable[..., Path]) -> None:
    refused(make_model(channels=3), r"metadata say \(any, 1, any, any\)")
    refused(make_model(classes=3), "2 classes")


def test_a_distance_is_promised_and_given(make_model: Callable[..., Path], about: Callable[..., Metadata]) -> None:
    path = make_model(about(unusual_rate=0.05))
    pixels = np.full((2, 1, 8, 9), -3, dtype=np.float32)
    logits, distance = Model(path).outputs(pixels)
    np.testing.assert_allclose(logits, [[3, -3], [3, -3]], rtol=1e-6)
    np.testing.assert_allclose(distance, [3, 3], rtol=1e-6)
    np.testing.assert_array_equal(Model(path).distances(pixels), distance)
    with pytest.raises(UserError, match="gives no distances"):
        Model(make_model()).distances(pixels)
    proto = onnx.load(make_model(about(unusual_rate=0.05)))
    onnx.helper.set_model_props(proto, about().to_strings())
    onnx.save(proto, path)
    refused(path, "has 2 outputs; its metadata say 1")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("softfree_format", "2", "has format '2'"),
        ("temperature", "-0.5", "temperature is -0.5; expected a number above 0"),
        ("temperature", "0", "temperature is 0; expected a number above 0"),
        ("temperature", "NaN", "metadata.temperature is nan; expected a finite number"),
        ("temperature", "Infinity", "metadata.temperature is inf"),
        ("temperature", "true", "metadata.temperature is True"),
        ("temperature", "[2]", r"metadata.temperature is \[2\]"),
        ("temperature", "", "temperature is '', which is not JSON"),
        ("temperature", None, "temperature is missing"),
        ("task", "x", "task is 'x', which is not JSON"),
        ("task", '"segmentation"', "task.kind is 'segmentation'; expected binary or multiclass or ordinal"),
        ("task", '"multiclass"', "task.classes is .*, as multiclass needs"),
        ("classes", '["well"]', "task.classes is"),
        ("classes", '["ill", "ill"]', "task.classes is .*expected different names"),
        ("classes", '"ab"', "task.classes is"),
        ("classes", "[1, 2]", "task.classes is"),
        ("classes", '["", "ill"]', "task.classes is"),
        ("thresholds", '{"ill": 1.5}', "a threshold is 1.5"),
        ("thresholds", '{"ill": NaN}', "metadata.thresholds"),
        ("thresholds", '{"sick": 0.5}', "thresholds has 'sick'; expected some of well, ill"),
        ("thresholds", "[0.5]", "metadata.thresholds"),
        ("size", "[32]", "size is .*expected 2 sides"),
        ("size", "[32, 0]", "size is .*expected 2 sides above 0"),
        ("size", "[32, 32.5]", "metadata.size"),
        ("size", '"32"', "metadata.size"),
        ("quantized", "int4", "metadata.quantized is 'int4'"),
        ("precision", "bfloat16", "metadata.precision is 'bfloat16'; expected fp32 or fp16"),
        ("metrics", "[]", "metadata.metrics"),
        ("versions", '{"softfree": 1}', "metadata.versions"),
        ("preprocessing", "{}", "preprocessing.size is missing"),
        ("preprocessing", "[]", r"preprocessing.kind is \[\]"),
        ("preprocessing", '{"kind": "sound"}', "preprocessing.kind is 'sound'; expected image"),
    ],
)
def test_metadata_are_not_taken_on_trust(
    about: Callable[..., Metadata], name: str, value: str | None, words: str
) -> None:
    strings = about().to_strings() | {name: value}
    with pytest.raises(UserError, match=words) as raised:
        Metadata.from_strings({key: text for key, text in strings.items() if text is not None}, "m.onnx")
    assert str(raised.value).startswith("m.onnx")
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size": 0}, "preprocessing.size is 0; expected numbers above 0"),
        ({"size": "32"}, "preprocessing.size is '32'; expected a whole number"),
        ({"size": 32.5}, "preprocessing.size is 32.5"),
        ({"resize_mode": "squeeze"}, "preprocessing cannot be used .*squeeze"),
        ({"channels": 2}, "preprocessing cannot be used .*2 channels|one for each channel"),
        ({"channels": True}, "preprocessing.channels is True"),
        ({"mean": [0.5, 0.5]}, "preprocessing.mean is .*; expected one for each channel"),
        ({"mean": [float("nan")]}, "preprocessing.mean is"),
        ({"std": [0]}, "preprocessing.std is .*; expected numbers above 0"),
        ({"std": "0.2"}, "preprocessing.std is"),
        ({"scale": 3}, "preprocessing has 'scale', which is not known"),
    ],
)
def test_impossible_steps(about: Callable[..., Metadata], change: dict[str, object], words: str) -> None:
    steps = {"kind": "image"} | about().preprocessing.to_dict() | change
    with pytest.raises(UserError, match=words):
        Metadata.from_strings(about().to_strings() | {"preprocessing": json.dumps(steps)}, "m.onnx")


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (
            {"kind": "volume", "preset": "pet", "shape": [8, 8, 8], "spacing": None, "channels": 1},
            "'pet'|cannot be used",
        ),
        ({"kind": "volume", "preset": "mr", "shape": [8, 8], "spacing": None, "channels": 1}, "preprocessing.shape"),
        ({"kind": "volume", "preset": "mr", "shape": [8, 8, 8], "spacing": [1, 1, 0], "channels": 1}, "above 0"),
        ({"kind": "slide", "mpp": 0}, "preprocessing.mpp is 0"),
        ({"kind": "slide", "mpp": None}, "preprocessing.mpp is None"),
        ({"kind": "bag", "in_features": -3}, "preprocessing.in_features is -3"),
        ({"kind": "bag", "in_features": 3, "tile_dropout": "no"}, "preprocessing.tile_dropout"),
    ],
)
def test_impossible_steps_of_other_samples(
    about: Callable[..., Metadata], steps: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        Metadata.from_strings(about().to_strings() | {"preprocessing": json.dumps(steps)}, "m.onnx")


def test_images_that_the_graph_does_not_take(make_model: Callable[..., Path], about: Callable[..., Metadata]) -> None:
    model = Model(make_model(about(size=(8, 8))))
    with pytest.raises(ReadError, match=r"a: 8 x 9 once prepared, but .* takes 8 x 8 only") as raised:
        model.check("a", np.zeros((1, 8, 9)))
    assert raised.value.status == "unsupported"
    with pytest.raises(UserError, match=r"takes \(1, 8, 8\)"):
        model.logits(np.zeros((2, 3, 8, 8)))
    with pytest.raises(UserError, match="the batch first"):
        model.logits(np.zeros((1, 8, 8)))
