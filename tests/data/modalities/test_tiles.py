"""The grid of tiles."""

from pathlib import Path

import numpy as np
import pytest

from softfree.data.modalities.tiles import tile_centers
from softfree.data.modalities.tissue import Tissue, find_tissue
from softfree.data.slide_readers.slide import open_slide


def test_row_by_row_from_the_corner() -> None:
    got = tile_centers((1.0, 0.5), 500, 0.5)
    np.testing.assert_allclose(got, [[0.125 + x * 0.25, 0.125 + y * 0.25] for y in range(2) for x in range(4)])


@pytest.mark.parametrize(("size", "count"), [(0.999, 4), (1.001, 5), (0.001, 1), (3 * 0.1 + 0.7, 4)])
def test_the_grid_covers_the_slide_and_no_more(size: float, count: int) -> None:
    assert len(tile_centers((size, 0.1), 500, 0.5)) == count


def test_a_step_smaller_than_the_side_overlaps() -> None:
    got = tile_centers((1.0, 0.25), 500, 0.5, step=250)
    np.testing.assert_allclose(got[:8, 0], 0.125 + 0.125 * np.arange(8))


def test_only_tiles_with_enough_tissue() -> None:
    mask = np.zeros((4, 8), bool)
    mask[:2, :4] = True  # of tiles of 4 x 4 pixels: half of the first, none of the second
    mask[0, 4] = True
    tissue = Tissue(mask, 10.0)
    grid = (0.08, 0.04), 40, 1.0
    assert len(tile_centers(*grid, tissue=tissue, share=0.5)) == 1
    assert len(tile_centers(*grid, tissue=tissue, share=0.51)) == 0
    assert len(tile_centers(*grid, tissue=tissue, share=1 / 16)) == 2
    assert len(tile_centers(*grid, tissue=Tissue(mask & (np.arange(8) < 4), 10.0), share=0)) == 1


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "cptac-brca_15BR001_level.dcm"])
def test_real_slides_at_two_resolutions(shared_data: Path, name: str) -> None:
    slide = open_slide(shared_data / "wsi" / name)
    tissue = find_tissue(slide)
    fine, coarse = (tile_centers(slide.size_mm, 8, mpp, tissue=tissue) for mpp in (16, 32))
    assert len(fine) > 2 * len(coarse) > 0
    np.testing.assert_array_equal(fine, tile_centers(slide.size_mm, 8, 16, tissue=tissue))
    means = [slide.read(*(center - 0.064), 8, 8, 16).mean() for center in fine[:20]]
    assert np.mean(means) < 225  # tissue, not glass
