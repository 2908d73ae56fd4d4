import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing

from softfree_runtime.readers.dicom_elements import Elements
from softfree_runtime.readers.grayscale import LookUpTable, not_padding, to_modality, to_view
from softfree_runtime.readers.image import DecodedImage

VALUES = np.arange(-1200, 1200, 7, dtype=np.int16).reshape(1, -1, 1)


def elements(**values):
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return Elements(dataset)


def shown(pixels, values, bits=16, counted=None):
    seen, low, high, steps = to_view(pixels, elements(**values), True, bits, counted)
    return DecodedImage(seen, low, high, None, (), "").unit(), steps


def parsed(descriptor, data, little=True):
    tables = elements(LUTDescriptor=descriptor, LUTData=data)
    return LookUpTable.read(tables, "LUTDescriptor", "LUTData", little)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (-600, 1500), (0, 2), (50.5, 99.5)])
def test_windows_as_pydicom_applies_them(function, center, width):
    dataset = Dataset()
    dataset.PhotometricInterpretation, dataset.BitsStored, dataset.PixelRepresentation = "MONOCHROME2", 12, 1
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = center, width, function
    unit, steps = shown(VALUES, {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": function})
    expected = (apply_windowing(VALUES, dataset) + 2048) / 4095
    np.testing.assert_allclose(unit, expected, atol=2e-6)
    assert steps[0].startswith(f"window {center:g}/{width:g}")
    assert len(steps) == 1


def test_window_by_hand():
    # PS3.3 C.11.2.1.2.1: center 2048, width 4096 maps 0 to 0 and 4095 to 1.
    unit, _ = shown(np.array([[[0], [4095], [2048]]], np.uint16), {"WindowCenter": 2048, "WindowWidth": 4096})
    np.testing.assert_allclose(unit[0, :, 0], [0, 1, 2048 / 4095], rtol=1e-6)


def test_window_of_width_one_is_a_threshold():
    unit, _ = shown(np.array([[[99], [100], [101]]], np.uint16), {"WindowCenter": 100, "WindowWidth": 1})
    assert unit[0, :, 0].tolist() == [0, 1, 1]


@pytest.mark.parametrize("width", [0, -5, 0.5])
def test_windows_that_mean_nothing_are_ignored(width):
    unit, steps = shown(VALUES, {"WindowCenter": 40, "WindowWidth": width})
    np.testing.assert_allclose(unit, (VALUES + 1200.0) / (VALUES.max() + 1200), rtol=1e-5)
    assert steps[0] == f"window 40/{width:g} ignored: not valid"
    assert steps[1].startswith("range -1200 to")


def test_of_several_windows_the_first_is_taken():
    several = {"WindowCenter": [40, 450], "WindowWidth": [350, 1500]}
    assert shown(VALUES, several)[1] == ["window 40/350"]


@pytest.mark.parametrize("empty", [None, "", []])
def test_an_empty_window_is_none(empty):
    assert shown(VALUES, {"WindowCenter": empty, "WindowWidth": empty})[1] == ["range -1200 to 1194, the image's own"]


def test_rescale_gives_the_modality_values():
    stored = np.array([[0, 1000, 4095]], np.uint16)
    pixels, steps = to_modality(stored, elements(RescaleSlope=1, RescaleIntercept=-1024), True)
    assert pixels.tolist() == [[-1024, -24, 3071]]
    assert steps == ["modality LUT: slope 1, intercept -1024"]
    same, none = to_modality(stored, elements(RescaleSlope=1, RescaleIntercept=0), True)
    assert same is stored
    assert none == []


def test_look_up_clips_at_both_ends():
    table = LookUpTable(10, np.array([5, 6, 9], np.uint16), 8)
    assert table(np.array([-4, 10, 11, 12, 900])).tolist() == [5, 5, 6, 9, 9]
    assert table(np.array([10.6, 11.4], np.float32)).tolist() == [6, 6]


def test_eight_bit_tables_may_have_more_than_256_entries():
    entries = (np.arange(4096) // 16).astype(np.uint8)
    for data in (entries.tobytes(), entries.astype("<u2").tobytes()):
        table = parsed([4096, 0, 8], data)
        np.testing.assert_array_equal(table(np.arange(4096)), entries)


def test_tables_in_either_byte_order_and_as_integers():
    values = [1, 256, 65535]
    for data, little in (
        (np.array(values, "<u2").tobytes(), True),
        (np.array(values, ">u2").tobytes(), False),
        (values, True),
    ):
        assert parsed([3, 0, 16], data, little).entries.tolist() == values


def test_zero_entries_mean_65536():
    table = parsed([0, 0, 16], np.arange(65536, dtype="<u2").tobytes())
    assert table(np.array([65535])).tolist() == [65535]


def test_a_first_input_written_without_its_sign():
    table = LookUpTable(65536 - 1024, np.arange(2048, dtype=np.uint16), 16)
    assert table(np.array([-1024, 0, 1023])).tolist() == [0, 1024, 2047]


@pytest.mark.parametrize("data", [[1, 2], np.array([1, 2], "<u2").tobytes(), b"\1\0\2\0\3"])
def test_a_short_table_knows_what_it_lacks(data):
    table = parsed([3, 0, 16], data)
    assert table.entries.tolist() == [1, 2]
    assert table.missing == 1


def test_padding():
    stored = np.array([[-2000, -1999, -1000, 5]], np.int16)
    assert not_padding(stored, elements(), 16) is None
    padded = elements(PixelRepresentation=1, PixelPaddingValue=-2000)
    assert not_padding(stored, padded, 16).tolist() == [[False, True, True, True]]
    ranged = elements(PixelRepresentation=1, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1000)
    assert not_padding(stored, ranged, 16).tolist() == [[False, False, False, True]]


def with_padding(value, limit, signed):
    """Elements whose padding is written as unsigned or signed, against the pixels."""
    made = Dataset()
    made.add_new("PixelPaddingValue", "SS" if signed else "US", value)
    if limit is not None:
        made.add_new("PixelPaddingRangeLimit", "SS" if signed else "US", limit)
    return Elements(made)


@pytest.mark.parametrize(
    ("dtype", "bits", "value", "limit", "signed", "counted"),
    [
        (np.int16, 16, 63536, None, False, [False, True]),  # -2000 written as unsigned
        (np.int16, 12, 63536, None, False, [False, True]),
        (np.int16, 12, 2096, None, False, [False, True]),  # -2000 as an unsigned number of 12 bits
        (np.int16, 16, 63536, 64536, False, [False, True]),
        (np.uint16, 16, -2000, None, True, [False, True]),
        (np.uint16, 12, -2000, None, True, [False, True]),
    ],
)
def test_padding_of_the_other_sign(dtype, bits, value, limit, signed, counted):
    stored = np.array([[-2000 & ((1 << bits) - 1) if dtype == np.uint16 else -2000, 5]]).astype(dtype)
    result = with_padding(value, limit, signed)
    assert not_padding(stored, result, bits).tolist() == [counted]
    assert any("PixelPaddingValue" in words and "its bits reinterpreted" in words for words in result.corrections)


def test_padding_that_no_pixel_can_have_is_ignored():
    result = with_padding(300, None, False)
    assert not_padding(np.array([[7, 255]], np.uint8), result, 8) is None
    assert result.corrections == ["PixelPaddingValue: beyond all values that the pixels can have, ignored"]


@pytest.mark.parametrize("center", [5000, -5000])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_window_beyond_all_values_is_not_used(center, function):
    values = {"WindowCenter": center, "WindowWidth": 400, "VOILUTFunction": function}
    unit, steps = shown(VALUES, values)
    assert (unit.min(), unit.max()) == (0, 1)
    assert steps[0].endswith("ignored: nothing would be visible")


def test_padding_alone_is_nothing_to_be_seen():
    pixels = np.array([[[-2000], [10], [60]]], np.int16)
    window = {"WindowCenter": -1000, "WindowWidth": 400}
    assert shown(pixels, window)[1] == ["window -1000/400"]
    unit, _ = shown(pixels, window, counted=np.array([[False, True, True]]))
    assert unit[0, :, 0].tolist() == [0, 0, 1]


def test_one_value_stays_one_value():
    pixels = np.full((1, 3, 1), 7, np.int16)
    assert shown(pixels, {"WindowCenter": 500, "WindowWidth": 100})[1] == ["window 500/100"]


@pytest.mark.parametrize(
    ("bits", "entries", "white"),
    [(16, [0, 900, 65535], 65535), (12, [0, 4095], 4095), (8, [0, 400], 400), (16, [0, 255], 255), (0, [0, 77], 77)],
)
def test_white_is_what_the_declared_bits_hold_where_they_can_be_meant(bits, entries, white):
    assert LookUpTable(0, np.array(entries, np.uint16), bits).white == white


def test_a_first_input_that_was_written_with_a_sign():
    table = LookUpTable(40000 - 65536, np.arange(2048, dtype=np.uint16), 16)
    assert table(np.array([40000, 41000], np.uint16)).tolist() == [0, 1000]
    assert table(np.array([-25536, -24536], np.int32)).tolist() == [0, 1000]
