"""Copies of an image are found through whatever became of them; images that are only alike are not."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from softfree.cli.main import main
from softfree.data.audit.audit import audit
from softfree.data.audit.checks import find_near_duplicates, near_notes, near_pairs
from softfree.data.audit.near_duplicates import MAX_IMAGES, SIDE, find_pairs, thumbnail
from softfree.data.audit.probe import Probe
from softfree.data.folds import assign_folds, folds_of, write_folds
from softfree.data.table import Table, read_table
from softfree_runtime.core.task import Task


def scene(seed: int) -> Image.Image:
    """An image of structures of several sizes, all on the same background, as films of one device are."""
    rng, x = np.random.default_rng(seed), np.linspace(-1, 1, 160)
    shared = np.exp(-2 * (x[:, None] ** 2 + x[None] ** 2))
    own = sum(
        np.asarray(Image.fromarray(rng.normal(size=(side, side)).astype(np.float32)).resize((160, 160), 3)) / side**0.3
        for side in (6, 12, 25, 50)
    )
    return Image.fromarray((90 + 100 * shared + 12 * own).clip(0, 255).astype(np.uint8))


def noisy(image: Image.Image) -> Image.Image:
    noise = np.random.default_rng(9).normal(0, 6, (image.height, image.width))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def as_jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=50)
    return Image.open(stream)


COPIES = {
    "noise": noisy,
    "JPEG": as_jpeg,
    "brighter": lambda image: image.point(lambda value: min(255, int(1.1 * value + 5))),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX),
    "twice the size": lambda image: image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC),
    "of color": lambda image: image.convert("RGB"),
    "moved by a pixel": lambda image: image.transform(image.size, Image.Transform.AFFINE, (1, 0, 1, 0, 1, 0)),
    "cropped": lambda image: image.crop((3, 3, image.width - 3, image.height - 3)),
    "less contrast": lambda image: image.point(lambda value: 60 + value // 2),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
}


def small(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return thumbnail(pixels if pixels.ndim == 3 else pixels[..., None], 0, 255)


@pytest.fixture(scope="module")
def others() -> list[np.ndarray]:
    return [small(scene(seed)) for seed in range(40)]


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_found_and_nothing_else(name, others):
    (pair,) = find_pairs(np.stack([*others, small(COPIES[name](scene(7)))]))
    assert pair[:2] == (7, 40)
    assert 1 - 48 / 256 <= pair.similarity <= 1.001


def test_distinct_images_have_no_pair(others):
    assert find_pairs(np.stack(others)) == []


def test_two_images_are_enough(others):
    assert [pair[:2] for pair in find_pairs(np.stack([others[0], small(noisy(scene(0)))]))] == [(0, 1)]
    assert find_pairs(np.stack(others[:2])) == []
    assert find_pairs(np.zeros((0, SIDE, SIDE), np.uint8)) == []


def test_where_every_image_has_a_copy_all_are_found(others):
    pairs = find_pairs(np.stack([*others[:12], *(small(noisy(scene(seed))) for seed in range(12))]))
    assert {pair[:2] for pair in pairs} == {(seed, seed + 12) for seed in range(12)}


def test_images_of_one_value_are_no_pair():
    blank = thumbnail(np.full((30, 40, 1), 7, np.uint8), 0, 255)
    assert not blank.any()
    assert find_pairs(np.stack([blank, blank])) == []


def test_a_set_whose_images_are_all_alike_asks_for_more():
    """Eyes of one camera: each differs from the others by a little, and a copy by less."""
    rng = np.random.default_rng(0)
    base = np.asarray(scene(0), float)
    eyes = [base + 0.35 * (np.asarray(scene(seed), float) - base) for seed in range(1, 31)]
    eyes.append(eyes[3] + rng.normal(0, 1, base.shape))
    pairs = find_pairs(np.stack([thumbnail(eye[..., None]) for eye in eyes]))
    assert [pair[:2] for pair in pairs] == [(3, 30)]


def test_more_images_than_a_block_holds():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2100, SIDE, SIDE), dtype=np.uint8)
    images[2050], images[2060] = images[3], images[2010]
    assert [pair[:2] for pair in find_pairs(images)] == [(3, 2050), (2010, 2060)]


def test_large_images_are_thinned_and_what_lies_beyond_the_window_is_cut():
    rng = np.random.default_rng(0)
    large = np.kron(rng.integers(0, 200, (64, 64)), np.ones((20, 20))).astype(np.int16)[..., None]
    beyond = np.where(large < 20, -3000, large)
    pair = find_pairs(np.stack([thumbnail(large, 20, 200), thumbnail(beyond, 20, 200)]))
    assert pair[0].similarity == pytest.approx(1)


@pytest.fixture
def folder(tmp_path):
    """Twelve images of as many patients, and copies: across splits, with another label, and one that does no harm."""
    rows = []
    for seed in range(12):
        scene(seed).save(tmp_path / f"{seed}.png")
        rows.append((f"{seed}.png", "ab"[seed % 2], ("train", "val", "test")[seed // 4]))
    as_jpeg(scene(0)).save(tmp_path / "jpeg.png")
    noisy(scene(1)).save(tmp_path / "noise.png")
    noisy(scene(2)).save(tmp_path / "same.png")
    rows += [("jpeg.png", "a", "test"), ("noise.png", "a", "train"), ("same.png", "a", "train")]
    pd.DataFrame(rows, columns=["path", "label", "split"]).assign(patient_id=range(15)).to_csv(
        tmp_path / "table.csv", index=False
    )
    return tmp_path


def test_check_names_them(folder):
    report = audit(read_table(folder / "table.csv"), progress=False)
    near = {problem.kind: problem for problem in report.problems if problem.kind.startswith("near_dup")}
    across = near.pop("near_duplicate_across_splits")
    assert (across.severity, across.rows) == ("error", (0, 12))
    assert across.message == "1 pair of nearly identical images in several splits; scores are optimistic"
    assert across.details[0].startswith("0.png (train) ~ jpeg.png (test): 9")
    assert across.details[0].endswith(" % alike") or across.details[0].endswith("% alike")
    unlike = near.pop("near_duplicate_other_label")
    assert (unlike.severity, unlike.rows) == ("error", (1, 13))
    assert not near
    (note,) = (note for note in report.notes if "nearly identical" in note)
    assert note == "1 pair of nearly identical images in the same split with the same label: 2.png ~ same.png"


def test_pairs_across_folds_are_named_and_written(folder, tmp_path, capsys):
    table = folder / "table.csv"
    rows = pd.read_csv(table)
    rows.assign(fold=[*range(12), 0, 5, 2], split="train").to_csv(table, index=False)
    out = tmp_path / "pairs.csv"
    assert main(["check", str(table), "--no-progress", "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "1 pair of nearly identical images in several folds; the cross-validation is optimistic" in printed
    assert "1.png (fold 1) ~ noise.png (fold 5):" in printed
    pairs = pd.read_csv(out)
    assert pairs.columns.tolist() == [
        "row_a", "split_a", "fold_a", "row_b", "split_b", "fold_b", "same_label", "similarity",
    ]  # fmt: skip
    by_row = pairs.set_index("row_a")
    assert by_row["row_b"].to_dict() == {0: 12, 1: 13, 2: 14}
    assert by_row["fold_b"].to_dict() == {0: 0, 1: 5, 2: 2}
    assert by_row["same_label"].to_dict() == {0: True, 1: False, 2: True}
    assert main(["check", str(table), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["near_duplicates"] == (
        pairs.astype({"fold_a": str, "fold_b": str}).to_dict("records")
    )
    assert main(["check", str(table), "--no-progress", "--out", str(tmp_path / "pairs.txt")]) == 2
    assert "expected a name that ends in .csv" in capsys.readouterr().err


def test_the_folds_of_a_study_are_known_to_check(folder, tmp_path, capsys):
    rows = pd.read_csv(folder / "table.csv").drop(columns="split")
    rows.to_csv(folder / "table.csv", index=False)
    table = read_table(folder / "table.csv", val_fraction=0.0, test_fraction=1.0)
    draws = (assign_folds(table, 3, seed=seed) for seed in range(20))
    folds = next(draw for draw in draws if draw.numbers[0][0] != draw.numbers[0][12])
    write_folds(tmp_path / "folds.json", table, folds)
    names = [folds.names[number] for number in folds.numbers[0]]
    assert folds_of(table, tmp_path / "folds.json") == names
    assert main(["check", str(folder / "table.csv"), "--no-progress", "--fold-file", str(tmp_path / "folds.json")]) == 1
    assert f"0.png (fold {names[0]}) ~ jpeg.png (fold {names[12]})" in capsys.readouterr().out
    other = folder / "other.csv"
    rows.assign(patient_id=[f"x{row}" for row in range(15)]).to_csv(other, index=False)
    assert main(["check", str(other), "--no-progress", "--fold-file", str(tmp_path / "folds.json")]) == 2
    assert "was made for another table" in capsys.readouterr().err


def test_what_is_equal_to_the_pixel_is_named_once():
    image = small(scene(0))
    frame = pd.DataFrame([Probe("ok", "", pixel_digest=b"x", thumbnail=image)] * 2 + [Probe("corrupt", "cut")])
    assert near_pairs(frame) == []
    frame["pixel_digest"] = [b"x", b"y", b""]
    assert [pair[:2] for pair in near_pairs(frame)] == [(0, 1)]


def test_beyond_a_number_it_says_that_none_are_looked_for():
    frame = pd.DataFrame({"split": ["train"] * (MAX_IMAGES + 1)})
    table = Table(frame, Task("binary", ("a", "b")), np.zeros(MAX_IMAGES + 1), "/", None)
    assert near_notes(table, []) == ("nearly identical images are only searched for among up to 50,000 images",)
    assert list(find_near_duplicates(table, [])) == []


@pytest.mark.parametrize("name", ["chest_xray", "blood_cells"])
def test_real_images_that_are_only_alike_are_not_reported(shared_data, name):
    from softfree_runtime.readers import read_image

    paths = pd.read_csv(shared_data / name / "manifest.csv")["path"][::3]
    images = (read_image(shared_data / name / path) for path in paths)
    assert find_pairs(np.stack([thumbnail(one.pixels, one.low, one.high) for one in images])) == []


def test_real_images_that_were_cropped_are_reported(shared_data):
    """Which the correlation of fine structure, used before, did not find."""
    folder = shared_data / "blood_cells"
    images = [Image.open(folder / path).convert("RGB") for path in pd.read_csv(folder / "manifest.csv")["path"][:60]]
    cut = [image.crop((7, 7, image.width - 7, image.height - 7)) for image in images[:20]]  # 2 % of each side
    pairs = find_pairs(np.stack([small(image) for image in (*images, *cut)]))
    found = {pair[:2] for pair in pairs}
    assert len(found & {(number, 60 + number) for number in range(20)}) >= 15
    assert found <= {(number, 60 + number) for number in range(20)}


def test_real_copies_are_reported(shared_data):
    from softfree_runtime.readers import read_image

    manifest = pd.read_csv(shared_data / "dermoscopy" / "manifest.csv")
    twins = ("ISIC_0012290", "ISIC_0013594", "ISIC_0012756", "ISIC_0013184")
    paths = [*manifest["path"][:60], *(f"images/{name}.jpg" for name in twins)]
    images = (read_image(shared_data / "dermoscopy" / path) for path in paths)
    pairs = find_pairs(np.stack([thumbnail(one.pixels, one.low, one.high) for one in images]))
    assert {pair[:2] for pair in pairs} == {(60, 61), (62, 63)}
