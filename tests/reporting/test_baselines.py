"""What a size and a small copy tell, fitted beside a model."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from softfree.data.modalities.bag import BagPreprocessing
from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.modalities.slide import SlidePreprocessing
from softfree.data.modalities.volume import VolumePreprocessing
from softfree.data.reduced import MAX_ROWS, Reduced, drawn
from softfree.data.table import Table
from softfree.reporting.baselines import MAX_CLASSES, BaselinePredictions, column_of, fit_baselines, read_baselines
from softfree_runtime.core.task import Task

STEPS = ImagePreprocessing.create("photo", 64, "pad")
BINARY = Task("binary", ("no", "yes"))


def table(targets: np.ndarray, task: Task = BINARY) -> Table:
    frame = pd.DataFrame({"split": ["train"] * len(targets)})
    return Table(frame, task, np.asarray(targets), Path("/"), None)


def collected(sizes, samples, preprocessing=STEPS, copies=None) -> Reduced:
    reduced = Reduced(len(sizes), preprocessing, np.arange(len(sizes)) if copies is None else copies)
    for index, (size, sample) in enumerate(zip(sizes, samples, strict=True)):
        reduced(index, sample, size)
    return reduced


def fitted(make, targets, task=BINARY, preprocessing=STEPS):
    """Baselines fitted on samples that ``make`` gives for each target, and those of as many others."""
    parts = {name: [make(target, seed) for seed, target in enumerate(targets, start)] for name, start in SEEDS.items()}
    reduced = {name: collected(*zip(*part, strict=True), preprocessing=preprocessing) for name, part in parts.items()}
    whole = table(targets, task)
    return fit_baselines({"train": whole, "val": whole}, reduced, preprocessing.kind), reduced["val"]


SEEDS = {"train": 0, "val": 1000}


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def test_an_archive_of_its_own_size_is_told_by_the_size_alone():
    """Neither larger nor smaller: a line through the sizes would not tell it."""

    def make(target: int, seed: int):
        return (500, 512 if target else (400, 600)[seed % 4 // 2]), noise(seed, 3, 64, 64)

    targets = np.arange(80) % 2
    baselines, held = fitted(make, targets)
    chances = baselines.fitted["size"].probabilities(held.sizes, BINARY)
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    assert roc_auc_score(targets, chances[:, 1]) == 1
    assert baselines.fitted["size"].words == "height, width and aspect ratio alone"


def test_what_32_pixels_show_is_told_by_them_and_not_by_the_size():
    def make(target: int, seed: int):
        sample = noise(seed, 3, 64, 64)
        sample[:, :20] += 2.0 * target
        return (300, 300 + seed % 7), sample

    targets = np.arange(120) % 2
    baselines, held = fitted(make, targets)
    small = np.stack([held.copies[index] for index in range(120)])
    assert small.shape == (120, 3 * 32 * 32)
    assert roc_auc_score(targets, baselines.fitted["copy"].probabilities(small, BINARY)[:, 1]) > 0.95
    assert roc_auc_score(targets, baselines.fitted["size"].probabilities(held.sizes, BINARY)[:, 1]) < 0.7


def test_several_classes():
    task = Task("multiclass", ("a", "b", "c"))

    def make(target: int, seed: int):
        return ((100, 200, 400)[target], 200), noise(seed, 3, 64, 64) + target

    targets = np.arange(90) % 3
    baselines, held = fitted(make, targets, task)
    chances = baselines.fitted["size"].probabilities(held.sizes, task)
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    assert (chances.argmax(axis=1) == targets).all()


def test_findings_that_are_unknown_are_left_out_and_one_without_a_case_has_its_share():
    task = Task("multilabel", ("x", "y", "never"))
    targets = np.full((60, 3), np.nan, np.float32)
    targets[:, 0] = np.arange(60) % 2
    targets[:20, 1] = np.arange(20) // 10
    targets[:, 2] = 0

    def make(target: np.ndarray, seed: int):
        return (200 + 100 * int(target[0]), 300 + 50 * int(target[1] == 1)), noise(seed, 3, 64, 64)

    baselines, held = fitted(make, targets, task)
    chances = baselines.fitted["size"].probabilities(held.sizes, task)
    assert roc_auc_score(targets[:, 0], chances[:, 0]) == 1
    assert roc_auc_score(targets[:20, 1], chances[:20, 1]) == 1
    assert (chances[:, 2] < 0.05).all()


def test_what_cannot_be_fitted_is_said():
    baselines, _ = fitted(lambda target, seed: ((200, 200), noise(seed, 3, 64, 64)), np.arange(20) % 2)
    assert "size" not in baselines.fitted
    assert baselines.missing == ("none on the size alone: all training samples have one size",)
    slides = SlidePreprocessing(4.0)
    baselines, _ = fitted(
        lambda target, seed: ((200, 200 + seed), noise(seed, 3, 8, 8)), np.arange(20) % 2, BINARY, slides
    )
    assert list(baselines.fitted) == ["size"]
    assert baselines.missing == ("none on a small copy: slides have none",)
    many = Task("multiclass", tuple(map(str, range(MAX_CLASSES + 1))))
    assert not fit_baselines({"train": table(np.zeros(3), many), "val": table(np.zeros(3), many)}, {}, "image").fitted


def test_they_are_the_same_once_written_and_damage_is_as_none(tmp_path):
    targets = np.arange(40) % 2
    baselines, held = fitted(lambda target, seed: ((200 + 9 * target, 150), noise(seed, 3, 64, 64)), targets)
    path = tmp_path / "baselines.safetensors"
    baselines.write(path)
    again = read_baselines(path)
    assert again is not None
    assert again.missing == baselines.missing
    for name, numbers in (("size", held.sizes), ("copy", np.stack([held.copies[index] for index in range(40)]))):
        assert again.fitted[name].words == baselines.fitted[name].words
        np.testing.assert_array_equal(
            again.fitted[name].probabilities(numbers, BINARY), baselines.fitted[name].probabilities(numbers, BINARY)
        )
    path.write_bytes(path.read_bytes()[:50])
    assert read_baselines(path) is None
    assert read_baselines(tmp_path / "elsewhere") is None


def test_samples_that_are_not_read_at_once_have_no_answer():
    targets = np.arange(40) % 2
    baselines, _ = fitted(lambda target, seed: ((200 + 9 * target, 150), noise(seed, 3, 64, 64)), targets)
    beside = BaselinePredictions(baselines, BINARY, STEPS, 3)
    sample = noise(0, 3, 64, 64)
    beside(1, sample, (209, 150))
    result = beside.columns()
    assert list(result) == [column_of(name, one) for name in ("size", "copy") for one in BINARY.classes]
    assert result.notna().all(axis=1).tolist() == [False, True, False]
    expected = baselines.fitted["copy"].probabilities(STEPS.small_copy(sample)[None], BINARY)[0, 1]
    assert result["baseline_copy_yes"][1] == pytest.approx(expected)
    assert result["baseline_size_yes"][1] > 0.5


def test_rows_are_drawn_where_there_are_many():
    assert drawn(30, seed=0).tolist() == list(range(30))
    indices = drawn(3 * MAX_ROWS, seed=0)
    assert len(set(indices.tolist())) == MAX_ROWS
    assert indices.max() > 2 * MAX_ROWS
    assert (indices == drawn(3 * MAX_ROWS, seed=0)).all()
    assert (indices != drawn(3 * MAX_ROWS, seed=1)).any()
    kept = collected([(8, 8)] * 4, [noise(seed, 3, 64, 64) for seed in range(4)], copies=np.array([1, 3]))
    assert sorted(kept.copies) == [1, 3]


def test_each_kind_is_reduced_as_its_name_says():
    volume = torch.arange(24**3, dtype=torch.float32).reshape(1, 24, 24, 24)
    preprocessing = VolumePreprocessing.create("mr", (24, 24, 24))
    small = preprocessing.small_copy(volume)
    assert small.shape == (12**3,)
    assert small[0] == volume[0, :2, :2, :2].mean()
    bag = torch.cat([torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.full((2, 3), 99.0)], dim=1)
    assert BagPreprocessing(2).small_copy(bag).tolist() == [2.0, 4.0]


@pytest.mark.parametrize("resize_mode", ["pad", "stretch", "crop", "native"])
def test_a_training_sample_of_its_own_size_is_reduced_as_an_evaluated_one(resize_mode):
    """With --auto-augment, training samples are whole."""
    rng = np.random.default_rng(0)
    from softfree.data.modalities.image import resize
    from softfree.data.modalities.image_augmentation import whole
    from softfree_runtime.readers import DecodedImage

    pixels = resize(rng.random((9, 14, 3), dtype=np.float32), 192)[:, :96]
    image = DecodedImage(pixels, 0, 1, None, (), "")
    preprocessing = ImagePreprocessing.create("photo", 64, resize_mode)
    one, other = (
        preprocessing.small_copy(torch.from_numpy(prepare(image))) for prepare in (preprocessing, whole(preprocessing))
    )
    assert one.shape == other.shape == (3 * 32 * 32,)
    assert np.abs(one - other).mean() < 0.1 * np.abs(one).mean()
