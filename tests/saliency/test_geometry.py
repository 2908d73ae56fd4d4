"""A bright square's map must land on the square, whatever was done to the image, volume or slide before."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from softfree.core.options import ResizeMode
from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.modalities.slide import SlidePreprocessing
from softfree.data.modalities.volume import VolumePreprocessing
from softfree.data.slide_readers.slide import open_slide
from softfree.saliency.geometry import TokenGrid
from softfree.saliency.regions import find_regions
from softfree.saliency.samples.image import image_token_grid
from softfree.saliency.samples.slide import slide_token_grid
from softfree.saliency.samples.volume import volume_token_grid
from softfree_runtime.readers.image import DecodedImage
from softfree_runtime.readers.volume import Volume


def overlap(found: np.ndarray, wanted: np.ndarray) -> float:
    """Intersection over union."""
    return float((found & wanted).sum() / (found | wanted).sum())


@pytest.mark.parametrize("size", [96, 90])
@pytest.mark.parametrize("spacing", [(0.1, 0.1), (0.2, 0.1), (0.1, 0.15)])
@pytest.mark.parametrize("shape", [(240, 160), (150, 230), (70, 61)])
@pytest.mark.parametrize("resize_mode", get_args(ResizeMode))
def test_a_bright_square_is_found_in_the_image(
    resize_mode: ResizeMode, shape: tuple[int, int], spacing: tuple[float, float], size: int
) -> None:
    height, width = shape
    square = np.zeros(shape, bool)
    square[int(0.5 * height) : int(0.75 * height), int(0.3 * width) : int(0.6 * width)] = True
    image = DecodedImage(np.where(square, 255, 40).astype(np.uint8)[..., None], 0, 255, spacing, (), "")
    preprocessing = ImagePreprocessing.create("radiograph", size, resize_mode)
    prepared = torch.from_numpy(preprocessing(image))
    prepared = F.pad(prepared, (0, -prepared.shape[2] % 4, 0, -prepared.shape[1] % 4), value=float(prepared.min()))
    tokens = F.avg_pool2d(prepared, 4)[0].numpy()
    token_grid = image_token_grid(preprocessing, image, 4)
    spread = token_grid.spread(tokens)
    bright = np.nan_to_num(spread, nan=-9) > tokens.min() + 0.5 * np.ptp(tokens)
    assert spread.shape == shape
    square &= ~np.isnan(spread)  # what is left of it by --resize-mode crop
    assert overlap(bright, square) > 0.7
    # Tokens that the square covers in part count in part.
    parts = (np.nan_to_num(spread, nan=-9.0) - tokens.min()) / np.ptp(tokens)
    parts[parts < 0.2] = 0
    center = [float((np.indices(shape)[axis] * parts).sum() / parts.sum()) for axis in (0, 1)]
    true_rows, true_columns = np.nonzero(square)
    patch = max(token_grid.step)
    assert center == pytest.approx([true_rows.mean(), true_columns.mean()], abs=0.2 * patch)
    region = find_regions(tokens - (tokens.min() + 0.5 * np.ptp(tokens)), token_grid, 0.0)[0].to_dict(token_grid)
    assert region["center_px"] == pytest.approx([true_columns.mean() + 0.5, true_rows.mean() + 0.5], abs=0.6 * patch)
    x, y = region["center_px"]  # type: ignore[misc]
    assert region["center_mm"] == pytest.approx([spacing[1] * x, spacing[0] * y], abs=1e-3)


def test_what_was_cropped_has_no_value() -> None:
    image = DecodedImage(np.zeros((100, 300, 1), np.uint8), 0, 255, None, (), "")
    spread = image_token_grid(ImagePreprocessing.create("radiograph", 50, "crop"), image, 16).spread(np.ones((4, 4)))
    known = ~np.isnan(spread)
    assert known[:, 100:200].all()
    assert not known[:, :100].any()
    assert not known[:, 200:].any()


@pytest.mark.parametrize("spacing", [None, (2.0, 1.5, 1.5)])
def test_a_bright_block_is_found_in_the_volume(spacing: tuple[float, float, float] | None) -> None:
    voxels = np.zeros((1, 20, 40, 36), np.float32)
    voxels[:, 8:14, 12:24, 6:18] = 1
    affine = np.array([[0, 0, 1.0, -10], [0, 1.0, 0, 20], [3.0, 0, 0, -5], [0, 0, 0, 1]])
    volume = Volume(voxels, (3.0, 1.0, 1.0), affine, 0, 1, (), "")
    preprocessing = VolumePreprocessing.create("ct", (32, 32, 24), spacing, window=(0, 1))
    tokens = F.avg_pool3d(torch.from_numpy(preprocessing(volume)), 2)[0].numpy()
    token_grid = volume_token_grid(preprocessing, volume, (2, 2, 2))
    spread = token_grid.spread(tokens)
    bright = np.nan_to_num(spread, nan=-9) > 0
    assert spread.shape == (20, 40, 36)
    assert overlap(bright, voxels[0] > 0) > 0.6
    (region, *_) = find_regions(tokens, token_grid, 0.0)
    center = region.to_dict(token_grid)
    assert center["center_px"] == pytest.approx([12, 18, 11], abs=1.0)
    assert center["center_mm"] == pytest.approx([-10 + 11.5, 20 + 17.5, -5 + 3 * 10.5], abs=2.0)


def test_stained_tissue_is_found_on_level_0(shared_data) -> None:
    path = shared_data / "wsi" / "CMU-1-Small-Region.svs"
    for tissue in (False, True):
        preprocessing = SlidePreprocessing.create(8.0, tissue=tissue)
        prepared = torch.from_numpy(preprocessing.load(str(path)))
        dark = -F.avg_pool2d(prepared.mean(0)[None, None], 4, ceil_mode=True)[0, 0].numpy()
        with open_slide(path) as slide:
            token_grid = slide_token_grid(slide, preprocessing.region(slide), 8.0, 4)
            whole = -slide.read(0, 0, slide.size[0] // 4, slide.size[1] // 4, slide.mpp[0] * 4).mean(2)
        small = replace(token_grid, shape=whole.shape, start=tuple(one / 4 for one in token_grid.start),
                        step=tuple(one / 4 for one in token_grid.step),
                        visible=tuple((low / 4, high / 4) for low, high in token_grid.visible))  # fmt: skip
        spread = small.spread(dark)
        known = ~np.isnan(spread)
        assert known.mean() > 0.5
        there = np.corrcoef(spread[known], whole[known])[0, 1]
        moved = np.corrcoef(spread[known], np.roll(whole, (64, 64), (0, 1))[known])[0, 1]
        assert there > 0.6
        assert there > moved + 0.1


def test_regions_of_a_map_without_any() -> None:
    image = DecodedImage(np.zeros((64, 64, 1), np.uint8), 0, 255, None, (), "")
    token_grid = image_token_grid(ImagePreprocessing.create("radiograph", 64, "native"), image, 16)
    assert find_regions(np.full((4, 4), -1.0), token_grid) == []
    values = np.zeros((4, 4))
    values[0, 0], values[2:, 2], values[1, 1] = 3, 2, 1  # corners do not join
    result = find_regions(values, token_grid, 0.5)
    assert [region.total for region in result] == [4, 3, 1]
    assert result[0].to_dict(token_grid) == {
        "center_px": [40, 48], "size_px": [16, 32], "tokens": 2, "sum": 4, "peak": 2,
    }  # fmt: skip


def test_a_map_of_millions_has_its_greatest_regions() -> None:
    values = np.random.default_rng(0).normal(size=(1500, 1200))
    values[700:720, 30:33] += 9
    token_grid = TokenGrid((0.0, 0.0), (16.0, 16.0), ((0.0, 24000.0), (0.0, 19200.0)), (24000, 19200))
    result = find_regions(values, token_grid, most=50)
    assert len(result) == 50
    assert result[0].low == (pytest.approx(700 * 16, abs=48), pytest.approx(30 * 16, abs=48))
    assert result[0].corner == (round(result[0].low[0] / 16), round(result[0].low[1] / 16))
    whole = np.zeros(values.shape, bool)
    box = tuple(
        slice(start, start + side) for start, side in zip(result[0].corner, result[0].tokens.shape, strict=True)
    )
    whole[box] = result[0].tokens
    assert values[whole].sum() == pytest.approx(result[0].total)
    assert [one.total for one in result] == sorted((one.total for one in result), reverse=True)
