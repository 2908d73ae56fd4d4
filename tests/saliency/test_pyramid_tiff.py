"""Images that are too large for a page: reduced, or written tile by tile."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tifffile import TiffFile

from softfree.inference.run import Run
from softfree.saliency.api import explain
from softfree.saliency.geometry import TokenGrid
from softfree.saliency.options import ExplainOptions
from softfree.saliency.overlay import max_magnitude, paint
from softfree.saliency.pyramid_tiff import write_tiles
from softfree.saliency.rendering import render_image, unit_rows
from softfree.saliency.samples import image as of_image
from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers import read_image
from softfree_runtime.readers.image import DecodedImage


def image(height: int, width: int, channels: int = 1, spacing: tuple[float, float] | None = None) -> DecodedImage:
    pixels = np.random.default_rng(0).integers(0, 4096, (height, width, channels)).astype(np.uint16)
    return DecodedImage(pixels, 100, 4000, spacing, (), "12-bit gray")


def test_a_reduced_image_is_the_mean_of_its_squares() -> None:
    source = image(700, 301, 3, (0.1, 0.2))
    token_grid = TokenGrid((-9.0, 6.0), (32.0, 16.0), ((0.0, 700.0), (6.0, 295.0)), (700, 301), (0.1, 0.2))
    rendered = render_image(source, np.zeros((23, 19)), token_grid, 100)
    assert rendered.image.shape == (100, 43, 3)
    unit = source.unit()
    np.testing.assert_allclose(rendered.image[70, 20], unit[490:497, 140:147].mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(rendered.image[99, 42], unit[693:, 294:].mean((0, 1)), rtol=1e-5)
    assert rendered.token_grid.start == pytest.approx((-9 / 7, 6 / 7))
    assert rendered.token_grid.spacing == pytest.approx((0.7, 1.4))
    assert rendered.note == "the image reduced 7 times"
    whole = render_image(source, np.zeros((23, 19)), token_grid, 700)
    assert np.array_equal(whole.image, unit)
    assert (whole.token_grid, whole.note) == (token_grid, "")


@pytest.mark.parametrize(("height", "width"), [(700, 1101), (512, 256), (100, 90), (1, 1)])
def test_tiles_are_the_painted_image(height: int, width: int, tmp_path: Path) -> None:
    source = image(height, width, spacing=(0.05, 0.1))
    values = np.random.default_rng(1).normal(size=(11, 17))
    token_grid = TokenGrid((-3.0, 2.0), (71.0, 65.0), ((0.0, height), (2.0, width - 0.2)), (height, width), (0.05, 0.1))
    write_tiles(tmp_path / "map.tiff", partial(unit_rows, source), values, token_grid, signed=True)
    with TiffFile(tmp_path / "map.tiff") as file:
        pages = file.pages
        level = pages[0].asarray()
        assert np.array_equal(level, paint(source.unit(), token_grid.spread(values), max_magnitude(values)))
        assert pages[0].tags["XResolution"].value[0] / pages[0].tags["XResolution"].value[1] == pytest.approx(100)
        assert pages[0].tags["YResolution"].value[0] / pages[0].tags["YResolution"].value[1] == pytest.approx(200)
        assert len(pages) == {700: 3, 512: 1, 100: 1, 1: 1}[height]
        for page in pages[1:]:
            assert page.tags["NewSubfileType"].value == 1
            level = np.asarray(Image.fromarray(level).reduce(2))
            assert np.array_equal(page.asarray(), level)


@pytest.fixture
def film(tmp_path: Path) -> str:
    pixels = np.random.default_rng(0).integers(0, 255, (100, 80), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "film.png")
    return str(tmp_path / "film.png")


def test_a_large_image_is_drawn_reduced_and_whole_as_tiff(
    film: str, image_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_image, "_LARGEST", 99)
    monkeypatch.setattr(of_image, "THUMBNAIL", 50)
    (done,) = explain(image_run, [film], ExplainOptions(out=tmp_path / "large", method="integrated"))
    page = np.asarray(Image.open(done.files[0]))[..., 0].astype(float)
    means = np.asarray(Image.open(film)).reshape(50, 2, 40, 2).mean((1, 3)).repeat(8, 0).repeat(8, 1)
    rows = [top for top in range(page.shape[0] - 399) if np.abs(page[top, 13 : 13 + 320] - means[0]).max() < 0.51]
    assert rows, "its pixels are means of 2 x 2"
    assert np.abs(page[rows[0] :][:400, 13 : 13 + 320] - means).max() <= 0.5 + 1e-3
    (whole,) = explain(image_run, [film], ExplainOptions(out=tmp_path, format="tiff"))
    values = whole.maps[0].values
    spread = whole.images[0].token_grid.spread(values)
    painted = paint(read_image(film).unit(), spread, max_magnitude(values))
    assert np.array_equal(read_image(whole.files[0]).pixels, painted)


def test_dicom_holds_no_image_of_any_size(
    shared_data: Path, image_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_image, "_DICOM_SIDE", 127)
    source = shared_data / "dicom" / "pydicom" / "CT_small.dcm"
    (done,) = explain(image_run, [str(source)], ExplainOptions(out=tmp_path, format="dicom"))
    assert isinstance(done.error, ReadError)
    assert "128 x 128 pixels are more than DICOM can hold; use --format tiff" in str(done.error)
