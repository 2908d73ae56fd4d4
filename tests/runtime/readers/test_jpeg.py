from io import BytesIO

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom.uid import JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.dicom import decode
from softfree_runtime.readers.jpeg import Frame, follow_scans, refuse_damaged


@pytest.mark.parametrize("predictor", [1, 4, 7])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_gray_comes_back(write_dicom, bits, predictor):
    rng = np.random.default_rng(bits)
    pixels = rng.integers(0, 2**bits, (20, 30)).astype(np.uint8 if bits == 8 else np.uint16)
    code = imagecodecs.jpeg_encode(pixels, lossless=True, predictor=predictor, bitspersample=bits)
    path = write_dicom(pixels, bits=bits, syntax=JPEGLossless, codes=[code])
    decoded, _ = decode(path)
    np.testing.assert_array_equal(decoded, pixels)
    assert decoded.dtype == pixels.dtype


def test_lossless_signed_values_keep_their_sign(write_dicom):
    pixels = np.random.default_rng(0).integers(-2048, 2048, (20, 30)).astype(np.int16)
    code = imagecodecs.jpeg_encode((pixels & 0xFFF).astype(np.uint16), lossless=True, bitspersample=12)
    decoded, _ = decode(write_dicom(pixels, bits=12, syntax=JPEGLosslessSV1, codes=[code]))
    np.testing.assert_array_equal(decoded, pixels)


def test_lossless_color_is_not_taken_for_ycc(write_dicom):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    code = imagecodecs.jpeg_encode(pixels, lossless=True, colorspace="RGB", outcolorspace="RGB")
    path = write_dicom(pixels, photometric="RGB", syntax=JPEGLosslessSV1, codes=[code])
    np.testing.assert_array_equal(decode(path)[0], pixels)


def test_extended_twelve_bits_are_close(write_dicom):
    row = np.linspace(0, 4095, 64)
    pixels = np.round((row[:, None] + row) / 2).astype(np.uint16)
    code = imagecodecs.jpeg_encode(pixels, level=98, bitspersample=12)
    decoded, _ = decode(write_dicom(pixels, bits=12, syntax=JPEGExtended12Bit, codes=[code]))
    assert np.abs(decoded.astype(int) - pixels).max() < 40
    assert decoded.dtype == np.uint16


def test_a_scan_that_breaks_the_standard_is_refused(write_dicom):
    pixels = np.zeros((16, 16), np.uint16)
    code = bytearray(imagecodecs.jpeg_encode(pixels, level=90, bitspersample=12))
    scan = code.index(b"\xff\xda")
    last = scan + 2 + int.from_bytes(code[scan + 2 : scan + 4]) - 2
    assert code[last] == 63
    code[last] = 0
    with pytest.raises(ReadError, match=r"coefficients \(0, 0\)") as error:
        decode(write_dicom(pixels, bits=12, syntax=JPEGExtended12Bit, codes=[bytes(code)]))
    assert error.value.status == "corrupt"


@pytest.mark.parametrize("damage", [b"\x00\x00", b"\xff\xd8\xff\xd9", b"\xff\xd8" + bytes(40)])
@pytest.mark.parametrize("syntax", [JPEGExtended12Bit, JPEGLossless])
def test_damaged_frames_are_corrupt(write_dicom, syntax, damage):
    with pytest.raises(ReadError) as error:
        decode(write_dicom(np.zeros((16, 16), np.uint16), bits=12, syntax=syntax, codes=[damage]))
    assert error.value.status == "corrupt"


def test_a_frame_of_another_size_is_refused(write_dicom):
    code = imagecodecs.jpeg_encode(np.zeros((16, 16), np.uint16), lossless=True, bitspersample=12)
    with pytest.raises(ReadError, match=r"codestream of 16 x 16 x 1 samples, but .* say 20 x 16 x 1"):
        decode(write_dicom(np.zeros((20, 16), np.uint16), bits=12, syntax=JPEGLossless, codes=[code]))


def smooth(height, width):
    rows, columns = np.mgrid[:height, :width]
    return (
        ((np.sin(columns / 9) + np.cos(rows / 7)) * 50 + 128) + np.random.default_rng(0).normal(0, 3, (height, width))
    ).clip(0, 255)


def as_jpeg(pixels, **options):
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()


def in_colors(gray):
    return np.stack([gray, gray[::-1], gray // 2], axis=-1)


GRAY = smooth(61, 83).astype(np.uint8)
SCANS = {
    "gray": as_jpeg(GRAY, quality=90),
    "one value": as_jpeg(np.full((40, 50), 9, np.uint8)),
    "small": as_jpeg(GRAY[:3, :5]),
    "4:2:0": as_jpeg(in_colors(GRAY), subsampling=2),
    "4:2:2": as_jpeg(in_colors(GRAY), subsampling=1, optimize=True),
    "4:4:4": as_jpeg(in_colors(GRAY), subsampling=0, quality=100),
    "restarts": as_jpeg(in_colors(GRAY), restart_marker_blocks=3),
    "12 bits": imagecodecs.jpeg_encode(GRAY.astype(np.uint16) * 16, level=95, bitspersample=12),
}


@pytest.mark.parametrize("code", SCANS.values(), ids=SCANS)
def test_whole_scans_are_followed_to_their_end(code):
    for whole in (code, code[:-2] + b"\xff\xff\xff\xd9\0"):
        follow_scans(whole, Frame.parse(whole))
        refuse_damaged(whole, Frame.parse(whole))


@pytest.mark.parametrize("code", SCANS.values(), ids=SCANS)
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda code: code[: 3 * len(code) // 4], "truncated JPEG|without a scan|no JPEG frame with a scan"),
        (lambda code: code[:-6] + b"\xff\xd9", "ends early|restart markers|invalid code"),
        (lambda code: code[:-2] + b"\x12\x93\x55\xff\xd9", "beyond its end"),
    ],
)
def test_scans_that_end_early_or_late(code, damage, words):
    def check(damaged):
        frame = Frame.parse(damaged)
        refuse_damaged(damaged, frame)
        follow_scans(damaged, frame)

    with pytest.raises(ValueError, match=words):
        check(damage(code))


@pytest.mark.parametrize("name", ["gray", "4:2:0", "4:4:4", "12 bits"])
def test_zeroed_bytes_in_a_scan(name):
    code = bytearray(SCANS[name])
    code[len(code) // 2 : len(code) // 2 + 60] = bytes(60)
    with pytest.raises(ValueError, match="JPEG scan"):
        refuse_damaged(bytes(code), Frame.parse(bytes(code)))
