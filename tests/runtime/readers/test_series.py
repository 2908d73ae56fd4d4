import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, generate_uid

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.nifti import read_nifti
from softfree_runtime.readers.series import read_series

SERIES = generate_uid()
AXIAL = [1, 0, 0, 0, 1, 0]
SAGITTAL = [0, 1, 0, 0, 0, -1]


@pytest.fixture
def write_slice(write_dicom, tmp_path):
    def write(number, pixels=None, *, folder="series", position=None, name=None, **elements):
        """Write an axial slice of 3 x 4 pixels, 2 mm above the one before."""
        (tmp_path / folder).mkdir(exist_ok=True)
        given = {
            "SeriesInstanceUID": SERIES,
            "ImagePositionPatient": [-5, 7, 2 * number] if position is None else position,
            "ImageOrientationPatient": AXIAL,
            "PixelSpacing": [0.5, 0.75],
            "SliceThickness": 2,
        } | elements
        if pixels is None:
            pixels = np.arange(12, dtype=np.int16).reshape(3, 4) + 100 * number
        return write_dicom(pixels, name=f"{folder}/{name or f'slice{number}.dcm'}", **given)

    return write


@pytest.fixture
def series_t1(shared_data):
    return shared_data / "dicom" / "series_t1"


@pytest.fixture
def copied(series_t1, tmp_path):
    return Path(shutil.copytree(series_t1, tmp_path / "series"))


def refused(path, *words, status=None):
    with pytest.raises(ReadError) as caught:
        read_series(path)
    message = str(caught.value)
    assert message.startswith(f"{path}")
    assert "\n" not in message
    assert "Doe" not in message
    assert not [file.name for file in path.parent.rglob("*") if file.suffix and file.name in caught.value.reason]
    assert "4711" not in message
    for word in words:
        assert word in message
    assert status is None or caught.value.status == status


def sorted_slices(folder):
    return sorted((dcmread(path) for path in folder.iterdir()), key=lambda one: float(one.ImagePositionPatient[2]))


