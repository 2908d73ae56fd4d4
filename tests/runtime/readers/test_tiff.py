import subprocess
import sys

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.tiff import read_tiff

# What brings an image upright (TIFF 6.0, tag 274).
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@pytest.fixture
def ramp():
    return np.arange(40 * 30, dtype=np.uint16).reshape(40, 30) + 100


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"compression": "lzw", "rowsperstrip": 7},
        {"compression": "zlib", "tile": (16, 16), "predictor": True},
        {"bigtiff": True},
    ],
)
def test_sixteen_bit_gray_in_every_layout(tmp_path, ramp, options):
    tifffile.imwrite(tmp_path / "a.tif", ramp, **options)
    image = read_tiff(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.pixels[..., 0], ramp)
    assert image.pixels.dtype == np.uint16
    assert image.pixels.dtype.isnative
    assert (image.low, image.high, image.stored) == (100, 1299, "16-bit gray")
    assert image.steps == ("range 100 to 1299, the image's own",)


@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_rgb_keeps_its_full_range(tmp_path, ramp, planes):
    rgb = np.stack([ramp, ramp + 1, ramp + 2], axis=0 if planes == "separate" else -1)
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb", planarconfig=planes)
    image = read_tiff(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.pixels, np.stack([ramp, ramp + 1, ramp + 2], axis=-1))
    assert (image.low, image.high) == (0, 65535)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int16, np.uint32])
def test_other_numbers_get_their_own_range(tmp_path, kind):
    values = np.array([[-3, 0], [1, 5]]) if np.dtype(kind).kind != "u" else np.array([[2, 3], [4, 10]])
    tifffile.imwrite(tmp_path / "a.tif", values.astype(kind))
    image = read_tiff(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.pixels[..., 0], values)
    assert (image.low, image.high) == (values.min(), values.max())


def test_one_bit_and_its_inverse(tmp_path):
    bits = np.eye(12, dtype=bool)
    tifffile.imwrite(tmp_path / "a.tif", bits, photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", bits, photometric="miniswhite")
    np.testing.assert_array_equal(read_tiff(tmp_path / "a.tif").unit()[..., 0], bits)
    inverse = read_tiff(tmp_path / "b.tif")
    np.testing.assert_array_equal(inverse.unit()[..., 0], ~bits)
    assert inverse.steps == ("MINISWHITE inverted",)


def test_wide_integers_keep_their_digits_when_inverted(tmp_path):
    values = 4_000_000_000 + np.arange(5, dtype=np.uint32)[None]
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    np.testing.assert_array_equal(read_tiff(tmp_path / "a.tif").unit()[0, :, 0], [1, 0.75, 0.5, 0.25, 0])


def test_palette(tmp_path):
    colors = np.random.default_rng(0).integers(0, 65536, (3, 256), dtype=np.uint16)
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)
    tifffile.imwrite(tmp_path / "a.tif", index, photometric="palette", colormap=colors)
    image = read_tiff(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.pixels.reshape(256, 3), colors.T)
    assert (image.steps, image.high) == (("palette to RGB",), 65535)


def test_alpha_is_dropped(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (8, 9, 4), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    image = read_tiff(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.pixels, rgba[..., :3])
    assert image.steps == ("alpha dropped",)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_color_models_become_rgb(tmp_path, mode):
    image = Image.new("RGB", (9, 8), (200, 100, 50)).convert(mode)
    image.save(tmp_path / "a.tif")
    image = read_tiff(tmp_path / "a.tif")
    np.testing.assert_allclose(image.pixels[3, 3], [200, 100, 50], atol=2)
    assert image.steps == (f"{mode} to RGB",)


def test_ycbcr_that_jpeg_brings_is_converted_once(tmp_path):
    ycbcr = np.array(Image.new("RGB", (32, 32), (200, 100, 50)).convert("YCbCr"))
    tifffile.imwrite(tmp_path / "a.tif", ycbcr, photometric="ycbcr", compression="jpeg")
    np.testing.assert_allclose(read_tiff(tmp_path / "a.tif").pixels[9, 9], [200, 100, 50], atol=3)


def test_pages(tmp_path, ramp):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([ramp, ramp + 7, ramp + 9]), photometric="minisblack")
    assert read_tiff(tmp_path / "a.tif").steps[0] == "frame 1 of 3"
    np.testing.assert_array_equal(read_tiff(tmp_path / "a.tif", 2).pixels[..., 0], ramp + 9)
    with pytest.raises(ReadError, match="frames 0 to 2"):
        read_tiff(tmp_path / "a.tif", 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_and_spacing(tmp_path, orientation):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        values,
        resolution=(100, 50),  # columns and rows a centimeter
        resolutionunit="centimeter",
        extratags=[(274, "H", 1, orientation, True)],
    )
    image = read_tiff(path)
    expected = Image.fromarray(values)
    if orientation > 1:
        expected = expected.transpose(TURNS[orientation])
    np.testing.assert_array_equal(image.pixels[..., 0], np.array(expected))
    assert image.spacing == pytest.approx((0.1, 0.2) if orientation > 4 else (0.2, 0.1))


