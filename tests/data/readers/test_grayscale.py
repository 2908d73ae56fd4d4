import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_windowing

from softfree.data.readers.grayscale import LookUpTable, not_padding, to_modality, to_view
from softfree.data.readers.picture import Picture

VALUES = np.arange(-1200, 1200, 7, dtype=np.int16).reshape(1, -1, 1)


def shown(pixels, values, bits=16):
    seen, low, high, steps = to_view(pixels, values, True, bits, None)
    return Picture(seen, low, high, None, (), "").unit(), steps


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("centre", "width"), [(40, 400), (-600, 1500), (0, 2), (50.5, 99.5)])
def test_windows_as_pydicom_applies_them(function, centre, width):
    dataset = Dataset()
    dataset.PhotometricInterpretation, dataset.BitsStored, dataset.PixelRepresentation = "MONOCHROME2", 12, 1
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = centre, width, function
    unit, steps = shown(VALUES, {name: dataset.get(name) for name in ("WindowCenter", "WindowWidth", "VOILUTFunction")})
    expected = (apply_windowing(VALUES, dataset) + 2048) / 4095
    np.testing.assert_allclose(unit, expected, atol=2e-6)
    assert steps[0].startswith(f"window {centre:g}/{width:g}")
    assert len(steps) == 1


def test_window_by_hand():
    # PS3.3 C.11.2.1.2.1: centre 2048, width 4096 maps 0 to 0 and 4095 to 1.
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
    several = {"WindowCenter": MultiValue(float, [40, 450]), "WindowWidth": MultiValue(float, [350, 1500])}
    assert shown(VALUES, several)[1] == ["window 40/350"]


@pytest.mark.parametrize("empty", [None, "", MultiValue(float, [])])
def test_an_empty_window_is_none(empty):
    assert shown(VALUES, {"WindowCenter": empty, "WindowWidth": empty})[1] == ["range -1200 to 1194, the picture's own"]


def test_rescale_gives_the_modality_values():
    stored = np.array([[0, 1000, 4095]], np.uint16)
    pixels, steps = to_modality(stored, {"RescaleSlope": 1, "RescaleIntercept": -1024}, True)
    assert pixels.tolist() == [[-1024, -24, 3071]]
    assert steps == ["modality LUT: slope 1, intercept -1024"]
    same, none = to_modality(stored, {"RescaleSlope": 1, "RescaleIntercept": 0}, True)
    assert same is stored
    assert none == []


def test_look_up_clips_at_both_ends():
    table = LookUpTable(10, np.array([5, 6, 9], np.uint16), 8)
    assert table(np.array([-4, 10, 11, 12, 900])).tolist() == [5, 5, 6, 9, 9]
    assert table(np.array([10.6, 11.4], np.float32)).tolist() == [6, 6]


def test_eight_bit_tables_may_have_more_than_256_entries():
    entries = (np.arange(4096) // 16).astype(np.uint8)
    for data in (entries.tobytes(), entries.astype("<u2").tobytes()):
        table = LookUpTable.parse([4096, 0, 8], data, True)
        np.testing.assert_array_equal(table(np.arange(4096)), entries)


def test_tables_in_either_byte_order_and_as_integers():
    values = [1, 256, 65535]
    for data, little in (
        (np.array(values, "<u2").tobytes(), True),
        (np.array(values, ">u2").tobytes(), False),
        (values, True),
    ):
        assert LookUpTable.parse([3, 0, 16], data, little).entries.tolist() == values


def test_zero_entries_mean_65536():
    table = LookUpTable.parse([0, 0, 16], np.arange(65536, dtype="<u2").tobytes(), True)
    assert table(np.array([65535])).tolist() == [65535]


def test_a_first_input_written_without_its_sign():
    table = LookUpTable(65536 - 1024, np.arange(2048, dtype=np.uint16), 16)
    assert table(np.array([-1024, 0, 1023])).tolist() == [0, 1024, 2047]


def test_a_short_table_is_an_error():
    with pytest.raises(ValueError, match="2 entries, expected 3"):
        LookUpTable.parse([3, 0, 16], [1, 2], True)


def test_padding():
    dataset = Dataset()
    stored = np.array([[-2000, -1999, -1000, 5]])
    assert not_padding(stored, dataset) is None
    dataset.PixelRepresentation = 1
    dataset.PixelPaddingValue = -2000
    assert not_padding(stored, dataset).tolist() == [[False, True, True, True]]
    dataset.PixelPaddingRangeLimit = -1000
    assert not_padding(stored, dataset).tolist() == [[False, False, False, True]]
