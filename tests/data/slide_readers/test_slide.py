"""Whole slides in micrometers per pixel: real ones, and small TIFFs whose every pixel is known."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from softfree.data.modalities.feature_files import read_features
from softfree.data.slide_readers import slide as module
from softfree.data.slide_readers.slide import Slide, open_slide
from softfree_runtime.core.errors import ReadError
from softfree_runtime.sources.volume_files import read_volume

NAMES = {
    "CMU-1-Small-Region.svs": ((2220, 2967), 0.499),
    "CMU-1-Small-Region_pyramid.tiff": ((2220, 2967), 0.499),
    "cptac-brca_15BR001_level.dcm": ((1680, 1547), 15.821165833333),
}


def write_tiff(path: Path, levels: list[np.ndarray], mpp: tuple[float, float] | None = (0.5, 0.5)) -> Path:
    """Write a tiled lossless pyramid of uint8 (H, W, 3), as a generic program would."""
    with tifffile.TiffWriter(path) as file:
        for number, pixels in enumerate(levels):
            scale = None if mpp is None else tuple(10_000 / (one * 2**number) for one in mpp)
            unit = None if mpp is None else "CENTIMETER"
            subfile = 1 if number else 0
            file.write(
                pixels,
                tile=(64, 64),
                compression="zlib",
                photometric="rgb",
                resolution=scale,
                resolutionunit=unit,
                subfiletype=subfile,
                metadata=None,
            )
    return path


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)


@pytest.fixture
def known(tmp_path: Path, noise: np.ndarray) -> Slide:
    """One level of 300 x 200 pixels of 0.5 um."""
    return open_slide(write_tiff(tmp_path / "known.tiff", [noise]))


def by_triangles(pixels: np.ndarray, start: float, step: float, count: int) -> np.ndarray:
    """Resample the first axis in float64: weights fall linearly to 0 at a distance of one new pixel."""
    reach = max(step, 1.0)
    centers = start + (np.arange(count) + 0.5) * step
    weights = np.maximum(0, 1 - np.abs(np.arange(len(pixels)) + 0.5 - centers[:, None]) / reach)
    return np.tensordot(weights / weights.sum(1, keepdims=True), pixels.astype(np.float64), 1)


@pytest.mark.parametrize("name", NAMES)
def test_real_slides_open_with_their_size_and_resolution(shared_data: Path, name: str) -> None:
    with open_slide(shared_data / "wsi" / name) as slide:
        size, mpp = NAMES[name]
        assert slide.size == size
        assert slide.mpp == pytest.approx((mpp, mpp))
        assert slide.size_mm == pytest.approx((size[0] * mpp / 1000, size[1] * mpp / 1000))
        thumbnail = slide.thumbnail(64)
        assert thumbnail.shape[:2] == tuple(int(np.ceil(side * mpp / 64)) for side in size[::-1])
        assert thumbnail.dtype == np.uint8
        assert thumbnail.std() > 10


@pytest.mark.parametrize("mpp", [0.499, 0.5, 1.0, 2.0, 3.3, 8.0])
def test_two_forms_of_a_slide_agree_at_every_resolution(shared_data: Path, mpp: float) -> None:
    one, two = (open_slide(shared_data / "wsi" / name) for name in list(NAMES)[:2])
    pixel = mpp / 1000

    def difference(x: float, y: float) -> float:
        region = 100, 80, mpp
        return np.abs(one.read(0.5, 0.5, *region).astype(int) - two.read(0.5 + x, 0.5 + y, *region)).mean()

    # Two JPEG codings of the finest level differ by 3.1 on average; this region has more edges than the rest.
    here = difference(0, 0)
    assert here < 9
    for x, y in ((pixel, 0), (-pixel, 0), (0, pixel), (0, -pixel)):
        assert difference(x, y) > 2 * here


def test_own_resolution_gives_the_stored_pixels(known: Slide, noise: np.ndarray) -> None:
    got = known.read(17 * 0.0005, 23 * 0.0005, 100, 90, 0.5)
    np.testing.assert_array_equal(got, noise[23:113, 17:117])


@pytest.mark.parametrize("mpp", [0.35, 0.65, 1.0, 2.7])
def test_resampling_follows_its_formula(known: Slide, noise: np.ndarray, mpp: float) -> None:
    x, y, width, height, step = 20.3, 31.7, 30, 20, mpp / 0.5
    rows = by_triangles(noise, y, step, height)
    expected = by_triangles(rows.swapaxes(0, 1), x, step, width).swapaxes(0, 1)
    got = known.read(x * 0.0005, y * 0.0005, width, height, mpp)
    assert np.abs(got - expected).max() < 1.6  # two roundings to whole numbers


def test_parts_of_a_large_region_fit_together(known: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = known.thumbnail(1.3)
    monkeypatch.setattr(module, "_SIDE", 50)
    assert np.abs(known.thumbnail(1.3).astype(int) - whole).max() <= 1


def test_beyond_the_slide_is_white(known: Slide, noise: np.ndarray) -> None:
    got = known.read(-0.005, -0.01, 30, 40, 0.5)
    assert (got[:20] == 255).all()
    assert (got[:, :10] == 255).all()
    np.testing.assert_array_equal(got[20:, 10:], noise[:20, :20])
    assert (known.read(5, 5, 8, 8, 0.5) == 255).all()


@pytest.mark.parametrize(("mpp", "level"), [(0.5, 0), (0.9, 0), (1.0, 1), (0.995, 1), (1.9, 1), (2.0, 2), (9.0, 2)])
def test_the_coarsest_level_that_is_fine_enough_is_read(tmp_path: Path, mpp: float, level: int) -> None:
    values = (10, 100, 200)  # each level tells by its color
    levels = [np.full((512 >> n, 768 >> n, 3), value, np.uint8) for n, value in enumerate(values)]
    slide = open_slide(write_tiff(tmp_path / "levels.tiff", levels))
    assert (slide.read(0.1, 0.1, 10, 10, mpp) == values[level]).all()


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    pixels = np.full((200, 100, 3), 255, np.uint8)
    pixels[40:120, 20:60] = 0  # 20 um wide and 20 um high: a square
    slide = open_slide(write_tiff(tmp_path / "flat.tiff", [pixels], mpp=(0.5, 0.25)))
    assert slide.mpp == pytest.approx((0.5, 0.25))
    assert slide.size_mm == pytest.approx((0.05, 0.05))
    seen = slide.thumbnail(1.0)
    assert seen.shape == (50, 50, 3)
    rows, columns = np.nonzero(seen[..., 0] < 128)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 29, 10, 29)


def test_a_missing_resolution_is_never_guessed(tmp_path: Path, noise: np.ndarray) -> None:
    path = write_tiff(tmp_path / "none.tiff", [noise], mpp=None)
    with pytest.raises(ReadError, match=r"none\.tiff: .* add a column mpp") as caught:
        open_slide(path)
    assert caught.value.status == "no_resolution"
    assert open_slide(path, 0.25).mpp == (0.25, 0.25)
    assert open_slide(path, (0.25, 0.5)).mpp == (0.25, 0.5)


def test_the_resolution_of_a_screen_is_none(tmp_path: Path, noise: np.ndarray) -> None:
    tifffile.imwrite(
        tmp_path / "dpi.tiff", noise, tile=(64, 64), photometric="rgb", resolution=(72, 72), resolutionunit="INCH"
    )
    with pytest.raises(ReadError, match="column mpp"):
        open_slide(tmp_path / "dpi.tiff")


def test_the_given_resolution_wins(known: Slide) -> None:
    assert open_slide(known.path, 0.25).size_mm == pytest.approx((300 * 0.25e-3, 200 * 0.25e-3))


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan"), 400.0])
def test_a_resolution_that_cannot_be(known: Slide, mpp: float) -> None:
    with pytest.raises(ReadError, match="is not plausible for a slide"):
        open_slide(known.path, mpp)


def test_detail_that_is_not_there(known: Slide) -> None:
    known.refuse_finer(0.4)
    with pytest.raises(ReadError, match=r"0.5 um per pixel, too coarse for 0.25 um; use --mpp 0.5") as caught:
        known.refuse_finer(0.25)
    assert caught.value.status == "too_coarse"


def test_another_process_opens_the_slide_anew(known: Slide, noise: np.ndarray) -> None:
    slide = pickle.loads(pickle.dumps(open_slide(known.path, 0.25)))
    assert slide.mpp == (0.25, 0.25)
    np.testing.assert_array_equal(slide.read(0, 0, 30, 20, 0.25), noise[:20, :30])


@pytest.mark.parametrize("kept", [0.5, 0.001])
def test_a_broken_svs(shared_data: Path, tmp_path: Path, kept: float) -> None:
    content = (shared_data / "wsi" / "CMU-1-Small-Region.svs").read_bytes()
    path = tmp_path / "broken.svs"
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ReadError, match=r"^\S+broken\.svs: ") as caught:
        open_slide(path)
    assert caught.value.status == "corrupt"


def test_damaged_tiles(shared_data: Path, tmp_path: Path) -> None:
    content = bytearray((shared_data / "wsi" / "CMU-1-Small-Region.svs").read_bytes())
    content[400_000:900_000] = bytes(500_000)
    path = tmp_path / "tiles.svs"
    path.write_bytes(content)
    with pytest.raises(ReadError, match=r"tiles\.svs: damaged pixels") as caught:
        open_slide(path).thumbnail(2)
    assert caught.value.status == "corrupt"


def _text(folder: Path) -> Path:
    (folder / "a.svs").write_text("not a slide at all\n" * 30)
    return folder / "a.svs"


def _empty(folder: Path) -> Path:
    (folder / "a.svs").touch()
    return folder / "a.svs"


@pytest.mark.parametrize(
    ("make", "status"), [(_text, "unsupported"), (_empty, "empty"), (lambda folder: folder / "no.svs", "missing")]
)
def test_what_is_no_slide(tmp_path: Path, make: Callable[[Path], Path], status: str) -> None:
    with pytest.raises(ReadError) as caught:
        open_slide(make(tmp_path))
    assert caught.value.status == status


class Levels:
    """A pyramid of blank levels, as a library might report them."""

    mpp: tuple[float, float] | None = (0.5, 0.5)
    corrections: tuple[str, ...] = ("a word of the library",)

    def __init__(self, *sizes: tuple[int, int]) -> None:
        self.sizes = sizes

    def region(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, tuple[float, float]]:
        return np.full((height, width, 3), level, np.uint8), (0.0, 0.0)

    def close(self) -> None: ...


@pytest.mark.parametrize("odd", [(0, 0), (0, 50), (80, 0), (150, 50), (800, 400)])
def test_levels_that_are_not_of_the_slide_are_left_out(odd: tuple[int, int]) -> None:
    slide = Slide(Path("a"), Levels((400, 200), odd, (200, 100)))
    assert slide.corrections == ("a word of the library", "levels of other proportions than the slide, skipped")
    assert (slide.read(0, 0, 10, 10, 1.0) == 2).all()


@pytest.mark.parametrize("small", [(200, 100), (133, 67), (7, 3), (7, 4), (1, 1)])
def test_levels_whose_sides_are_rounded_are_kept(small: tuple[int, int]) -> None:
    assert Slide(Path("a"), Levels((400, 200), small)).corrections == ("a word of the library",)


@pytest.mark.parametrize("sizes", [(), ((0, 0),), ((0, 100), (50, 50))])
def test_a_finest_level_without_pixels(sizes: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ReadError, match="no pixels") as caught:
        Slide(Path("a"), Levels(*sizes))
    assert caught.value.status == "corrupt"


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    for reader in (open_slide, read_features, read_volume):
        with pytest.raises(ReadError) as caught:
            reader(tmp_path / name)
        assert caught.value.status == "missing"