def nifti_of(slices, path):
    """Save a series as NIfTI by the equation of PS3.3 C.7.6.2.1.1: columns, rows, slices, LPS to RAS."""
    directions = np.array(slices[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    rows, columns = (float(value) for value in slices[0].PixelSpacing)
    positions = np.array([one.ImagePositionPatient for one in slices], dtype=float)
    affine = np.eye(4)
    affine[:3, 0] = directions[0] * columns
    affine[:3, 1] = directions[1] * rows
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(slices) - 1)
    affine[:3, 3] = positions[0]
    voxels = np.stack([one.pixel_array.T for one in slices], axis=-1)
    nibabel.Nifti1Image(voxels, np.diag([-1, -1, 1, 1]) @ affine).to_filename(path)
    return path


def test_a_real_series_is_its_sorted_slices_turned_to_the_canonical_axes(series_t1):
    volume = read_series(series_t1)
    slices = sorted_slices(series_t1)
    expected = np.stack([one.pixel_array for one in slices])  # rows run to the back, columns to the left
    np.testing.assert_array_equal(volume.voxels, expected[None, :, ::-1, ::-1])
    np.testing.assert_allclose(volume.spacing, (2 / 3, 2 / 3, 0.699988), rtol=1e-5)
    for number, one in enumerate(slices):
        first_pixel = volume.affine @ [number, one.Rows - 1, one.Columns - 1, 1]
        np.testing.assert_allclose(first_pixel[:3], one.ImagePositionPatient * np.array([-1, -1, 1]), atol=1e-3)
    assert volume.stored == "16-bit signed MONOCHROME2"


def test_a_series_and_its_nifti_are_the_same_volume(series_t1, tmp_path):
    volume = read_series(series_t1)
    same = read_nifti(nifti_of(sorted_slices(series_t1), tmp_path / "same.nii.gz"))
    np.testing.assert_array_equal(volume.voxels, same.voxels)
    np.testing.assert_allclose(volume.affine, same.affine, atol=1e-4)
    np.testing.assert_allclose(volume.spacing, same.spacing, rtol=1e-6)


def test_sagittal_slices_become_the_same_axes(write_slice, tmp_path):
    for number in range(5):
        write_slice(number, position=[3 * number, 7, 9], ImageOrientationPatient=SAGITTAL)
    volume = read_series(tmp_path / "series")
    assert volume.voxels.shape == (1, 3, 4, 5)
    assert volume.spacing == (0.5, 0.75, 3)
    same = read_nifti(nifti_of(sorted_by(tmp_path / "series", 0), tmp_path / "same.nii"))
    np.testing.assert_array_equal(volume.voxels, same.voxels)
    np.testing.assert_allclose(volume.affine, same.affine)


def sorted_by(folder, axis):
    return sorted((dcmread(path) for path in folder.iterdir()), key=lambda one: float(one.ImagePositionPatient[axis]))


def test_the_geometry_is_that_of_highdicom(series_t1):
    image = pytest.importorskip("highdicom.image")
    reference = image.get_volume_from_series([dcmread(path) for path in series_t1.iterdir()])
    reference = reference.to_patient_orientation("HAL")
    volume = read_series(series_t1)
    # highdicom's coordinates are LPS: H, A, L of its axes are our S, A, L.
    np.testing.assert_array_equal(volume.voxels[0], np.asarray(reference.array)[:, :, ::-1])
    np.testing.assert_allclose(volume.spacing, reference.spacing, rtol=1e-6)


def test_names_do_not_decide_the_order(copied):
    expected = read_series(copied)
    for number, path in enumerate(sorted(copied.iterdir())):
        path.rename(copied / f"{number * 7 % 10}.ima")
    np.testing.assert_array_equal(read_series(copied).voxels, expected.voxels)


def test_a_missing_slice_names_its_neighbors(copied):
    (copied / "N2D_0190.dcm").unlink()
    refused(copied, "N2D_0189.dcm, N2D_0191.dcm: 1 slice missing in between", "1.333 mm", "0.6667", status="corrupt")
    (copied / "N2D_0191.dcm").unlink()
    refused(copied, "N2D_0189.dcm, N2D_0192.dcm: 2 slices missing in between")


def test_a_slice_at_the_end_is_no_gap(copied):
    expected = read_series(copied).voxels[:, 1:]
    (copied / "N2D_0186.dcm").unlink()
    np.testing.assert_array_equal(read_series(copied).voxels, expected)


def test_a_slice_twice_is_refused_by_name(copied):
    shutil.copy(copied / "N2D_0190.dcm", copied / "copy.dcm")
    refused(copied, "N2D_0190.dcm, copy.dcm: slices at the same position", status="unsupported")


def test_several_times_in_one_series_are_refused(write_slice, tmp_path):
    for number in range(4):
        for time in range(2):
            write_slice(number, name=f"{number}_{time}.dcm")
    refused(tmp_path / "series", "0_0.dcm, 0_1.dcm", "and 2 more", "each time its own folder")
    for path in (tmp_path / "series").glob("[123]_*"):
        path.unlink()
    refused(tmp_path / "series", "0_0.dcm, 0_1.dcm")


def test_two_series_in_a_folder_are_told_apart_by_one_of_their_files(write_slice, tmp_path):
    other = generate_uid()
    for number in range(3):
        write_slice(number)
        write_slice(number, np.full((3, 4), number, np.int16), name=f"other{number}.dcm", SeriesInstanceUID=other)
    refused(
        tmp_path / "series", "2 series in one folder", "of 3, 3 files", "other0.dcm, slice0.dcm", status="unsupported"
    )
    volume = read_series(tmp_path / "series" / "other1.dcm")
    np.testing.assert_array_equal(volume.voxels[0], np.broadcast_to(np.arange(3)[:, None, None], (3, 3, 4)))
    assert read_series(tmp_path / "series" / "slice2.dcm").voxels.max() == 211


def test_other_files_are_counted(write_slice, write_dicom, tmp_path):
    for number in range(3):
        write_slice(number)
    expected = read_series(tmp_path / "series")
    (tmp_path / "series" / "README.txt").write_text("about")
    (tmp_path / "series" / ".hidden").write_text("x")
    np.testing.assert_array_equal(read_series(tmp_path / "series").voxels, expected.voxels)
    assert "other files in the folder skipped: 1" in read_series(tmp_path / "series").steps


def test_rescaling_is_each_slices_own(write_slice, tmp_path):
    pixels = np.arange(12, dtype=np.int16).reshape(3, 4)
    for number in range(3):
        write_slice(number, pixels, RescaleSlope=number + 1, RescaleIntercept=-1024)
    volume = read_series(tmp_path / "series")
    expected = [pixels[::-1, ::-1] * (number + 1.0) - 1024 for number in range(3)]
    np.testing.assert_allclose(volume.voxels[0], expected)
    assert volume.voxels.dtype == np.float32
    assert "each slice by its own rescale slope and intercept" in volume.steps
    assert (volume.low, volume.high) == (-1024, 33 - 1024)


def test_one_rescaling_is_said_once(write_slice, tmp_path):
    for number in range(3):
        write_slice(number, RescaleSlope=2, RescaleIntercept=-1024)
    assert read_series(tmp_path / "series").steps[0] == "modality LUT: slope 2, intercept -1024"


def test_slices_that_do_not_belong_together(write_slice, tmp_path):
    for number in range(4):
        write_slice(number)
    turned = write_slice(4, ImageOrientationPatient=SAGITTAL)
    refused(tmp_path / "series", "different orientations", "slice0.dcm, slice4.dcm", status="unsupported")
    turned.unlink()
    larger = write_slice(4, np.zeros((5, 4), np.int16))
    refused(tmp_path / "series", "different numbers of rows and columns", "slice4.dcm")
    larger.unlink()
    write_slice(4, PixelSpacing=[0.5, 0.8])
    refused(tmp_path / "series", "different pixel spacings", "slice4.dcm")


def test_uneven_slices(write_slice, tmp_path):
    for number in range(5):
        write_slice(number, position=[-5, 7, 2 * number + 0.13 * (number > 2)])
    refused(tmp_path / "series", "slice2.dcm, slice3.dcm: uneven slices", "2.13 mm apart")


def test_slight_rounding_is_no_gap(write_slice, tmp_path):
    for number in range(5):
        write_slice(number, position=[-5, 7, 2 * number + 0.004 * (-1) ** number])
    assert read_series(tmp_path / "series").voxels.shape == (1, 5, 3, 4)


def test_a_slice_moved_sideways(write_slice, tmp_path):
    for number in range(6):
        write_slice(number, position=[-5 + (number == 3), 7, 2 * number])
    refused(tmp_path / "series", "slice2.dcm, slice3.dcm: uneven slices")


def test_a_tilted_gantry(write_slice, tmp_path):
    for number in range(5):
        write_slice(number, position=[-5, 7 + 0.5 * number, 2 * number])
    refused(tmp_path / "series", "sheared", "14.0 degrees", status="unsupported")


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({"PixelSpacing": [0, 0.5]}, "slice1.dcm: PixelSpacing is zero"),
        ({"PixelSpacing": None}, "slice1.dcm: no PixelSpacing"),
        ({"ImagePositionPatient": None}, "slice1.dcm: no ImagePositionPatient"),
        ({"ImageOrientationPatient": [1, 0, 0]}, "slice1.dcm: no ImageOrientationPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not at right angles"),
    ],
)
def test_headers_without_a_place(write_slice, tmp_path, elements, words):
    for number in range(3):
        write_slice(number, **(elements if number == 1 else {}))
    refused(tmp_path / "series", words)


