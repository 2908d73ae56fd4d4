"""DICOM slides: OpenSlide where it can, wsidicom where it cannot, the same pixels from both."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import JPEGLSLossless, generate_uid

from softfree.data.slide_readers.dicom import DicomPyramid, _series
from softfree.data.slide_readers.openslide import OpenSlidePyramid
from softfree.data.slide_readers.slide import open_slide
from softfree_runtime.core.errors import ReadError


@pytest.fixture
def real(shared_data: Path) -> Path:
    return shared_data / "wsi" / "cptac-brca_15BR001_level.dcm"


def test_both_libraries_give_the_same_pixels(real: Path) -> None:
    one, two = OpenSlidePyramid(real), DicomPyramid(real)
    assert one.sizes == two.sizes
    assert one.mpp == pytest.approx(two.mpp)
    region = 0, 500, 600, 700, 300
    np.testing.assert_array_equal(one.region(*region)[0], two.region(*region)[0])
    assert isinstance(open_slide(real)._pyramid, OpenSlidePyramid)


def test_what_openslide_refuses_goes_to_wsidicom(real: Path, tmp_path: Path) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    dataset = dcmread(real)
    frames = pixel_array(dataset)
    dataset.PixelData = encapsulate([imagecodecs.jpegls_encode(frame) for frame in frames])
    dataset["PixelData"].VR = "OB"
    dataset.PhotometricInterpretation = "RGB"
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.save_as(tmp_path / "ls.dcm")
    slide = open_slide(tmp_path / "ls.dcm")
    assert isinstance(slide._pyramid, DicomPyramid)
    np.testing.assert_array_equal(slide.thumbnail(100), open_slide(real).thumbnail(100))


def test_a_folder_is_a_series(real: Path, tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").symlink_to(real)
    np.testing.assert_array_equal(open_slide(tmp_path / "series").thumbnail(200), open_slide(real).thumbnail(200))


def test_the_levels_of_a_series_may_have_any_names(real: Path, tmp_path: Path) -> None:
    for name in ("level0", "level1.DCM", "level2.dcm"):
        shutil.copy(real, tmp_path / name)
    (tmp_path / "notes.txt").write_text("no level")
    assert _series(tmp_path / "level1.DCM") == [tmp_path / name for name in ("level1.DCM", "level0", "level2.dcm")]


def test_other_dicom_is_no_slide(write_dicom: Callable[..., Path]) -> None:
    with pytest.raises(ReadError, match="not readable as a slide") as caught:
        open_slide(write_dicom(np.zeros((16, 16), np.uint8)))
    assert "Doe" not in str(caught.value)


def test_two_slides_in_a_folder_are_refused(real: Path, tmp_path: Path) -> None:
    dataset = dcmread(real)
    for name in ("1.dcm", "2.dcm"):
        dataset.SeriesInstanceUID = generate_uid()
        dataset.save_as(tmp_path / name)
    with pytest.raises(ReadError, match="2 DICOM slides in one folder") as caught:
        open_slide(tmp_path)
    assert caught.value.status == "unsupported"
    assert open_slide(tmp_path / "1.dcm").size == open_slide(real).size


@pytest.mark.parametrize("part", [0.05, 0.3, 0.7, 0.9])
def test_a_file_that_is_cut_short(real: Path, tmp_path: Path, part: float) -> None:
    content = real.read_bytes()
    (tmp_path / "cut.dcm").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ReadError) as caught:
        open_slide(tmp_path / "cut.dcm").thumbnail(100)
    assert caught.value.status == "corrupt"
