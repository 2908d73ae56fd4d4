import contextlib
import gzip
from itertools import permutations, product

import nibabel
import numpy as np
import pytest

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.nifti import read_affine, read_nifti
from softfree_runtime.readers.nifti_file import is_nifti_file
from softfree_runtime.sources.volume_files import volumes_in

STRAIGHT = np.eye(3)
OBLIQUE = nibabel.eulerangles.euler2mat(z=0.3, y=-0.2, x=0.15)


def affine_of(axes=STRAIGHT, spacing=(1.0, 1.0, 1.0), origin=(-10.0, 5.0, 30.0)):
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = origin
    return affine


@pytest.fixture
def write(tmp_path):
    def write(voxels, affine=None, name="volume.nii", version=nibabel.Nifti1Image, **elements):
        image = version(voxels, affine_of(spacing=(2.0, 3.0, 4.0)) if affine is None else affine)
        content = image.to_bytes()
        size = len(image.header.binaryblock)
        header = type(image.header)(content[:size], check=False)
        for key, value in elements.items():
            header[key] = value
        content = header.binaryblock + content[size:]
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return path

    return write


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(-500, 500, (5, 6, 7), dtype=np.int16)


def refused(path, *words, status=None, **arguments):
    with pytest.raises(ReadError) as caught:
        read_nifti(path, **arguments)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for word in words:
        assert word in message
    assert status is None or caught.value.status == status


def test_every_hippocampus_is_its_canonical_array_with_the_axes_turned_round(shared_data):
    files = sorted((shared_data / "nifti" / "hippocampus").glob("*.nii.gz"))
    assert len(files) == 48
    for path in files:
        volume = read_nifti(path)
        expected = nibabel.as_closest_canonical(nibabel.load(path))
        np.testing.assert_array_equal(volume.voxels[0], np.asarray(expected.dataobj).transpose(2, 1, 0))
        np.testing.assert_allclose(volume.affine[:, [2, 1, 0, 3]], expected.affine)
        assert volume.spacing == (1, 1, 1)
        assert volume.low <= volume.voxels.min() <= volume.voxels.max() <= volume.high


def test_a_big_endian_file_is_read_in_native_order(shared_data):
    path = shared_data / "nifti" / "other" / "anatomical.nii"
    assert nibabel.load(path).get_data_dtype().byteorder == ">"
    volume = read_nifti(path)
    expected = np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj).transpose(2, 1, 0)
    np.testing.assert_array_equal(volume.voxels[0], expected)
    assert volume.voxels.dtype == np.int16
    assert volume.voxels.dtype.isnative
    assert volume.spacing == (2, 2, 2)
    assert volume.stored == "NIfTI-1 int16"


@pytest.mark.parametrize("name", ["functional.nii", "example4d.nii.gz", "EPI_PE=AP_3.nii"])
def test_a_frame_of_a_4d_file_is_chosen_and_scaled(shared_data, name):
    path = shared_data / "nifti" / "other" / name
    image = nibabel.as_closest_canonical(nibabel.load(path))
    count = image.shape[3]
    refused(path, f"{count} frames", "column frame", status="unsupported")
    refused(path, f"frames 0 to {count - 1}", frame=count)
    for frame in (0, count - 1):
        volume = read_nifti(path, frame)
        np.testing.assert_allclose(volume.voxels[0], image.get_fdata()[..., frame].transpose(2, 1, 0), rtol=1e-6)
        assert f"frame {frame + 1} of {count}" in volume.steps
        np.testing.assert_allclose(volume.spacing, image.header.get_zooms()[2::-1], rtol=1e-5)


def test_one_anatomy_stored_in_any_order_of_axes_gives_one_volume(write, voxels):
    first = read_nifti(write(voxels, affine_of(OBLIQUE, (1.0, 2.0, 3.0))))
    image = nibabel.Nifti1Image(voxels, affine_of(OBLIQUE, (1.0, 2.0, 3.0)))
    count = 0
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        turned = image.as_reoriented(np.column_stack([order, signs]))
        volume = read_nifti(write(np.asarray(turned.dataobj), turned.affine))
        np.testing.assert_array_equal(volume.voxels, first.voxels)
        np.testing.assert_allclose(volume.affine, first.affine, atol=1e-4)
        assert any("oblique by" in step for step in volume.steps)
        count += 1
    assert count == 48
    np.testing.assert_allclose(first.spacing, (3, 2, 1), rtol=1e-6)


