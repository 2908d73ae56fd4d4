"""Slides against a second reader: the TIFF reader against OpenSlide, and both against libvips."""

from pathlib import Path

import numpy as np
import pytest
from tests.corpus import CASES, Case

from softfree.data.slide_readers.openslide import OpenSlidePyramid
from softfree.data.slide_readers.slide import open_slide
from softfree.data.slide_readers.tiff import TiffPyramid

pytestmark = pytest.mark.slow
READ = [case for case in CASES if case.format in ("Pyramid TIFF", "OME-TIFF", "SVS") and case.outcome == "read"]


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "CMU-1-Small-Region_pyramid.tiff"])
def test_the_tiff_reader_gives_the_pixels_of_openslide(shared_data: Path, name: str) -> None:
    own, openslide = TiffPyramid(shared_data / "wsi" / name), OpenSlidePyramid(shared_data / "wsi" / name)
    assert own.sizes == openslide.sizes
    for level, (width, height) in enumerate(own.sizes):
        one, two = (pyramid.region(level, 0, 0, width, height)[0] for pyramid in (own, openslide))
        assert np.abs(one.astype(int) - two).mean() < 2
    assert name.endswith(".tiff") or own.mpp == pytest.approx(openslide.mpp)


@pytest.mark.parametrize("case", READ, ids=lambda case: f"{case.format}: {case.property}")
def test_libvips_sees_the_same(case: Case, tmp_path: Path) -> None:
    vips = pytest.importorskip("pyvips")
    if "YCbCr" in case.property:
        pytest.skip("libvips does not turn it into RGB")
    made = case.make(tmp_path)
    slide = open_slide(made.path)
    count = vips.Image.tiffload(str(made.path)).get("n-pages")
    pages = [vips.Image.tiffload(str(made.path), page=number) for number in range(count)]
    page = next(page for page in pages if (page.width, page.height) == slide.size)  # the slide need not be the first
    seen = (page.flatten(background=255) if page.hasalpha() else page).numpy().astype(int)
    if not seen.any():
        pytest.skip("libvips was built without the codec, and does not say so")
    if "not stored" in case.property:
        seen[seen.max(axis=-1) == 0] = 255  # libvips leaves it black
    assert np.abs(seen - slide._pyramid.region(0, 0, 0, *slide.size)[0]).max() <= 4
