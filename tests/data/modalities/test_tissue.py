"""Where a slide has tissue."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from softfree.data.modalities.tissue import Tissue, find_tissue
from softfree.data.slide_readers.slide import Slide, open_slide
from softfree_runtime.core.errors import ReadError

PINK = (200, 120, 170)


def glass(shape: tuple[int, int] = (400, 600)) -> np.ndarray:
    """Bare glass as scanners see it: bright, nearly gray, with some noise."""
    noise = np.random.default_rng(0).normal(0, 2, (*shape, 3))
    return np.clip(noise + np.array((243, 243, 245)), 0, 255).astype(np.uint8)


def slide_of(folder: Path, pixels: np.ndarray, mpp: float = 8.0) -> Slide:
    resolution = 10_000 / mpp, 10_000 / mpp
    path = folder / "slide.tiff"
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", resolution=resolution, resolutionunit="CENTIMETER")
    return open_slide(path)


def test_a_square_of_tissue_is_found_where_it_is(tmp_path: Path) -> None:
    pixels = glass()
    pixels[100:200, 300:450] = PINK
    tissue = find_tissue(slide_of(tmp_path, pixels))
    assert tissue.mpp == 8
    assert tissue.box_mm() == pytest.approx((2.4, 0.8, 3.6, 1.6), abs=0.017)  # a pixel is 0.008 mm
    assert tissue.mask.sum() == pytest.approx(100 * 150, rel=0.01)


def test_specks_and_holes_go(tmp_path: Path) -> None:
    pixels = glass()
    pixels[100:200, 300:450] = PINK
    pixels[130:140, 340:350] = glass((10, 10))  # 0.0064 square millimeters
    pixels[20:30, 20:30] = PINK
    pixels[300:340, 20:60] = PINK  # 0.1 square millimeters: kept
    mask = find_tissue(slide_of(tmp_path, pixels)).mask
    assert mask[135, 345]
    assert not mask[25, 25]
    assert mask[320, 40]


def test_marks_at_the_border_do_not_widen_the_box(shared_data: Path) -> None:
    left, top, right, _ = find_tissue(open_slide(shared_data / "wsi" / "cptac-brca_15BR001_level.dcm")).box_mm()
    assert top > 0.8  # below the scanner's black band
    assert left > 2
    assert right < 25  # the slide is 26.58 mm wide


def test_a_slide_that_is_all_background(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match=r"slide\.tiff: no tissue found") as caught:
        find_tissue(slide_of(tmp_path, glass()))
    assert caught.value.status == "no_tissue"


@pytest.mark.parametrize("value", [0, 128, 255])
def test_one_value_everywhere_is_background(tmp_path: Path, value: int) -> None:
    with pytest.raises(ReadError, match="no tissue"):
        find_tissue(slide_of(tmp_path, np.full((128, 128, 3), value, np.uint8)))


@pytest.mark.parametrize("spread", [0, 12])
def test_a_slide_that_is_all_tissue(tmp_path: Path, spread: float) -> None:
    noise = np.random.default_rng(0).normal(0, spread, (200, 200, 3))
    tissue = find_tissue(slide_of(tmp_path, np.clip(noise + PINK, 0, 255).astype(np.uint8)))
    assert tissue.mask.all()


def test_pale_tissue_beside_dark_tissue_is_kept(tmp_path: Path) -> None:
    pixels = glass()
    pixels[100:200, 50:250] = (90, 20, 110)
    pixels[100:200, 350:550] = (235, 195, 220)
    mask = find_tissue(slide_of(tmp_path, pixels)).mask
    assert mask[150, 150]
    assert mask[150, 450]


def test_black_borders_are_no_tissue(tmp_path: Path) -> None:
    pixels = glass()
    pixels[100:200, 300:450] = PINK
    pixels[:, :100] = np.random.default_rng(1).integers(0, 9, (400, 100, 3))  # saturated noise
    assert not find_tissue(slide_of(tmp_path, pixels)).mask[:, :98].any()


def test_the_part_of_a_square_that_is_tissue() -> None:
    mask = np.random.default_rng(0).random((20, 30)) < 0.5
    tissue = Tissue(mask, 10.0)
    fine = np.kron(mask, np.ones((8, 8)))  # 1.25 um a pixel
    for x, y, side in ((0, 0, 8), (3, 5, 17), (100, 90, 40), (11, 2, 1)):
        got = tissue.share(np.array([x * 0.00125]), np.array([y * 0.00125]), side * 0.00125)
        assert got == pytest.approx(fine[y : y + side, x : x + side].mean())
    beyond = tissue.share(np.array([0.25, 5.0]), np.array([0.1, 5.0]), 0.1)
    assert beyond == pytest.approx([mask[10:20, 25:30].sum() / 100, 0])


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("CMU-1-Small-Region.svs", 0.28, 0.4), ("cptac-brca_15BR001_level.dcm", 0.17, 0.27)],
)
def test_real_slides(shared_data: Path, name: str, least: float, most: float) -> None:
    slide = open_slide(shared_data / "wsi" / name)
    tissue = find_tissue(slide)
    pixels = slide.thumbnail(tissue.mpp)
    assert least < tissue.mask.mean() < most
    # What is left out is glass, brighter than what is taken.
    assert pixels[~tissue.mask].mean() > 225
    assert pixels[tissue.mask].mean() < pixels[~tissue.mask].mean() - 25
