import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from softfree.data.table import read_table
from softfree.demo.phantoms import BLURRED, CLASSES, SHARP, draw_phantom, write_phantoms


@pytest.fixture(scope="module")
def phantoms():
    """80 phantoms with their truth."""
    truth = np.arange(80) % 2
    return [draw_phantom(np.random.default_rng((7, n)), calcified=bool(k)) for n, k in enumerate(truth)], truth


def area(values, truth) -> float:
    result = roc_auc_score(truth, values)
    return max(result, 1 - result)


def sharpness(pixels: np.ndarray) -> float:
    """Highest local density of sharp specks: a difference of Gaussians, counted over the size of a cluster."""
    image = pixels.astype(np.float32) / 255
    edges = ndimage.gaussian_filter(image, SHARP) - ndimage.gaussian_filter(image, BLURRED)
    return float(ndimage.uniform_filter((edges > 0.08).astype(np.float32), 60).max())


def blur(image: np.ndarray) -> np.ndarray:
    """Nearly a Gaussian of 8 pixels."""
    for _ in range(3):
        image = ndimage.uniform_filter(image, 16)
    return image


def test_the_finding_is_in_the_finest_detail(phantoms):
    images, truth = phantoms
    assert area([sharpness(p.pixels) for p in images], truth) > 0.98
    blurred = [blur(p.pixels.astype(np.float32)) for p in images]
    assert area([sharpness(b) for b in blurred], truth) < 0.7


@pytest.mark.parametrize(
    "feature",
    [np.mean, np.max, np.median, lambda p: np.percentile(p, 99)],
    ids=["mean", "max", "median", "99th percentile"],
)
def test_a_trivial_feature_does_not_tell_the_class(phantoms, feature):
    images, truth = phantoms
    assert area([float(feature(p.pixels)) for p in images], truth) < 0.7


def test_the_files_are_marked_balanced_and_equal_for_equal_seeds(tmp_path):
    first = write_phantoms(tmp_path / "a", n_train=8, n_val=4, n_test=4, size=128)
    again = write_phantoms(tmp_path / "b", n_train=8, n_val=4, n_test=4, size=128)
    other = write_phantoms(tmp_path / "c", n_train=8, n_val=4, n_test=4, size=128, seed=1)
    assert first.read_bytes() == again.read_bytes()
    one = "phantom_0003.png"
    assert (tmp_path / "a" / one).read_bytes() == (tmp_path / "b" / one).read_bytes()
    assert (tmp_path / "a" / one).read_bytes() != (other.parent / one).read_bytes()
    with Image.open(tmp_path / "a" / one) as image:
        assert "phantoms: computed" in image.info["Description"]
        assert image.size == (128, 128)
    rows = pd.read_csv(first)
    assert (rows["phantom"] == "yes").all()
    assert rows.groupby(["split", "label"], sort=False).size().tolist() == [4, 4, 2, 2, 2, 2]
    table = read_table(first)
    assert table.task.classes == tuple(sorted(CLASSES))
    assert table.frame["patient"].nunique() == 8
