"""A file that cannot be used is refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from softfree.errors import ReadError, UserError
from softfree.runtime import Model
from softfree.runtime.metadata import Metadata


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
    said = about(card="Grün\nund gut", versions={"softfree": "1"}, metrics={"auroc": {"value": 0.9}}, size=(8, 9),
                 precision="float16")  # fmt: skip
    assert Model(make_model(said)).metadata == said


def test_metadata_of_earlier_files(about: Callable[..., Metadata]) -> None:
    strings = about().to_strings()
    del strings["precision"], strings["group"]
    strings["preprocessing"] = json.dumps(about().preparation.to_dict())
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
    refused(make_model(channels=3), r"promise \(any, 1, any, any\)")
    refused(make_model(classes=3), "2 classes")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("softfree_format", "2", "has format 2"),
        ("preprocessing", "{}", "damaged metadata"),
        ("preprocessing", '{"kind": "sound"}', "samples of kind 'sound'"),
        ("task", "x", "damaged metadata"),
    ],
)
def test_damaged_metadata(about: Callable[..., Metadata], name: str, value: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Metadata.from_strings(about().to_strings() | {name: value}, "m.onnx")


def test_pictures_that_the_graph_does_not_take(make_model: Callable[..., Path], about: Callable[..., Metadata]) -> None:
    model = Model(make_model(about(size=(8, 8))))
    with pytest.raises(ReadError, match=r"a: 8 x 9 once prepared, but .* takes 8 x 8 only") as raised:
        model.check("a", np.zeros((1, 8, 9)))
    assert raised.value.status == "unsupported"
    with pytest.raises(UserError, match=r"takes \(1, 8, 8\)"):
        model.logits(np.zeros((2, 3, 8, 8)))
    with pytest.raises(UserError, match="the batch first"):
        model.logits(np.zeros((1, 8, 8)))