def test_slices_run_to_the_head_rows_to_the_front_columns_to_the_right(write):
    volume = read_nifti(write(np.zeros((5, 6, 7), np.int16), np.diag([-2.0, -3.0, 4.0, 1.0])))
    assert volume.voxels.shape == (1, 7, 6, 5)
    np.testing.assert_array_equal(volume.affine[:3, :3], [[0, 0, 2], [0, 3, 0], [4, 0, 0]])
    assert volume.steps == ("axes LPS turned to SAR",)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("version", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_both_versions_plain_and_compressed(write, voxels, name, version):
    volume = read_nifti(write(voxels, name=name, version=version))
    np.testing.assert_array_equal(volume.voxels[0], voxels.transpose(2, 1, 0))
    assert volume.spacing == (4, 3, 2)
    assert volume.stored == f"NIfTI-{1 if version is nibabel.Nifti1Image else 2} int16"


def test_slope_and_intercept_are_applied(write, voxels):
    volume = read_nifti(write(voxels, scl_slope=0.5, scl_inter=-3))
    np.testing.assert_allclose(volume.voxels[0], voxels.transpose(2, 1, 0) * 0.5 - 3)
    assert volume.voxels.dtype == np.float32
    assert "scaled: slope 0.5, intercept -3" in volume.steps


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.uint16, np.int32])
def test_numbers_of_every_kind(write, dtype):
    volume = read_nifti(write(np.arange(24, dtype=dtype).reshape(2, 3, 4)))
    assert volume.voxels.dtype == (np.float32 if dtype is np.float64 else dtype)
    assert volume.to_float32().dtype == np.float32
    assert (volume.low, volume.high) == ((0, 255) if dtype is np.uint8 else (0, 23))


def test_micrometers_become_millimeters(write, voxels):
    volume = read_nifti(write(voxels, xyzt_units=3))
    np.testing.assert_allclose(volume.spacing, (0.004, 0.003, 0.002))
    assert "microns converted to millimeters" in volume.steps


def test_a_file_without_orientation_says_so(write, voxels):
    volume = read_nifti(write(voxels, sform_code=0, qform_code=0))
    assert any("no orientation in the file" in step for step in volume.steps)
    np.testing.assert_array_equal(volume.voxels[0], voxels[::-1].transpose(2, 1, 0))
    assert volume.spacing == (4, 3, 2)


def test_sizes_that_the_sform_contradicts_are_named(write, voxels):
    volume = read_nifti(write(voxels, pixdim=[1, 9, 9, 9, 1, 1, 1, 1]))
    assert volume.spacing == (4, 3, 2)
    assert "voxel sizes from the sform, which differ from pixdim" in volume.steps


def test_trailing_axes_of_one_are_no_frames(write, voxels):
    volume = read_nifti(write(voxels[..., None, None]))
    np.testing.assert_array_equal(volume.voxels[0], voxels.transpose(2, 1, 0))


def test_axes_that_cannot_be_used(write, voxels):
    refused(write(voxels, srow_x=[np.nan, 0, 0, 0]), "affine", "not finite", status="not_finite")
    refused(write(voxels, srow_x=[0, 0, 0, 0]), "0 x 3 x 4 mm", "above zero", status="corrupt")
    for codes in ({"sform_code": 0, "qform_code": 1}, {"sform_code": 0, "qform_code": 0}):
        refused(write(voxels, pixdim=[1, 0, 3, 4, 1, 1, 1, 1], **codes), "0 x 3 x 4 mm", status="corrupt")
        refused(write(voxels, pixdim=[1, np.nan, 3, 4, 1, 1, 1, 1], **codes), "nan x 3 x 4 mm", status="corrupt")
    refused(write(voxels, sform_code=0, qform_code=1, quatern_b=np.nan))
    sheared = affine_of()
    sheared[0, 1] = 0.1
    refused(write(voxels, sheared), "sheared", "84.3 degrees", status="unsupported")