def test_a_single_slice_needs_a_thickness(write_slice, tmp_path):
    path = write_slice(0)
    assert read_series(path).spacing == (2, 0.5, 0.75)
    write_slice(0, SliceThickness=0)
    refused(tmp_path / "series", "a single slice whose header has no thickness")


def test_pixels_that_make_no_volume(write_slice, tmp_path):
    for number in range(2):
        write_slice(number, np.zeros((3, 4, 3), np.uint8), photometric="RGB")
    refused(tmp_path / "series", "RGB pixels; expected gray", status="unsupported")


def test_a_damaged_slice_is_named(copied):
    path = copied / "N2D_0190.dcm"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ReadError, match=r"N2D_0190\.dcm: damaged DICOM"):
        read_series(copied)
    path.write_bytes(content[:200])
    with pytest.raises(ReadError, match=r"N2D_0190\.dcm: ") as caught:
        read_series(copied)
    assert caught.value.status == "corrupt"


def test_folders_and_files_without_a_series(shared_data, tmp_path):
    refused(tmp_path, "a folder without DICOM images", status="no_pixels")
    refused(shared_data / "dicom" / "pydicom" / "rtplan.dcm", "DICOM without an image", status="no_pixels")
    refused(shared_data / "dicom" / "same_image_nine_syntaxes", "same position", "1.dcm, 2.dcm")
    with pytest.raises(ReadError, match="got frame 3; a DICOM series is one volume"):
        read_series(tmp_path, 3)


