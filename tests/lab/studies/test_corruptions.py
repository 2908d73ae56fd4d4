import functools
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from torchvision.transforms import v2

from softfree_lab.studies.corruptions import CORRUPTIONS, LEVELS, STRENGTHS, UNITS, _array, _tensor
from softfree_lab.studies.options import RobustnessOptions


@functools.cache
def image(side: int = 256, channels: int = 3) -> np.ndarray:
    """Smooth structure of many sizes."""
    noise = np.random.default_rng(0).standard_normal((side, side, channels))
    smooth = sum(gaussian_filter(noise, (s, s, 0)) * s for s in (side / 64, side / 16, side / 4))
    return np.clip(0.5 + 0.1 * smooth / smooth.std(), 0, 1).astype(np.float32)


def corrupted(pixels: np.ndarray, name: str, strength: int, seed: int = 0) -> np.ndarray:
    return CORRUPTIONS[name](pixels, strength, np.random.default_rng(seed))


def reduced(pixels: np.ndarray, side: int = 64) -> np.ndarray:
    return _array(v2.functional.resize(_tensor(pixels), [side, side], antialias=True))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(40, 300, 1), (300, 250, 3), (3, 5, 3), (1, 1, 1)])
def test_pixels_stay_pixels_and_the_image_is_left_alone(name, shape):
    pixels = np.random.default_rng(0).random(shape, dtype=np.float32)
    before = pixels.copy()
    for strength in STRENGTHS:
        result = corrupted(pixels, name, strength)
        assert result.dtype == np.float32
        assert result.min() >= 0
        assert result.max() <= 1
        if name != "crop":
            assert result.shape == shape
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_stronger_does_more(name, channels):
    pixels = image(500, channels)
    harm = [np.abs(reduced(corrupted(pixels, name, s), 500) - pixels).mean() for s in STRENGTHS]
    assert np.all(np.diff(harm) > 0)
    assert harm[0] > 0


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "jpeg"])
@pytest.mark.parametrize("strength", [3, 5])
def test_a_strength_does_the_same_to_a_large_and_a_small_copy(name, strength):
    large = image(512)
    small = reduced(large, 128)
    results = [reduced(corrupted(pixels, name, strength)) for pixels in (large, small)]
    harm = [np.abs(result - reduced(one)).mean() for result, one in zip(results, (large, small), strict=True)]
    # Resampling alone makes some difference; noise of single pixels would make one of 1.4 times the harm.
    assert harm[0] == pytest.approx(harm[1], rel=0.35)
    assert np.abs(results[0] - results[1]).mean() < 0.6 * harm[0]


def test_noise_has_its_deviation_and_is_gray():
    gray = np.full((448, 448, 3), 0.5, np.float32)
    added = corrupted(gray, "noise", 3) - 0.5
    assert added.std() == pytest.approx(0.08, rel=0.02)
    assert np.ptp(added, axis=2).max() == 0, "no color"


def test_noise_is_the_same_at_all_strengths_and_another_for_another_image():
    gray = np.full((300, 300, 1), 0.5, np.float32)
    weak, strong, other = (corrupted(gray, "noise", s, seed) - 0.5 for s, seed in ((1, 0), (2, 0), (1, 1)))
    np.testing.assert_allclose(strong, 2 * weak, atol=1e-6)
    assert abs(np.corrcoef(weak.ravel(), other.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name != "crop"])
def test_only_jpeg_rounds_to_8_bits(name):
    ramp = np.linspace(0, 1, 300 * 300, dtype=np.float32).reshape(300, 300, 1)
    values = len(np.unique(corrupted(ramp, name, 1)))
    assert values <= 256 if name == "jpeg" else values > 1000


def test_crop_keeps_the_center():
    pixels = np.zeros((100, 60, 1), np.float32)
    pixels[25:75, 15:45] = 1
    result = corrupted(pixels, "crop", 5)
    assert result.shape == (50, 30, 1)
    assert result.all()


def test_a_coarse_image_loses_no_more_resolution():
    pixels = image(64)
    np.testing.assert_array_equal(corrupted(pixels, "resolution", 3), pixels)
    assert not np.array_equal(corrupted(pixels, "resolution", 4), pixels)


@pytest.mark.parametrize("strength", [0, 6, -1])
def test_other_strengths_do_not_exist(strength):
    with pytest.raises(KeyError):
        corrupted(image(32), "contrast", strength)


def test_all_are_listed_and_documented_as_they_are():
    assert list(CORRUPTIONS) == list(LEVELS) == list(UNITS) == RobustnessOptions().corruptions
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "robustness.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|.*?\|((?: [\d.]+ \|){5})$", page, flags=re.M)
    assert {name: tuple(map(float, re.findall(r"[\d.]+", cells))) for name, cells in rows} == LEVELS
