import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.sources.channel_rules import ChannelRules, read_channels
from softfree_runtime.sources.volume_files import read_volume

RULES = {
    "series": {"pre": r"dyn pre\b", "post": "1st pass"},
    "channels": ["pre", "post", {"subtract": ["post", "pre"]}],
}


def write_series(folder, description, level, *, count=3, shape=(4, 5), step=2.0, prefix=""):
    """Write axial slices of one value each, ``level`` and up, as a study of breast MRI has them."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = generate_uid()
    for number in range(count):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MRImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        dataset.SeriesInstanceUID, dataset.SeriesDescription, dataset.PatientName = uid, description, "Doe^Jane"
        dataset.ImagePositionPatient = [0, 0, step * number]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing = [0.7, 0.7]
        dataset.Rows, dataset.Columns = shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.PixelData = np.full(shape, level + number, np.uint16).tobytes()
        dataset["PixelData"].VR = "OW"
        dataset.save_as(folder / f"{prefix}{number}.dcm", enforce_file_format=True)


@pytest.fixture
def study(tmp_path):
    """A study whose series lie in folders of their own, but for two that share one."""
    folder = tmp_path / "study"
    write_series(folder / "a", "Ax Dyn Pre", 100)
    write_series(folder / "b", "Ax Dyn 1st pass", 160, prefix="first")
    write_series(folder / "b", "Ax Dyn 2nd pass", 180, prefix="second")
    write_series(folder / "c", "Localizer", 7, shape=(9, 9))
    (folder / "notes.txt").write_text("seen")
    return folder


def refused(study, rules, *words):
    with pytest.raises(ReadError) as caught:
        read_channels(study, ChannelRules.parse(rules))
    message = str(caught.value)
    assert "\n" not in message
    assert "Doe" not in message
    assert "Localizer" not in message
    for word in words:
        assert word in message


def test_series_and_their_difference_become_channels(study):
    volume = read_channels(study, ChannelRules.parse(RULES))
    assert volume.voxels.shape == (3, 3, 4, 5)
    assert volume.voxels.dtype == np.float32
    slices = np.arange(3)[:, None, None]
    for channel, expected in zip(volume.voxels, (100 + slices, 160 + slices, 60 + 0 * slices), strict=True):
        np.testing.assert_array_equal(channel, np.broadcast_to(expected, (3, 4, 5)))
    assert volume.spacing == (2, 0.7, 0.7)
    assert (volume.low, volume.high) == (60, 162)
    assert volume.steps[-1] == "channels: pre, post, post minus pre"


def test_a_difference_may_be_negative_and_alone(study):
    rules = RULES | {"channels": [{"subtract": ["pre", "post"]}]}
    np.testing.assert_array_equal(read_channels(study, ChannelRules.parse(rules)).voxels, np.full((1, 3, 4, 5), -60))


def test_read_volume_takes_the_folder_of_a_study(study):
    rules = ChannelRules.parse(RULES)
    np.testing.assert_array_equal(read_volume(study, rules=rules).voxels, read_channels(study, rules).voxels)
    with pytest.raises(ReadError, match="need the folder of a study"):
        read_volume(study / "a" / "0.dcm", rules=rules)
    with pytest.raises(ReadError, match="no such file"):
        read_volume(study / "absent", rules=rules)


def test_a_pattern_fits_one_series(study):
    refused(study, RULES | {"series": {"pre": "dyn", "post": "1st"}}, "'dyn'", "fits 3 of 4", "narrow")
    refused(study, RULES | {"series": {"pre": "t2", "post": "1st"}}, "'t2'", "fits none of 4", "fix")


def test_a_series_that_no_channel_uses_is_not_looked_for(study):
    rules = {"series": {"pre": "pre", "other": "absent"}, "channels": ["pre"]}
    assert read_channels(study, ChannelRules.parse(rules)).voxels.shape == (1, 3, 4, 5)


@pytest.mark.parametrize(
    ("other", "words"),
    [({"count": 4}, "4 x 4 x 5 voxels"), ({"shape": (4, 6)}, "3 x 4 x 6"), ({"step": 2.2}, "up to 0.4 mm")],
)
def test_channels_share_one_grid(study, other, words):
    write_series(study / "d", "late", 200, **other)
    rules = {"series": {"pre": "pre", "late": "late"}, "channels": ["pre", "late"]}
    refused(study, rules, "'pre' and 'late' are on different grids", words)


def test_what_was_corrected_in_a_series_is_said(study):
    write_series(study / "d", "late", 200)
    for path in (study / "d").iterdir():
        content = path.read_bytes()
        path.write_bytes(content.replace(b"0.7\\0.7 ", b"0,7\\0,7 "))
    rules = {"series": {"pre": "pre", "late": "late"}, "channels": [{"subtract": ["pre", "late"]}]}
    volume = read_channels(study, ChannelRules.parse(rules))
    assert volume.corrections == ("PixelSpacing: decimal comma read as a point",)


def test_a_gap_in_one_series_is_named(study):
    (study / "b" / "first1.dcm").unlink()
    write_series(study / "b", "x", 0, prefix="x")
    volume = read_channels(study, ChannelRules.parse(RULES | {"channels": ["pre"]}))
    assert volume.voxels.shape == (1, 3, 4, 5)
    refused(study, RULES, "are on different grids")


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (None, "'series' and 'channels'"),
        ({"series": {"pre": "x"}}, "'series' and 'channels'"),
        ({"series": ["x"], "channels": ["pre"]}, "names with patterns"),
        ({"series": {"pre": "x"}, "channels": []}, "names with patterns"),
        ({"series": {"pre": 3}, "channels": ["pre"]}, "not a name with a pattern"),
        ({"series": {"pre": "(x"}, "channels": ["pre"]}, "not a regular expression"),
        ({"series": {"pre": "x"}, "channels": ["post"]}, "expected one of pre"),
        ({"series": {"pre": "x"}, "channels": [{"subtract": ["pre"]}]}, "subtract: [one, another]"),
        ({"series": {"pre": "x"}, "channels": [{"subtract": ["pre", "post"]}]}, "subtract: [one, another]"),
        ({"series": {"pre": "x"}, "channels": [["pre"]]}, "expected one of pre"),
        ({"series": {"pre": "x"}, "channels": [{"add": ["pre", "pre"]}]}, "expected one of pre"),
    ],
)
def test_rules_that_are_none(rules, words):
    with pytest.raises(UserError) as caught:
        ChannelRules.parse(rules)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
