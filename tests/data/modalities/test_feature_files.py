"""Feature files of softfree, CLAM, TRIDENT and STAMP, in the layouts that those tools write."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from softfree.data.modalities.feature_coordinates import _unit
from softfree.data.modalities.feature_files import read_attributes, read_features, read_header, write_features
from softfree_runtime.core.errors import ReadError

FEATURES = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
CORNERS = np.array([[0, 0], [512, 0], [1024, 0], [0, 512], [512, 512]])


def write(path: Path, arrays: dict[str, Any], attributes: dict[str, Any] | None = None, **of_coords: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file.attrs.update(attributes or {})
        if of_coords:
            file["coords"].attrs.update(of_coords)
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.h5"
    write_features(path, FEATURES, CORNERS / 1000.0, {"encoder": "resnet18", "mpp": 0.5})
    return path


def test_own_layout(own: Path) -> None:
    got = read_features(own, mpp=7)  # which it does not need
    np.testing.assert_array_equal(got.features, FEATURES)
    np.testing.assert_array_equal(got.coords_mm, CORNERS / 1000.0)
    assert (got.tool, got.encoder, got.attributes["mpp"]) == ("softfree", "resnet18", 0.5)
    assert read_header(own) == (8, "resnet18")
    assert read_attributes(own)["complete"]  # type: ignore[index]


def test_half_precision_is_kept(tmp_path: Path) -> None:
    write_features(tmp_path / "a.h5", FEATURES.astype(np.float16), CORNERS / 1000, {})
    got = read_features(tmp_path / "a.h5").features
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, FEATURES.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("leading", [False, True])
def test_clam(tmp_path: Path, leading: bool) -> None:
    features = FEATURES[None] if leading else FEATURES
    path = write(tmp_path / "clam.h5", {"features": features, "coords": CORNERS.astype(np.int32)})
    got = read_features(path, mpp=0.25)
    np.testing.assert_array_equal(got.features, FEATURES)
    np.testing.assert_allclose(got.coords_mm, CORNERS * 0.25e-3)
    assert (got.tool, got.encoder) == ("CLAM", None)
    assert read_features(path).coords_mm is None


def test_trident(tmp_path: Path) -> None:
    arrays = {"features": FEATURES, "coords": CORNERS}
    path = write(tmp_path / "t.h5", arrays, patch_size=256, patch_size_level0=512, level0_magnification=40)
    np.testing.assert_allclose(read_features(path, mpp=0.25).coords_mm, (CORNERS + 256) * 0.25e-3)
    assert read_features(path).coords_mm is None  # a magnification is no resolution
    assert read_features(path).tool == "TRIDENT"


@pytest.mark.parametrize(
    "attributes", [{"unit": "um", "tile_size_um": 256.0, "feat_type": "tile"}, {"unit": "um", "tile_size": 256.0}]
)
def test_stamp(tmp_path: Path, attributes: dict[str, Any]) -> None:
    arrays = {"feats": FEATURES.astype(np.float16), "coords": CORNERS.astype(np.float32)}
    path = write(tmp_path / "s.h5", arrays, attributes | {"extractor": "uni2"})
    got = read_features(path)
    np.testing.assert_allclose(got.coords_mm, (CORNERS + 128) / 1000)
    assert (got.tool, got.encoder) == ("STAMP", "uni2")


def test_stamp_before_it_said_its_unit(tmp_path: Path) -> None:
    path = write(tmp_path / "s.h5", {"feats": FEATURES, "coords": CORNERS}, {"extractor": "ctp"})
    assert read_features(path).coords_mm is None
    np.testing.assert_allclose(read_features(path, mpp=256 / 224).coords_mm, CORNERS * 256 / 224 / 1000)


def _empty(folder: Path) -> Path:
    return write(folder / "x.h5", {"features": FEATURES[:0], "coords": CORNERS[:0]})


def _not_finite(folder: Path) -> Path:
    broken = FEATURES.copy()
    broken[3, 2] = np.nan
    return write(folder / "x.h5", {"features": broken, "coords": CORNERS})


def _of_a_slide(folder: Path) -> Path:
    return write(folder / "x.h5", {"features": FEATURES[0], "coords": CORNERS})


def _of_a_patient(folder: Path) -> Path:
    return write(folder / "x.h5", {"feats": FEATURES[:1]}, {"feat_type": "patient"})


def _without(folder: Path) -> Path:
    return write(folder / "x.h5", {"coords": CORNERS})


def _uneven(folder: Path) -> Path:
    return write(folder / "x.h5", {"features": FEATURES, "coords": CORNERS[:3]})


def _text(folder: Path) -> Path:
    (folder / "x.h5").write_text("no HDF5")
    return folder / "x.h5"


def _half(folder: Path) -> Path:
    attributes = {"softfree_features": 1, "encoder": "a"}
    return write(folder / "x.h5", {"features": FEATURES, "coords_mm": CORNERS / 1e3}, attributes)


def _cut(folder: Path) -> Path:
    path = write(folder / "x.h5", {"features": np.zeros((5000, 8), np.float32), "coords": np.zeros((5000, 2))})
    path.write_bytes(path.read_bytes()[:9000])
    return path


@pytest.mark.parametrize(
    ("make", "status", "words"),
    [
        (_empty, "empty", "a bag without tiles"),
        (_not_finite, "not_finite", "in 1 of 5 tiles"),
        (_of_a_slide, "unsupported", "one vector for the whole slide"),
        (_of_a_patient, "unsupported", "one vector for the whole slide"),
        (_without, "unsupported", "it holds coords"),
        (_uneven, "corrupt", "for 5 tiles"),
        (_text, "corrupt", "not readable as HDF5"),
        (_half, "corrupt", "half-written"),
        (_cut, "corrupt", "x.h5"),
        (lambda folder: folder / "no.h5", "missing", "no such file"),
    ],
)
def test_bad_files(tmp_path: Path, make: Callable[[Path], Path], status: str, words: str) -> None:
    path = make(tmp_path)
    with pytest.raises(ReadError, match=words) as caught:
        read_features(path)
    assert caught.value.status == status
    assert str(caught.value).startswith(f"{path}: ")
    assert read_attributes(path) is None


def test_attributes_are_plain_whatever_wrote_them(own: Path) -> None:
    with h5py.File(own, "a") as file:
        file.attrs["encoder"] = np.array([b"resnet18"])
        file.attrs["mpp"] = np.array([0.5])
        file.attrs["side"] = np.array([224, 224])
    got = read_attributes(own)
    assert got is not None
    assert (got["encoder"], got["mpp"], got["side"]) == ("resnet18", 0.5, [224, 224])
    assert read_header(own) == (8, "resnet18")


def test_no_name_of_a_dataset_is_repeated(tmp_path: Path) -> None:
    path = write(tmp_path / "x.h5", {"Doe^Jane": FEATURES})
    with pytest.raises(ReadError) as caught:
        read_features(path)
    assert "Jane" not in str(caught.value)


@pytest.mark.parametrize(("name", "millimeters"), [("Millimetres", 1.0), ("micrometre", 1e-3), ("microns", 1e-3)])
def test_units_in_british_spelling_and_the_plural(name: str, millimeters: float) -> None:
    assert _unit(Path("a.h5"), name) == millimeters