def test_a_series_that_is_too_large(series_t1):
    with pytest.raises(ReadError, match="10 x 384 x 274 voxels") as caught:
        read_series(series_t1, max_voxels=1_000_000)
    assert caught.value.status == "too_large"


def items(**elements):
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return Sequence([dataset])


@pytest.fixture
def enhanced(shared_data, tmp_path):
    def write(name="emri_small.dcm", positions=(3, 1, 4, 0, 5, 9, 2, 6, 8, 7), slopes=None):
        """Give the ten frames of a real enhanced MR file, whose groups were taken out, their positions."""
        dataset = dcmread(shared_data / "dicom" / "pydicom_data" / name)
        assert dataset.SOPClassUID == EnhancedMRImageStorage
        dataset.SharedFunctionalGroupsSequence = items(
            PlaneOrientationSequence=items(ImageOrientationPatient=AXIAL),
            PixelMeasuresSequence=items(PixelSpacing=[0.9, 0.8], SliceThickness=5, SpacingBetweenSlices=1.2),
        )
        groups = []
        for number, position in enumerate(positions):
            group = items(PlanePositionSequence=items(ImagePositionPatient=[-30, -20, 1.2 * position]))[0]
            if slopes is not None:
                group.PixelValueTransformationSequence = items(RescaleSlope=slopes[number], RescaleIntercept=0)
            groups.append(group)
        dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
        path = tmp_path / name
        dataset.save_as(path)
        return path

    return write


@pytest.mark.parametrize("name", ["emri_small.dcm", "emri_small_big_endian.dcm", "emri_small_jpeg_ls_lossless.dcm"])
def test_frames_of_an_enhanced_file_are_sorted_by_position(enhanced, shared_data, name):
    positions = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    frames = dcmread(shared_data / "dicom" / "pydicom_data" / "emri_small.dcm").pixel_array
    volume = read_series(enhanced(name, positions))
    np.testing.assert_array_equal(volume.voxels[0], frames[np.argsort(positions)][:, ::-1, ::-1])
    np.testing.assert_allclose(volume.spacing, (1.2, 0.9, 0.8))
    np.testing.assert_allclose(volume.affine @ [0, 63, 63, 1], [30, 20, 0, 1])


def test_frames_have_their_own_rescaling(enhanced, shared_data):
    frames = dcmread(shared_data / "dicom" / "pydicom_data" / "emri_small.dcm").pixel_array
    volume = read_series(enhanced(positions=range(10), slopes=range(1, 11)))
    np.testing.assert_allclose(volume.voxels[0], (frames * np.arange(1, 11)[:, None, None])[:, ::-1, ::-1])


def test_frames_that_make_no_volume(enhanced, shared_data):
    refused(enhanced(positions=[0, 1, 2, 3, 4, 5, 6, 7, 8, 8]), "frame 9, frame 10: slices at the same position")
    refused(enhanced(positions=[0, 1, 2, 3, 5, 6, 7, 8, 9, 10]), "frame 4, frame 5: 1 slice missing in between")
    refused(enhanced(positions=range(9)), "10 frames, but positions of only 9")
    refused(shared_data / "dicom" / "pydicom_data" / "emri_small.dcm", "10 frames, but positions of only 0")


def test_a_multi_frame_file_stands_for_itself(enhanced, tmp_path):
    path = enhanced()
    shutil.copy(path, tmp_path / "second.dcm")
    assert read_series(path).voxels.shape == (1, 10, 64, 64)
    refused(tmp_path, "2 files", "name one of the files")


def test_a_real_parametric_map_has_its_place_in_its_groups(shared_data):
    path = shared_data / "dicom" / "pydicom_data" / "parametric_map_float.dcm"
    volume = read_series(path)
    np.testing.assert_array_equal(volume.voxels[0, 0], dcmread(path).pixel_array[::-1, ::-1])
    np.testing.assert_allclose(volume.spacing, (5, 0.661468, 0.661468))
