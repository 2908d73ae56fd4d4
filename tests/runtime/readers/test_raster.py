import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.raster import oriented, read_raster


@pytest.fixture
def gray():
    return np.arange(6 * 5, dtype=np.uint8).reshape(6, 5) * 8


def saved(path, image, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp"])
def test_rgb_is_read_unchanged(tmp_path, suffix):
    rgb = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    image = read_raster(saved(tmp_path / f"a.{suffix}", rgb, lossless=True))
    np.testing.assert_array_equal(image.pixels, rgb)
    assert (image.low, image.high, image.steps, image.stored) == (0, 255, (), "8-bit RGB")


def test_gray_has_one_channel(tmp_path, gray):
    image = read_raster(saved(tmp_path / "a.png", gray))
    np.testing.assert_array_equal(image.pixels[..., 0], gray)
    assert image.stored == "8-bit gray"


def test_one_bit_becomes_black_and_white(tmp_path):
    bits = np.eye(9, dtype=bool)
    image = read_raster(saved(tmp_path / "a.png", bits))
    np.testing.assert_array_equal(image.unit()[..., 0], bits.astype(np.float32))
    assert image.stored == "1-bit gray"


def test_palette_becomes_rgb_and_gray_palettes_are_noted(tmp_path, gray):
    indexed = Image.fromarray(gray % 3, "P")
    indexed.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    image = read_raster(saved(tmp_path / "a.png", indexed))
    colors = np.array([[255, 0, 0], [0, 255, 0], [10, 20, 30]])
    np.testing.assert_array_equal(image.pixels, colors[gray % 3])
    assert image.steps == ("palette to RGB",)
    indexed.putpalette([0, 0, 0, 7, 7, 7, 9, 9, 9])
    assert read_raster(saved(tmp_path / "b.png", indexed)).stored == "8-bit palette (gray)"


@pytest.mark.parametrize(("mode", "channels"), [("RGBA", 3), ("LA", 1)])
def test_alpha_is_dropped_not_blended(tmp_path, mode, channels):
    values = np.random.default_rng(1).integers(0, 256, (4, 5, len(mode)), dtype=np.uint8)
    values[..., -1] = 0
    image = read_raster(saved(tmp_path / "a.png", Image.fromarray(values, mode)))
    np.testing.assert_array_equal(image.pixels, values[..., :channels])
    assert image.steps == ("alpha dropped",)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_are_kept(tmp_path, channels):
    values = np.random.default_rng(2).integers(300, 4000, (6, 5, channels), dtype=np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(values[..., 0] if channels == 1 else values))
    image = read_raster(path)
    color = channels > 2
    np.testing.assert_array_equal(image.pixels, values[..., : 3 if color else 1])
    expected = (0, 65535) if color else (values[..., 0].min(), values[..., 0].max())
    assert (image.low, image.high) == expected
    assert ("alpha dropped" in image.steps) == (channels % 2 == 0)
    assert image.stored.startswith("16-bit RGB" if color else "16-bit gray")


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    image = read_raster(saved(tmp_path / "a.jpg", image, quality=100))
    assert image.steps == ("CMYK to RGB",)
    np.testing.assert_allclose(image.pixels[4, 4], [255, 0, 0], atol=3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_as_pillow_does(tmp_path, gray, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.png", gray, exif=exif)
    image = read_raster(path)
    with Image.open(path) as file:
        np.testing.assert_array_equal(image.pixels[..., 0], np.array(ImageOps.exif_transpose(file)))
    assert len(image.steps) == (orientation != 1)


def test_orientations_are_the_eight_of_the_square():
    corner = np.arange(6).reshape(2, 3, 1)
    assert len({oriented(corner, n).tobytes() + bytes(oriented(corner, n).shape) for n in range(1, 9)}) == 8


def test_frames_of_a_gif(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (10, 90, 200)]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert read_raster(path).pixels[0, 0, 0] == 10
    third = read_raster(path, 2)
    assert third.pixels[0, 0, 0] == 200
    assert third.steps[0] == "frame 3 of 3"
    with pytest.raises(ReadError, match="frames 0 to 2") as error:
        read_raster(path, 3)
    assert error.value.status == "unsupported"


def animated(bits: int, values: tuple[int, ...]) -> bytes:
    """Return an animated gray PNG of 4 x 4 pixels, whose frames have one value each."""

    def chunk(kind: bytes, *content: bytes) -> bytes:
        body = kind + b"".join(content)
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    parts = [
        b"\x89PNG\r\n\x1a\n",
        chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, bits, 0, 0, 0, 0)),
        chunk(b"acTL", struct.pack(">II", len(values), 0)),
    ]
    for number, value in enumerate(values):
        row = b"\0" + 4 * value.to_bytes(bits // 8)
        parts.append(chunk(b"fcTL", struct.pack(">IIIIIHHBB", max(0, 2 * number - 1), 4, 4, 0, 0, 1, 10, 0, 0)))
        data = zlib.compress(4 * row)
        parts.append(chunk(b"fdAT", struct.pack(">I", 2 * number), data) if number else chunk(b"IDAT", data))
    return b"".join([*parts, chunk(b"IEND")])


def test_frames_of_an_animated_png(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(animated(8, (10, 90, 200)))
    assert [read_raster(path, frame).pixels[0, 0, 0] for frame in (None, 0, 1, 2)] == [10, 10, 90, 200]
    path.write_bytes(animated(16, (1000, 50000, 7)))
    assert read_raster(path).pixels[0, 0, 0] == 1000
    for frame in (1, 2):
        with pytest.raises(ReadError, match="16-bit frame of an animated PNG is not supported") as error:
            read_raster(path, frame)
        assert error.value.status == "unsupported"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "sixteen.png"])
def test_cut_files_are_corrupt(tmp_path, name):
    noise = np.random.default_rng(3).integers(0, 65536, (40, 40), dtype=np.uint16)
    path = tmp_path / name
    if name == "sixteen.png":
        path.write_bytes(imagecodecs.png_encode(noise))
    else:
        saved(path, (noise >> 8).astype(np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(ReadError) as error:
        read_raster(path)
    assert error.value.status == "corrupt"
    assert "\n" not in str(error.value)


def test_a_bomb_is_refused_from_its_header(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 50000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))))
    with pytest.raises(ReadError, match="60000 x 50000 pixels") as error:
        read_raster(path)
    assert error.value.status == "too_large"


def test_our_limit_replaces_that_of_pillow(tmp_path, gray, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    path = saved(tmp_path / "a.png", gray)
    assert read_raster(path).pixels.shape == (6, 5, 1)
    with pytest.raises(ReadError):
        read_raster(path, max_pixels=29)
    assert Image.MAX_IMAGE_PIXELS == 4
