from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from softfree.data.folds import Folds
from softfree.data.table import Table, read_table
from softfree.study.inspection import audit_in_words, has_color, is_oriented, kind_of, thumbnail
from softfree.study.plan_file import in_words, parse_duration
from softfree_runtime.core.errors import UserError
from softfree_runtime.readers.image import DecodedImage


def decoded(pixels: np.ndarray) -> DecodedImage:
    return DecodedImage(pixels, 0, 255, None, (), "8-bit")


def test_images_with_a_direction_and_without() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(40, 16, 16))
    ramp = np.linspace(-1, 1, 16)[:, None] * np.ones(16)
    disk = -np.hypot(*np.meshgrid(np.linspace(-1, 1, 16), np.linspace(-1, 1, 16)))
    assert is_oriented(noise + ramp)
    assert not is_oriented(noise)
    assert not is_oriented(noise + disk)
    turned = np.stack([np.rot90(image, number % 4) for number, image in enumerate(noise + ramp)])
    assert not is_oriented(turned)


@pytest.mark.parametrize(("shape", "expected"), [((64, 60, 1), (16, 16)), ((40, 90, 3), (16, 17))])
def test_a_thumbnail_has_the_means_of_its_cells(shape: tuple[int, ...], expected: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    small = thumbnail(decoded(pixels))
    assert small.shape == expected
    assert small.mean() == pytest.approx(0, abs=1e-6)
    assert small.std() == pytest.approx(1)


def test_gray_in_three_channels_has_no_color() -> None:
    gray = np.random.default_rng(0).integers(0, 255, (20, 20, 1), dtype=np.uint8).repeat(3, axis=2)
    assert not has_color(decoded(gray))
    gray[..., 0] //= 2
    assert has_color(decoded(gray))


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("2h", 7200), ("1.5 h", 5400), ("1d", 86400), ("30S", 30)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["2", "h", "-1h", "0m", "2 weeks", ""])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected a number and a unit, such as 90m, 2h or 1d"):
        parse_duration(text)


def test_durations_in_words() -> None:
    assert [in_words(seconds) for seconds in (12.2, 600, 9000)] == ["13 seconds", "10 minutes", "2.5 hours"]


def table_of(tmp_path: Path, names: list[str]) -> Table:
    for name in names:
        (tmp_path / name).write_bytes(NIFTI if name == "volume.img_of_another_name" else b"x")
    rows = pd.DataFrame({"path": names, "label": ["a", "b"] * (len(names) // 2), "split": "train"})
    rows.to_csv(tmp_path / "table.csv", index=False)
    return read_table(tmp_path / "table.csv")


NIFTI = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)).to_bytes()


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["a.png", "b.dcm"], "image"),
        (["a.nii", "b.nii.gz"], "volume"),
        (["volume.img_of_another_name", "b.nii"], "volume"),
    ],
)
def test_the_kind_of_samples_is_that_of_their_files(tmp_path: Path, names: list[str], kind: str) -> None:
    assert kind_of(table_of(tmp_path, names)) == kind


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.png", "b.nii"], "1 of 2 rows are volumes, the others images; make a table for each"),
        (["a.SVS", "b.bif"], "2 of 2 rows are slides or tile features: softfree auto plans images and volumes"),
        (["a.h5", "b.png"], "1 of 2 rows are slides or tile features"),
    ],
)
def test_what_has_no_plan_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        kind_of(table_of(tmp_path, names))


def test_the_audit_of_a_study_knows_folds_and_the_fixed_test_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    patterns = [smooth_noise(rng) for _ in range(12)]
    rows = []
    for number, pixels in enumerate(patterns):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        rows.append((f"{number}.png", "ab"[number % 2], "test" if number > 7 else "train"))
    Image.fromarray(patterns[0]).resize((120, 120)).save(tmp_path / "copy.png")  # of row 0, in the test set
    table = read_table_of(tmp_path, [*rows, ("copy.png", "a", "test")])
    folds = Folds(("1", "2"), np.array([[n % 4 // 2 if n < 8 else -1 for n in range(13)]]), "by hand")
    sentences = audit_in_words(table, folds)
    assert sentences[0] == "1 error, 1 warning; all cases: softfree check"
    assert sentences[1] == "error: 1 pair of nearly identical images in several splits; scores are optimistic"
    assert "no patient_id" in sentences[2]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("softfree.study.inspection.MAX_AUDITED", 12)
        assert audit_in_words(table, folds) == ["not audited, because of more than 12 samples; see: softfree check"]


def smooth_noise(rng: np.random.Generator) -> np.ndarray:
    """Smooth random shades, uint8 (160, 160)."""
    coarse = Image.fromarray(rng.integers(0, 255, (9, 9), dtype=np.uint8))
    return np.asarray(coarse.resize((160, 160), Image.Resampling.BICUBIC))


def read_table_of(folder: Path, rows: list[tuple[str, str, str]]) -> Table:
    frame = pd.DataFrame(rows, columns=["path", "label", "split"])
    frame.to_csv(folder / "table.csv", index=False)
    return read_table(folder / "table.csv")
