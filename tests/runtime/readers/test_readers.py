import gzip
import os
import random
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from PIL import Image

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers import DecodedImage, read_image

STATUSES = {"image", "corrupt", "unsupported", "no_pixels", "too_large", "not_finite"}
# Headers of both kinds, then voxels that do not compress.
NIFTI = [
    struct.pack("<i340x4s", 348, b"n+1") + random.Random(0).randbytes(900),
    struct.pack(">i340x4s", 348, b"ni1") + random.Random(0).randbytes(900),
    struct.pack("<i8s", 540, b"n+2") + random.Random(0).randbytes(1200),
]
PIXELS = np.arange(20, dtype=np.uint8).reshape(4, 5)


def status(path, **options):
    with pytest.raises(ReadError) as error:
        read_image(path, **options)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return error.value.status


@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp", "gif", "webp", "tiff"])
def test_the_reader_is_chosen_by_content(tmp_path, kind):
    path = tmp_path / "misleading.dcm"
    Image.fromarray(PIXELS).save(path, format=kind)
    assert read_image(path).pixels.shape[:2] == (4, 5)


def test_dicom_under_any_name(write_dicom, tmp_path):
    for name in ("a.png", "IM0001", "b.tif"):
        assert read_image(str(write_dicom(PIXELS, name=name))).stored == "8-bit MONOCHROME2"


def test_real_dicom_without_preamble_or_extension(shared_data):
    folder = shared_data / "dicom"
    assert read_image(folder / "pydicom" / "no_extension" / "77654033_CR1_6154").stored == "12-bit MONOCHROME1"
    assert read_image(folder / "pydicom_data" / "JLSL_RGB_ILV0.dcm").stored == "8-bit RGB"
    assert status(folder / "pydicom" / "rtstruct.dcm") == "no_pixels"
    assert status(folder / "pydicom" / "no_meta.dcm") == "no_pixels"


def test_files_that_are_not_there(tmp_path):
    empty = tmp_path / "empty.png"
    empty.touch()
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "nowhere.png")
    assert status(tmp_path / "none.png") == "missing"
    assert status(link) == "missing"
    assert status(empty) == "empty"
    assert status(tmp_path) == "folder"


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    assert status(tmp_path / "pipe.png") == "missing"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (gzip.compress(b"x" * 99, mtime=0), "gzip"),
        (b"PK\x03\x04" + bytes(90), "zip"),
        (b"%PDF-1.7" + bytes(90), "PDF"),
        (b"\x93NUMPY" + bytes(90), "NumPy"),
        (bytes(344) + b"n+1\0" + bytes(90), "NIfTI"),
        *((gzip.compress(nifti, level, mtime=0), "NIfTI") for nifti in NIFTI for level in (0, 1, 6, 9)),
        (b"path,label\n", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ],
)
def test_other_files_are_named(tmp_path, content, why):
    path = tmp_path / "file.bin"
    path.write_bytes(content)
    assert status(path) == "unsupported"
    with pytest.raises(ReadError, match=why):
        read_image(path)


def test_volumes_and_slides_are_refused_clearly(shared_data):
    for name in ("anatomical.nii", "example4d.nii.gz"):
        with pytest.raises(ReadError, match="NIfTI"):
            read_image(shared_data / "nifti" / "other" / name)
    assert status(shared_data / "wsi" / "cptac-brca_15BR001_level.dcm") == "unsupported"


def test_odd_real_files(shared_data):
    folder = shared_data / "misc2d"
    assert status(folder / "truncated.jpg") == "corrupt"
    assert status(folder / "retina.jpg", max_pixels=1411 * 1411 - 1) == "too_large"
    assert read_image(folder / "retina.jpg").pixels.shape == (1411, 1411, 3)
    little, big = (read_image(folder / f"chessboard_GRAY_U16{end}.tif") for end in ("", "B"))
    np.testing.assert_array_equal(little.pixels, big.pixels)
    assert read_image(folder / "multipage.tif", frame=1).steps == ("frame 2 of 2",)
    assert read_image(folder / "palette_gray.png").stored == "8-bit palette (gray)"
    assert read_image(folder / "foo3x5x4indexed.png").steps == ("palette to RGB", "alpha dropped")
    assert status(folder / "multipage_rgb.tif", frame=9) == "unsupported"


def test_gray_radiographs_stored_as_rgb_are_noted(shared_data):
    images = [read_image(path) for path in sorted((shared_data / "chest_xray" / "images").rglob("*.jp*g"))[-40:]]
    kinds = {image.stored for image in images}
    assert kinds <= {"8-bit gray", "8-bit RGB (gray)"}
    assert all(image.pixels.shape[-1] == (3 if "RGB" in image.stored else 1) for image in images)


def test_memory_that_does_not_suffice(tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS)

    def fail(*args, **options):
        raise MemoryError

    monkeypatch.setattr(tifffile.TiffPage, "asarray", fail)
    assert status(path) == "too_large"


def test_threads_read_without_a_word(shared_data, capfd):
    folder = shared_data / "dicom"
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size < 50_000)

    def attempt(path):
        try:
            return read_image(path)
        except ReadError as error:
            return error

    before = list(warnings.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(attempt, paths))
    assert sum(isinstance(result, DecodedImage) for result in results) > 40
    assert warnings.filters == before
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("seed", range(3))
def test_damage_of_any_kind_is_a_read_error(shared_data, tmp_path, seed):
    rng = random.Random(seed)
    folders = ("dicom", "misc2d")
    files = sorted(p for name in folders for p in (shared_data / name).rglob("*") if p.stat().st_size < 40_000)
    files = [path for path in files if path.is_file() and path.suffix not in (".csv", ".md")]
    results = []
    for number in range(120):
        content = bytearray(rng.choice(files).read_bytes())
        for _ in range(rng.choice((1, 5, 30))):
            content[rng.randrange(min(len(content), rng.choice((400, 40_000))))] = rng.randrange(256)
        if rng.random() < 0.2:
            del content[rng.randrange(1, len(content)) :]
        path = tmp_path / f"{number}"
        path.write_bytes(content)
        try:
            results.append("image" if read_image(path, max_pixels=1 << 22).unit().max() <= 1 else "not in range")
        except ReadError as error:
            results.append(error.status)
    assert {"image", "corrupt"} <= set(results) <= STATUSES
