import imagecodecs
import numpy as np
import pytest
from pydicom.uid import JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1

from softfree.data.readers.dicom import decode
from softfree.data.readers.jpeg import is_available
from softfree.errors import ReadError


def test_only_its_own_transfer_syntaxes():
    assert all(is_available(uid) for uid in (JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1))
    assert not is_available("1.2.840.10008.1.2.4.50")


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


def test_lossless_colour_is_not_taken_for_ycc(write_dicom):
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
    with pytest.raises(ReadError, match=r"\(16, 16\), expected \(20, 16\)"):
        decode(write_dicom(np.zeros((20, 16), np.uint16), bits=12, syntax=JPEGLossless, codes=[code]))
