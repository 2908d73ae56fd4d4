"""TIFFs that OpenSlide does not read, or only in part."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from softfree.data.slide_readers.openslide import OpenSlidePyramid
from softfree.data.slide_readers.slide import open_slide
from softfree.data.slide_readers.tiff import TiffPyramid
from softfree_runtime.core.errors import ReadError

CENTIMETER = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (150, 230, 3), dtype=np.uint8)


def test_ome_tiff_with_its_pyramid_and_resolution(tmp_path: Path, noise: np.ndarray) -> None:
    path = tmp_path / "a.ome.tiff"
    with tifffile.TiffWriter(path, ome=True) as file:
        metadata = {"axes": "YXS", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25}
        file.write(noise, subifds=1, tile=(64, 64), photometric="rgb", metadata=metadata)
        file.write(np.full((75, 115, 3), 7, np.uint8), subfiletype=1, tile=(64, 64), photometric="rgb")
    slide = open_slide(path)
    assert slide.mpp == (0.25, 0.25)
    np.testing.assert_array_equal(slide.read(0, 0, 230, 150, 0.25), noise)
    assert (slide.read(0.001, 0.001, 20, 20, 0.5) == 7).all()  # the second level, which OpenSlide does not find


MICRO, MU = "\u00b5", "\u03bc"  # the micro sign and the Greek letter, which look alike


@pytest.mark.parametrize(
    ("unit", "size", "mpp"),
    [
        *((unit, 0.25, 0.25) for unit in (f"{MICRO}m", f"{MU}m", "um", "micron", "microns")),
        *((unit, 0.25, 0.25) for unit in ("micrometer", "micrometre", "Micrometers", "MICROMETRES", " micrometre ")),
        *((unit, 250.0, 0.25) for unit in ("nm", "nanometer", "nanometres")),
        *((unit, 0.00025, 0.25) for unit in ("mm", "millimeter", "Millimetre")),
        ("centimetre", 0.000025, 0.25),
        ("metre", 2.5e-7, 0.25),
        ("angstrom", 2500.0, 0.25),
        ("inch", 0.25 / 25_400, 0.25),
        *((unit, 0.25, None) for unit in ("pixel", "reference frame", "furlong", "Mm", "")),
    ],
)
def test_units_of_ome_xml(tmp_path: Path, noise: np.ndarray, unit: str, size: float, mpp: float | None) -> None:
    sizes = {f"PhysicalSize{axis}": size for axis in "XY"} | {f"PhysicalSize{axis}Unit": unit for axis in "XY"}
    with tifffile.TiffWriter(tmp_path / "a.ome.tiff", ome=True) as file:
        file.write(noise, tile=(64, 64), photometric="rgb", metadata={"axes": "YXS", **sizes})
    result = TiffPyramid(tmp_path / "a.ome.tiff").mpp
    assert result == (None if mpp is None else pytest.approx((mpp, mpp)))


@pytest.mark.parametrize("compression", [None, "zstd", "lzma"])
def test_strips_and_other_codecs(tmp_path: Path, noise: np.ndarray, compression: str | None) -> None:
    path = tmp_path / "strips.tiff"
    tifffile.imwrite(path, noise, photometric="rgb", rowsperstrip=16, compression=compression, **CENTIMETER)
    slide = open_slide(path)
    assert slide.mpp == pytest.approx((0.5, 0.5))
    np.testing.assert_array_equal(slide.read(0.0115, 0.017, 90, 80, 0.5), noise[34:114, 23:113])


def test_transparent_pixels_are_white(tmp_path: Path, noise: np.ndarray) -> None:
    opaque = np.full((150, 230, 1), 255, np.uint8)
    opaque[:, 100:] = 0
    opaque[0, 0] = 51
    pixels = np.concatenate([noise, opaque], axis=2)
    tifffile.imwrite(
        tmp_path / "a.tiff", pixels, photometric="rgb", extrasamples=["unassalpha"], rowsperstrip=50, **CENTIMETER
    )
    got = open_slide(tmp_path / "a.tiff").read(0, 0, 230, 150, 0.5)
    np.testing.assert_array_equal(got[1:, :100], noise[1:, :100])
    assert (got[:, 100:] == 255).all()
    np.testing.assert_allclose(got[0, 0], 0.2 * noise[0, 0] + 0.8 * 255, atol=0.51)


def test_gray_has_three_equal_channels(tmp_path: Path, noise: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "gray.tiff", noise[..., 0], photometric="minisblack", **CENTIMETER)
    got = open_slide(tmp_path / "gray.tiff").read(0, 0, 230, 150, 0.5)
    np.testing.assert_array_equal(got, noise[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_other_values_are_refused(tmp_path: Path, noise: np.ndarray, kind: type) -> None:
    tifffile.imwrite(tmp_path / "deep.tiff", noise.astype(kind), photometric="rgb", **CENTIMETER)
    with pytest.raises(ReadError, match="expected a slide of 8 bits") as caught:
        open_slide(tmp_path / "deep.tiff")
    assert caught.value.status == "unsupported"


def test_the_real_pyramid_is_read_as_openslide_reads_it(shared_data: Path) -> None:
    path = shared_data / "wsi" / "CMU-1-Small-Region_pyramid.tiff"
    own, openslide = open_slide(path)._pyramid, OpenSlidePyramid(path)
    assert isinstance(own, TiffPyramid)  # since it finds damaged tiles
    assert own.sizes == openslide.sizes
    for level in (0, 2):
        region = level, 30, 70, 200, 150
        one, (two, shift) = own.region(*region)[0], openslide.region(*region)
        assert max(map(abs, shift)) < 0.2
        assert np.abs(one.astype(int) - two).mean() < 2 if level else np.array_equal(one, two)


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "CMU-1-Small-Region_pyramid.tiff"])
def test_a_jpeg_tile_that_is_damaged_within(shared_data: Path, tmp_path: Path, name: str) -> None:
    content = bytearray((shared_data / "wsi" / name).read_bytes())
    with tifffile.TiffFile(shared_data / "wsi" / name) as file:
        page = file.pages[0]
        start, length = page.dataoffsets[40], page.databytecounts[40]
    middle = start + length // 3
    content[middle : middle + 200] = np.random.default_rng(4).bytes(200)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ReadError, match="damaged pixels") as caught:
        open_slide(tmp_path / name).thumbnail(0.5)
    assert caught.value.status == "corrupt"


def test_tiles_that_an_svs_leaves_out_are_those_of_openslide(shared_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "sparse.svs"
    content = bytearray((shared_data / "wsi" / "CMU-1-Small-Region.svs").read_bytes())
    with tifffile.TiffFile(shared_data / "wsi" / "CMU-1-Small-Region.svs") as file:
        tag = file.pages[0].tags[325]
    content[tag.valueoffset + 4 * 40 : tag.valueoffset + 4 * 41] = bytes(4)
    path.write_bytes(content)
    assert isinstance(open_slide(path)._pyramid, OpenSlidePyramid)
