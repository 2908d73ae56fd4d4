"""Parametric maps: where their values lie in space, what they mean, and whether the files are valid."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("highdicom")
pytest.importorskip("dicomweb_client")

from pydicom import dcmread
from pydicom.dataset import Dataset
from tests.serving.hospital.support import level_of, pyramid
from tests.serving.hospital.test_results import errors_of

from softfree.saliency.geometry import TokenGrid
from softfree.serving.hospital import parametric
from softfree.serving.hospital.parametric import write_parametric_map
from softfree_runtime.core.errors import ReadError
from softfree_runtime.sources.volume_files import read_volume


@pytest.fixture
def slide(shared_data: Path) -> Path:
    return shared_data / "wsi" / "cptac-brca_15BR001_level.dcm"


def write(folder: Path, files: list[Path], values: np.ndarray, grid: TokenGrid, method: str = "integrated",
          signed: bool = True, name: str = "values.dcm") -> Dataset:  # fmt: skip
    """Write a map of files, each copied into one folder, and read it back."""
    (folder / "maps").mkdir(exist_ok=True)
    (folder / "files").mkdir(exist_ok=True)
    arrays: dict[str, Any] = {name: getattr(grid, name) for name in ("start", "step", "visible", "shape")}
    arrays |= {} if grid.affine is None else {"affine": grid.affine}
    np.savez(folder / "maps" / "map_0.npz", values_0=values, **arrays)
    told = {"target": "ill", "maps": [{"method": method, "description": "What each token adds.", "signed": signed}]}
    (folder / "maps" / "explained.json").write_text(json.dumps(told))
    paths = [Path(shutil.copy(file, folder / "files")) for file in files]
    given: dict[str, Any] = {"model": "chest", "version": "ab" * 32, "predicted": "ill", "seed": "s"}
    write_parametric_map(paths, folder=folder / "maps", number=0, out=folder / name, **given)
    return dcmread(folder / name)


def mapping(made: Dataset) -> Dataset:
    shared: Dataset = made.SharedFunctionalGroupsSequence[0]
    found: Dataset = shared.RealWorldValueMappingSequence[0]
    return found


GRID = TokenGrid((-8.0, -8.0), (16.0, 16.0), ((0.0, 128.0), (0.0, 120.0)), (128, 128))


def test_slice_has_the_values_in_its_own_place(ct: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(9, 9)).astype(np.float32)
    made, source = write(tmp_path, [ct], values, GRID), dcmread(ct)
    expected = GRID.spread(values)
    assert np.isnan(expected[:, 120:]).all()  # what the model did not see has zeros
    np.testing.assert_array_equal(made.pixel_array, np.nan_to_num(expected, nan=0.0))
    assert made.FloatPixelData
    shared, (own,) = made.SharedFunctionalGroupsSequence[0], made.PerFrameFunctionalGroupsSequence
    assert own.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == source.ImageOrientationPatient
    assert shared.PixelMeasuresSequence[0].PixelSpacing == source.PixelSpacing
    assert made.FrameOfReferenceUID == source.FrameOfReferenceUID
    reference = own.DerivationImageSequence[0].SourceImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    found = mapping(made)
    assert (found.RealWorldValueSlope, found.RealWorldValueIntercept) == (1, 0)
    assert found.DoubleFloatRealWorldValueLastValueMapped == np.abs(expected[:, :120]).max()
    assert found.LUTExplanation == "integrated: ill"
    assert found.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    quantity = found.QuantityDefinitionSequence[0].ConceptCodeSequence[0]
    assert (quantity.CodeValue, quantity.CodingSchemeDesignator, quantity.CodeMeaning) == ("130404", "DCM", "Saliency")
    assert made.StudyInstanceUID == source.StudyInstanceUID
    assert (made.PatientName, made.PatientID) == (source.PatientName, source.PatientID)
    said = "Map of a prediction of chest. Predicted: ill. Not a medical device. What each token adds."
    assert made.DerivationDescription == said
    assert errors_of(tmp_path / "values.dcm") - errors_of(ct) == set()


def test_same_map_has_same_uids(ct: Path, tmp_path: Path) -> None:
    first, again = (write(tmp_path, [ct], np.ones((9, 9)), GRID, name=name) for name in ("a.dcm", "b.dcm"))
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "DimensionOrganizationSequence"):
        assert first[keyword] == again[keyword]
    assert mapping(first).DoubleFloatRealWorldValueFirstValueMapped == -1.0
    unsigned = write(tmp_path, [ct], np.ones((9, 9)), GRID, "gradcam", signed=False)
    assert mapping(unsigned).DoubleFloatRealWorldValueFirstValueMapped == 0.0
    quantity = mapping(unsigned).QuantityDefinitionSequence[0].ConceptCodeSequence[0]
    assert quantity.CodeMeaning == "Gradient-weighted class activation"


def _in_space(made: Dataset, frame: int, row: int, column: int) -> np.ndarray:
    """Return where a pixel lies, millimeters RAS+, from the elements of the map alone (PS3.3 C.7.6.2.1.1)."""
    shared, own = made.SharedFunctionalGroupsSequence[0], made.PerFrameFunctionalGroupsSequence[frame]
    across, down = np.reshape([float(x) for x in shared.PlaneOrientationSequence[0].ImageOrientationPatient], (2, 3))
    rows, columns = (float(x) for x in shared.PixelMeasuresSequence[0].PixelSpacing)
    position = np.array([float(x) for x in own.PlanePositionSequence[0].ImagePositionPatient])
    return np.array([-1, -1, 1]) * (position + across * column * columns + down * row * rows)


def test_volume_has_the_values_on_each_slice(shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "dicom" / "series_t1").iterdir())
    volume = read_volume(files[0].parent)
    shape, rng = volume.voxels.shape[1:], np.random.default_rng(1)
    grid = TokenGrid((-1.0, 20.0, 5.0), (4.0, 31.0, 29.0), ((0.0, 10.0), (20.0, 300.0), (5.0, 250.0)), shape,
                     volume.spacing, volume.affine)  # fmt: skip
    values = rng.normal(size=(3, 10, 9)).astype(np.float32)
    made = write(tmp_path, files[::-1], values, grid)
    pixels, expected = made.pixel_array, np.nan_to_num(grid.spread(values), nan=0.0)
    assert pixels.shape == (10, 384, 274)
    to_voxels = np.linalg.inv(volume.affine)
    seen = 0
    for frame, row, column in rng.integers((0, 0, 0), pixels.shape, (300, 3)):
        at = to_voxels @ [*_in_space(made, frame, row, column), 1]
        voxel = tuple(np.rint(at[:3]).astype(int))
        assert np.allclose(at[:3], voxel, atol=0.05)  # pixel by pixel
        assert pixels[frame, row, column] == expected[voxel]
        seen += expected[voxel] != 0
    assert seen > 100
    by_uid = {header.SOPInstanceUID: header for header in map(dcmread, files)}
    for own in made.PerFrameFunctionalGroupsSequence:
        source = by_uid.pop(own.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
        position = own.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose([float(x) for x in position], [float(x) for x in source.ImagePositionPatient])
    assert by_uid == {}
    assert errors_of(tmp_path / "values.dcm") - errors_of(files[0]) == set()


def test_enhanced_file_has_the_values_on_each_frame(shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "dicom" / "pydicom_data" / "liver.dcm"
    volume = read_volume(file)
    depth, height, width = map(float, volume.voxels.shape[1:])
    visible = ((0.0, depth), (0.0, height), (0.0, width))
    grid = TokenGrid((0.0, 0.0, 0.0), (1.0, height, width), visible, volume.voxels.shape[1:], None, volume.affine)
    values = np.arange(1.0, depth + 1).reshape(-1, 1, 1)
    made = write(tmp_path, [file], values, grid)
    assert made.NumberOfFrames == depth == 3
    for frame, pixels in enumerate(made.pixel_array):
        at = np.linalg.inv(volume.affine) @ [*_in_space(made, frame, 0, 0), 1]
        assert np.unique(pixels).tolist() == [round(at[0]) + 1]
    assert errors_of(tmp_path / "values.dcm") - errors_of(file) == set()


SLIDE = TokenGrid((107.0, 80.0), (140.0, 150.0), ((107.0, 1507.0), (80.0, 1580.0)), (1547, 1680))


def matrix_of(made: Dataset) -> np.ndarray:
    """Put the tiles of a map together, in real world values."""
    whole = np.full((made.TotalPixelMatrixRows + made.Rows, made.TotalPixelMatrixColumns + made.Columns), np.nan)
    found = mapping(made)
    for own, tile in zip(made.PerFrameFunctionalGroupsSequence, made.pixel_array, strict=True):
        place = own.PlanePositionSlideSequence[0]
        top, left = place.RowPositionInTotalImagePixelMatrix - 1, place.ColumnPositionInTotalImagePixelMatrix - 1
        real = tile * found.RealWorldValueSlope + found.RealWorldValueIntercept
        whole[top : top + made.Rows, left : left + made.Columns] = real
    return whole[: made.TotalPixelMatrixRows, : made.TotalPixelMatrixColumns]


def test_slide_has_the_values_on_its_level(slide: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(2).normal(size=(10, 10)).astype(np.float32)
    values[3, 3] = 0
    made, source = write(tmp_path, [slide], values, SLIDE), dcmread(slide)
    expected = np.nan_to_num(SLIDE.spread(values), nan=0.0)
    step = float(np.abs(values).max()) / 32767
    np.testing.assert_allclose(matrix_of(made), expected, atol=step / 2 * 1.001)
    assert (np.abs(matrix_of(made)[expected == 0]) < 1e-12).all()  # nothing stays nothing
    assert made.pixel_array.dtype == np.uint16
    found = mapping(made)
    assert (found.RealWorldValueFirstValueMapped, found.RealWorldValueLastValueMapped) == (0, 65534)
    for keyword in (
        "FrameOfReferenceUID",
        "ContainerIdentifier",
        "ImageOrientationSlide",
        "StudyInstanceUID",
        "PatientID",
    ):
        assert made[keyword].value == source[keyword].value
    for keyword in ("XOffsetInSlideCoordinateSystem", "YOffsetInSlideCoordinateSystem"):
        own, given = (dataset.TotalPixelMatrixOriginSequence[0][keyword].value for dataset in (made, source))
        assert float(own) == pytest.approx(float(given), abs=1e-6)
    spacing, given = (dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
                      for dataset in (made, source))  # fmt: skip
    assert [float(x) for x in spacing] == pytest.approx([float(x) for x in given])
    assert made.DimensionOrganizationType == "TILED_SPARSE"
    assert errors_of(tmp_path / "values.dcm") - errors_of(slide) == set()


def test_slide_takes_the_coarsest_level_that_is_fine_enough(slide: Path, tmp_path: Path) -> None:
    levels = pyramid(slide, tmp_path / "levels", (2, 4))
    grid = TokenGrid((0.0, 0.0), (3.0, 3.0), ((0.0, 1547.0), (0.0, 1680.0)), (1547, 1680))
    values = np.random.default_rng(3).normal(size=(516, 560)).astype(np.float32)
    made = write(tmp_path, levels, values, grid)
    assert (made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns) == (773, 840)
    (reference,) = {item.ReferencedSOPInstanceUID for item in made.SourceImageSequence}
    assert reference == dcmread(levels[1]).SOPInstanceUID
    real, step = matrix_of(made), float(np.abs(values).max()) / 32767
    for row, column in np.random.default_rng(4).integers((0, 0), (773, 840), (200, 2)):
        token = int((row + 0.5) * 1547 / 773 / 3), int((column + 0.5) * 2 / 3)
        inside = token[0] < 516 and token[1] < 560
        assert real[row, column] == pytest.approx(values[token] if inside else 0, abs=step)


def test_slide_without_a_small_level_gets_a_coarser_map(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parametric, "_LARGEST", 200_000)
    values = np.random.default_rng(2).normal(size=(10, 10)).astype(np.float32)
    made = write(tmp_path, [slide], values, SLIDE)
    assert (made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns) == (387, 420)  # a quarter
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(x) for x in measures.PixelSpacing] == pytest.approx([4 * 0.015821165833333] * 2)
    expected = np.nan_to_num(SLIDE.spread(values), nan=0.0)[2::4, 2::4]  # centers lie at 2, 6, 10, ...
    real = matrix_of(made)[: len(expected), : expected.shape[1]]
    assert (np.abs(real - expected) > 1e-3).mean() < 0.01  # but where a center lies on an edge


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("SC_rgb_small_odd.dcm", (3, 3), "it has no position in space, as most radiographs"),
        ("CT_small.dcm", (64, 64), "its map has other sides than its pixels"),
        ("slide", (100, 100), "the finest level of the slide is not the one that was read"),
    ],
)
def test_sources_without_a_place_are_refused(
    kind: str, shape: tuple[int, int], message: str, slide: Path, shared_data: Path, tmp_path: Path
) -> None:
    file = slide if kind == "slide" else shared_data / "dicom" / "pydicom" / kind
    grid = TokenGrid((0.0, 0.0), (1.0, 1.0), ((0.0, 3.0), (0.0, 3.0)), shape)
    with pytest.raises(ReadError, match=message):
        write(tmp_path, [file], np.ones((3, 3)), grid)


def test_damaged_elements_are_not_quoted(ct: Path, tmp_path: Path) -> None:
    source = dcmread(ct)
    source.PatientSex, source.PatientName = "X", "Doe Jane"
    del source.PixelSpacing
    source.save_as(tmp_path / "a.dcm")
    with pytest.raises(ReadError) as error:
        write(tmp_path, [tmp_path / "a.dcm"], np.ones((9, 9)), GRID)
    assert "its header does not allow a parametric map" in str(error.value)
    assert "Doe" not in str(error.value)


def test_levels_of_the_helper_are_a_slide(slide: Path, tmp_path: Path) -> None:
    """Which the other tests rest on: OpenSlide takes the files as the levels of one slide."""
    from softfree.data.slide_readers.slide import open_slide

    levels = pyramid(slide, tmp_path, (2, 4))
    with open_slide(levels[0]) as opened:
        assert (opened.size, opened.levels) == ((1680, 1547), 3)
    assert level_of(levels[2]) == (386, 420)
