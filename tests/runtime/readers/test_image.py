import io
from pathlib import Path

import numpy as np
import pytest

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.image import (
    DecodedImage,
    chosen_frame,
    in_one_line,
    inverted,
    own_range,
    refuse_large,
    refuse_not_finite,
    with_gray_noted,
)


def image(pixels, low, high):
    return DecodedImage(np.asarray(pixels)[None, :, None], low, high, None, (), "")


def test_unit_maps_the_range_linearly_and_clips():
    unit = image(np.array([-300, -160, 40, 240, 900], np.int16), -160, 240).unit()
    assert unit.dtype == np.float32
    assert unit[0, :, 0].tolist() == [0, 0, 0.5, 1, 1]


def test_unit_of_a_single_value_is_a_threshold():
    assert image(np.array([6, 7, 8], np.uint8), 7, 7).unit()[0, :, 0].tolist() == [0, 0, 1]


def test_unit_keeps_the_digits_of_wide_integers():
    base = 2**31
    unit = image(np.array([base, base + 1, base + 2], np.uint32), base, base + 2).unit()
    assert unit[0, :, 0].tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("base", [1000, 2**31])
def test_inversion_keeps_the_digits_of_wide_integers(base):
    pixels = np.array([base, base + 1, base + 2, base + 4], np.uint32 if base > 65535 else np.uint16)
    dark = inverted(pixels, base, base + 4)
    assert dark.tolist() == [base + 4, base + 3, base + 2, base]
    assert dark.dtype == (np.float64 if base > 65535 else np.float32)
    assert image(dark, base, base + 4).unit()[0, :, 0].tolist() == [1, 0.75, 0.5, 0]


def test_unit_leaves_the_pixels_alone():
    pixels = np.full((2, 2, 1), 0.25, np.float32)
    shown = DecodedImage(pixels, 0, 1, None, (), "").unit()
    shown += 1
    assert (pixels == 0.25).all()


@pytest.mark.parametrize(
    ("pixels", "bits", "expected"),
    [
        (np.array([[[3], [9]]], np.uint8), 8, (0, 255)),
        (np.array([[[3], [9]]], np.uint8), 7, (0, 127)),
        (np.array([[[3], [9]]], np.uint16), 12, (3, 9)),
        (np.array([[[3], [9]]], np.int8), 8, (3, 9)),
        (np.array([[[3, 4, 9]]], np.uint16), 16, (0, 65535)),
        (np.array([[[0.2, 0.4, 0.9]]], np.float32), 32, (0, 1)),
        (np.array([[[0.25], [0.5]]], np.float32), 32, (0.25, 0.5)),
    ],
)
def test_range_of_a_image_that_names_none(pixels, bits, expected):
    low, high, steps = own_range(pixels, bits)
    assert (low, high) == expected
    assert bool(steps) == (expected == (pixels.min(), pixels.max()))


def test_range_counts_only_pixels_that_belong_to_the_image():
    pixels = np.array([[[-2000], [10], [50]]], np.int16)
    assert own_range(pixels, 16, np.array([[False, True, True]]))[:2] == (10, 50)
    assert own_range(pixels, 16, np.zeros((1, 3), bool))[:2] == (-2000, 50)


def test_gray_stored_as_rgb_is_noted():
    gray = np.repeat(np.arange(12, dtype=np.uint8).reshape(3, 4, 1), 3, axis=-1)
    assert with_gray_noted("8-bit RGB", gray) == "8-bit RGB (gray)"
    gray[1, 2, 1] += 1
    assert with_gray_noted("8-bit RGB", gray) == "8-bit RGB"
    assert with_gray_noted("8-bit gray", gray[..., :1]) == "8-bit gray"


def test_refusals_carry_their_status():
    path = Path("x.png")
    with pytest.raises(ReadError, match="40 x 30 pixels, more than 1199") as large:
        refuse_large(path, 40, 30, 1199)
    refuse_large(path, 40, 30, 1200)
    with pytest.raises(ReadError, match="not finite") as odd:
        refuse_not_finite(path, np.array([1, np.nan]))
    refuse_not_finite(path, np.array([1, 2]))
    with pytest.raises(ReadError, match="got frame 3; the file has frames 0 to 2") as frame:
        chosen_frame(path, 3, 3)
    with pytest.raises(ReadError):
        chosen_frame(path, -1, 3)
    assert [e.value.status for e in (large, odd, frame)] == ["too_large", "not_finite", "unsupported"]
    assert chosen_frame(path, None, 3) == (0, ("frame 1 of 3",))
    assert chosen_frame(path, 0, 1) == (0, ())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("all failed:\n  plug-in: cut short \n"), "plug-in: cut short"),
        (KeyError(), "KeyError"),
        (ValueError("x" * 100_000), "x" * 200),
        (OSError(f"cannot identify image file {io.BytesIO()!r}"), "cannot identify image file"),
        (ValueError(repr(object())), "ValueError"),
        (ValueError("<COMPRESSION.JBIG: 34661> not supported"), "COMPRESSION.JBIG not supported"),
        (ValueError("bad\0 \x1b[31mtag"), "bad   [31mtag"),
        (ValueError("TIFF: I/O error in 4:2:0/4:4:4"), "TIFF: I/O error in 4:2:0/4:4:4"),
        # Names of files may be patients' names.
        (PermissionError(13, "Permission denied", "study/Doe: Jane.img"), "Permission denied"),
        (OSError("cannot open Doe: Jane.tif"), "OSError"),
        (OSError("no such file: 'name = /data/Doe: Jane/Slidedat.ini'"), "OSError"),
    ],
)
def test_errors_of_libraries_become_one_short_line(error, said):
    assert in_one_line(error, Path("study/Doe: Jane.tif")) == said


SQUARE = "pixels of unequal sides resampled to square"
LONG = "pixels more than 10 times as long as wide taken as square"


@pytest.mark.parametrize(
    ("spacing", "aspect", "growth", "said"),
    [
        (None, 1.0, (1, 1), ()),
        (None, 2.0, (2, 1), (SQUARE,)),
        (None, 0.5, (1, 2), (SQUARE,)),
        ((0.3, 0.2), 0.5, (1.5, 1), (SQUARE,)),
        ((0.2, 0.2015), 1.0, (1, 1), ()),
        (None, 72.0, (1, 1), (LONG,)),
        (None, 1 / 72, (1, 1), (LONG,)),
    ],
)
def test_what_makes_pixels_square(spacing, aspect, growth, said):
    made = DecodedImage(np.zeros((2, 2, 1), np.uint8), 0, 255, spacing, (), "", aspect=aspect)
    assert made.growth == pytest.approx(growth)
    noted = made.with_growth_noted()
    assert noted.steps == noted.corrections == said
