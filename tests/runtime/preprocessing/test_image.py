"""The reference in numpy gives what the run's own preprocessing gives."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from softfree.data.modalities.image import ImagePreprocessing
from softfree.deployment.card import numpy_image_preprocessing
from softfree_runtime.preprocessing.image import NumpyImagePreprocessing, resize
from softfree_runtime.readers import DecodedImage, read_image

CASES = list(product(("radiograph", "photo", "microscopy"), ("pad", "stretch", "crop", "native"), (1, 3)))


def same(image: DecodedImage, size: int, preset: str, resize_mode: str, channels: int) -> None:
    preprocessing = ImagePreprocessing(preset, size, resize_mode, channels)  # type: ignore[arg-type]
    light = NumpyImagePreprocessing.from_dict(
        json.loads(json.dumps(numpy_image_preprocessing(preprocessing).to_dict()))
    )
    expected, found = preprocessing(image), light(image)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-4


@pytest.mark.parametrize(("preset", "resize_mode", "channels"), CASES)
@pytest.mark.parametrize("shape", [(61, 40, 1), (30, 47, 3), (1, 90, 3), (90, 1, 3), (90, 2, 1)])
def test_equals_preprocessing(shape: tuple[int, int, int], preset: str, resize_mode: str, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, shape, dtype=np.uint16)
    same(DecodedImage(pixels, 100.0, 3000.0, None, (), ""), 33, preset, resize_mode, channels)


@pytest.mark.parametrize("resize_mode", ["pad", "stretch", "crop", "native"])
@pytest.mark.parametrize("spacing", [(0.2, 0.1), (0.1, 0.35)])
def test_pixels_that_are_not_square(spacing: tuple[float, float], resize_mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 33, 1), dtype=np.uint8)
    same(DecodedImage(pixels, 0.0, 255.0, spacing, (), ""), 33, "photo", resize_mode, 1)


def test_a_blank_image_stays_finite() -> None:
    same(DecodedImage(np.full((20, 30, 1), 7, np.uint8), 0.0, 255.0, None, (), ""), 16, "radiograph", "pad", 1)


@pytest.mark.parametrize("name", ["chest_xray", "blood_cells"])
def test_equals_preprocessing_on_real_images(shared_data: Path, name: str) -> None:
    file = sorted((shared_data / name / "images").rglob("*.jp*g"))[7]
    for preset, resize_mode, size in (
        ("radiograph", "crop", 512),
        ("photo", "stretch", 645),
        ("microscopy", "pad", 128),
    ):
        same(read_image(file), size, preset, resize_mode, 1 if preset == "radiograph" else 3)


@pytest.mark.parametrize("change", [{"resize_mode": "round"}, {"channels": 2}, {"mean": 3}, {"size": "big"}])
def test_refuses_what_is_none_of_ours(change: dict) -> None:
    with pytest.raises((ValueError, TypeError)):
        NumpyImagePreprocessing.from_dict(NumpyImagePreprocessing(32, "pad", 1, (0.5,), (0.25,)).to_dict() | change)


@pytest.mark.parametrize(
    ("old", "new"),
    [((50, 40), (50, 40)), ((50, 41), (17, 90)), ((7, 5), (1, 1)), ((1, 1), (4, 3)), ((976, 300), (645, 128))],
)
def test_equals_torch(old: tuple[int, int], new: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).random((3, *old), dtype=np.float32)
    expected = F.interpolate(torch.from_numpy(pixels)[None], new, mode="bilinear", antialias=True)[0].numpy()
    result = resize(pixels, *new)
    assert result.shape == expected.shape
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=2e-6)