def test_values_that_cannot_be_used(write):
    holes = np.zeros((3, 4, 5), np.float32)
    holes[1, 1, 1] = np.nan
    refused(write(holes), "not finite", status="not_finite")
    refused(write(np.full((3, 4, 5), 1e300)), "not finite", status="not_finite")
    refused(write(np.zeros((3, 4, 5), np.complex64)), "complex64", status="unsupported")
    color = np.zeros((3, 4, 5), np.dtype([(channel, np.uint8) for channel in "RGB"]))
    refused(write(color), "color (RGB)", status="unsupported")
    refused(write(np.zeros((3, 4, 5, 1, 3), np.float32)), "3 x 4 x 5 x 1 x 3", status="unsupported")
    refused(write(np.zeros((3, 4), np.float32)), "3 x 4 values", status="unsupported")
    refused(write(np.zeros((30, 40, 50), np.uint8)), "30 x 40 x 50", status="too_large", max_voxels=59_999)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("shape", [(20, 20, 20), (20, 20, 20, 3)])
@pytest.mark.parametrize("part", [0.01, 0.3, 0.6, 0.98])
def test_a_file_that_is_cut_short(write, name, shape, part):
    path = write(np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8), name=name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    refused(path, "damaged NIfTI", frame=shape[3] - 1 if len(shape) > 3 else None, status="corrupt")


def test_a_real_file_that_is_cut_short(shared_data, tmp_path):
    path = tmp_path / "cut.nii.gz"
    content = (shared_data / "nifti" / "hippocampus" / "hippocampus_014.nii.gz").read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(path, "damaged NIfTI", "end-of-stream", status="corrupt")


def test_what_is_no_nifti(tmp_path):
    for name in ("text.nii", "text.nii.gz"):
        path = tmp_path / name
        path.write_text("patient,label\n" * 100)
        refused(path, status="corrupt")


def test_no_flipped_bit_of_a_compressed_file_gives_other_voxels(write, voxels):
    path = write(voxels, name="a.nii.gz")
    whole, right = path.read_bytes(), read_nifti(path).voxels
    read = 0
    for bit in range(0, 8 * len(whole), 29):
        packed = bytearray(whole)
        packed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(packed)
        with contextlib.suppress(ReadError):
            np.testing.assert_array_equal(read_nifti(path).voxels, right)
            read += 1
    assert read < 5  # bits of gzip's header that mean nothing here


def test_the_affine_is_that_of_the_stored_voxels(write, voxels):
    affine = affine_of(OBLIQUE, (1.0, 2.0, 3.0))
    np.testing.assert_allclose(read_affine(write(voxels, affine)), affine, rtol=1e-6)
    np.testing.assert_allclose(read_affine(write(voxels, affine, name="a.nii.gz")), affine, rtol=1e-6)


def test_the_content_says_whether_it_is_nifti(write, tmp_path):
    for name in ("scan", "scan.gz", "scan.bin"):
        assert is_nifti_file(write(np.zeros((2, 3, 4), np.int16), name=name))
    (tmp_path / "text").write_text("no volume" * 100)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"no volume" * 100)[:20])
    assert not any(is_nifti_file(tmp_path / name) for name in ("text", "cut.gz", "missing"))


def test_a_folder_lists_a_pair_once_and_no_half(tmp_path, voxels):
    nibabel.save(nibabel.Nifti1Pair(voxels, np.eye(4)), tmp_path / "pair.img")
    for name in ("alone.hdr", "image.img"):
        (tmp_path / name).write_text("something else")
    assert volumes_in(tmp_path) == [str(tmp_path / "pair.hdr")]
    np.testing.assert_array_equal(read_nifti(tmp_path / "pair.hdr").voxels, read_nifti(tmp_path / "pair.img").voxels)
