import imagecodecs
import numpy as np
import pytest

from softfree_runtime.readers.jpeg import Frame
from softfree_runtime.readers.jpeg_lossless import Lengthened

RNG = np.random.default_rng(0)
SHAPES = [(37, 53), (3, 2), (4, 1)]


def encoded(pixels, bits, predictor):
    colors = {"colorspace": "RGB", "outcolorspace": "RGB"} if pixels.ndim == 3 else {}
    return imagecodecs.jpeg_encode(pixels, lossless=True, predictor=predictor, bitspersample=bits, **colors)


def decoded(code):
    frame = Frame.parse(code)
    lengthened = Lengthened.of(code, frame)
    assert lengthened.added
    colors = {"colorspace": "RGB", "outcolorspace": "RGB"} if len(frame.components) == 3 else {}
    return lengthened.checked(imagecodecs.jpeg_decode(lengthened.source, **colors))


def image(bits, shape):
    values = np.cumsum(RNG.integers(-9, 10, shape), axis=1) + (1 << (bits - 1))
    return values.clip(0, (1 << bits) - 1).astype(np.uint8 if bits == 8 else np.uint16)


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("shape", [*SHAPES, (20, 30, 3)])
def test_whole_scans_come_back_as_they_were(bits, predictor, shape):
    pixels = image(bits, shape)
    np.testing.assert_array_equal(decoded(encoded(pixels, bits, predictor)), pixels)


@pytest.mark.parametrize("value", [0, 1000, 65535])
def test_one_value(value):
    pixels = np.full((9, 11), value, np.uint16)
    np.testing.assert_array_equal(decoded(encoded(pixels, 16, 1)), pixels)


@pytest.mark.parametrize("fill", [b"", b"\0", b"\xff\0"])
def test_a_byte_too_many_at_the_end_of_a_scan(fill):
    pixels = image(12, (37, 53))
    code = encoded(pixels, 12, 1)
    np.testing.assert_array_equal(decoded(code[:-2] + fill + code[-2:]), pixels)


@pytest.mark.parametrize("predictor", [1, 4, 7])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("shape", [(37, 53), (20, 30, 3)])
@pytest.mark.parametrize(
    "damage",
    [
        lambda code: code[: 6 * len(code) // 10] + b"\xff\xd9",
        lambda code: code[:-9] + b"\xff\xd9",
        lambda code: code[: len(code) // 2] + bytes(40) + code[len(code) // 2 + 40 :],
        lambda code: code[: len(code) // 2] + code[len(code) // 2 + 40 :],
        lambda code: code[:-2] + b"\x12\x93\x55\xc1" + code[-2:],
    ],
    ids=["cut", "cut at the end", "zeros", "bytes missing", "bytes too many"],
)
def test_scans_that_end_early_or_late(bits, predictor, shape, damage):
    code = damage(encoded(image(bits, shape), bits, predictor))
    with pytest.raises(ValueError, match="ends early or late"):
        decoded(code)