def test_inches_are_about_printing(tmp_path, ramp):
    tifffile.imwrite(tmp_path / "a.tif", ramp, resolution=(72, 72), resolutionunit="inch")
    assert read_tiff(tmp_path / "a.tif").spacing is None


@pytest.mark.parametrize(
    ("values", "options", "why"),
    [
        (np.zeros((8, 9, 7), np.uint8), {"photometric": "minisblack", "planarconfig": "contig"}, "7 channels"),
        (np.zeros((8, 9, 4), np.uint8), {"photometric": "minisblack", "volumetric": True}, "volume of 8 slices"),
        (np.zeros((8, 9), np.complex64), {}, "complex64"),
        (np.zeros((8, 9, 3), np.uint8), {"photometric": "cielab"}, "CIELAB"),
        (np.zeros((8, 9, 4), np.uint16), {"photometric": "separated"}, "SEPARATED"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, values, options, why):
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    with pytest.raises(ReadError, match=why) as error:
        read_tiff(tmp_path / "a.tif")
    assert error.value.status == "unsupported"


def test_not_finite(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.array([[0, np.inf]], np.float32))
    with pytest.raises(ReadError) as error:
        read_tiff(tmp_path / "a.tif")
    assert error.value.status == "not_finite"


def test_a_large_image_is_refused_before_decoding(tmp_path, ramp):
    tifffile.imwrite(tmp_path / "a.tif", ramp)
    with pytest.raises(ReadError, match="30 x 40 pixels") as error:
        read_tiff(tmp_path / "a.tif", max_pixels=1199)
    assert error.value.status == "too_large"


@pytest.mark.parametrize("options", [{}, {"compression": "lzw"}, {"compression": "zlib", "tile": (16, 16)}])
@pytest.mark.parametrize("part", [0.01, 0.5, 0.95])
def test_cut_files_are_corrupt(tmp_path, ramp, options, part):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, ramp, **options)
    path.write_bytes(path.read_bytes()[: max(8, int(part * path.stat().st_size))])
    with pytest.raises(ReadError) as error:
        read_tiff(path)
    assert error.value.status == "corrupt"


@pytest.mark.parametrize(("tag", "value"), [("ImageLength", 9000), ("TileWidth", 16)])
def test_promised_tiles_that_are_not_there(tmp_path, tag, value):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((64, 64), np.uint8), compression="zlib", tile=(32, 32))
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[tag].overwrite(value)
    with pytest.raises(ReadError, match="expected, 4 present") as error:
        read_tiff(path)
    assert error.value.status == "corrupt"


def test_a_width_that_is_text(tmp_path, ramp):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, ramp)
    content = bytearray(path.read_bytes())
    width = content.index(np.array([256, 4], "<u2").tobytes())  # tag ImageWidth, of type LONG
    content[width + 2] = 2  # ASCII
    path.write_bytes(content)
    with pytest.raises(ReadError) as error:
        read_tiff(path)
    assert error.value.status == "corrupt"


def test_slides_are_left_to_slide_readers(shared_data):
    with pytest.raises(ReadError, match="whole-slide") as error:
        read_tiff(shared_data / "wsi" / "CMU-1-Small-Region.svs")
    assert error.value.status == "unsupported"


def test_a_decoder_that_is_not_installed_is_named(tmp_path, ramp):
    tifffile.imwrite(tmp_path / "a.tif", ramp, compression="lzw")
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(ramp))
    script = """
import sys
sys.modules["imagecodecs"] = None
from softfree_runtime.readers import read_image
from softfree_runtime.core.errors import ReadError
for name in sys.argv[1:]:
    try:
        read_image(name)
    except ReadError as error:
        print(error.status, str(error).removeprefix(name))
"""
    names = [str(tmp_path / "a.tif"), str(tmp_path / "a.png")]
    process = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, text=True, check=True)
    said = "unsupported : needs imagecodecs, which is not installed; get it with: pip install imagecodecs\n"
    assert process.stdout == 2 * said
