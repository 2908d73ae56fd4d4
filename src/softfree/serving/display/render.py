"""The functions that workers run for the page; each returns the body of a response.

``paths`` are the files of a sample; ``source`` has the other fields of
:class:`~softfree.serving.display.sources.Source`; ``map_path`` is a stored map or None.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softfree.serving.display.images import ShownImage, jpeg, png
from softfree.serving.display.sources import image_of, map_of, slide_of, source_from, volume_of, window_of
from softfree.serving.errors import NotFound
from softfree.serving.records import RenderResult

if TYPE_CHECKING:
    from openslide.deepzoom import DeepZoomGenerator

    from softfree.serving.display.slides import MapTiles

Arguments = dict[str, Any]
LONGEST = 4096  # pixels a side, up to which an image is sent whole; larger ones come in tiles
AXES = ("axial", "coronal", "sagittal")


def warm_up(paths: Sequence[Path]) -> RenderResult:
    """Import what the others need, before the first image comes."""
    from softfree.serving.display import slides, volumes  # noqa: F401

    return RenderResult(b"", "text/plain")


def view(paths: Sequence[Path], *, source: Arguments, map_path: Path | None = None) -> RenderResult:
    """Describe what is shown: kind, size, spacing, window; and of its map, method and meaning."""
    shown = source_from(paths, source)
    if shown.kind == "volume":
        facts = volume_of(shown).facts()
    elif shown.kind == "slide":
        from softfree.serving.display.slides import slide_facts

        facts = slide_facts(slide_of(shown))
    else:
        facts = image_of(shown).facts()
    facts["tiled"] = shown.kind == "slide" or max(facts.get("source", [0])) > LONGEST
    facts["parts"] = len(paths) if shown.kind == "case" else 1
    facts["map"] = None
    if map_path is not None:
        map_ = map_of(map_path)
        facts["map"] = {"signed": map_.signed, "limit": map_.limit, "unseen": map_.unseen, **map_.words}
        if shown.kind == "volume":
            facts["map"]["strongest"] = {name: map_.strongest_slice(axis) for axis, name in enumerate(AXES)}
    return RenderResult(json.dumps(facts).encode(), "application/json")


def image(
    paths: Sequence[Path],
    *,
    source: Arguments,
    window: float | None = None,
    level: float | None = None,
    axis: str = "axial",
    number: int | None = None,
    side: int | None = None,
    form: str = "png",
) -> RenderResult:
    """Draw an image, a slice of a volume, or a small copy of a slide."""
    shown = source_from(paths, source)
    side = min(side or LONGEST, LONGEST)
    if shown.kind == "volume":
        volume = volume_of(shown)
        along = _axis(axis)
        chosen = volume.voxels.shape[along] // 2 if number is None else number
        try:
            drawn = volume.drawn(along, chosen, window_of(window, level), side)
        except IndexError as error:
            raise NotFound(str(error)) from None
    elif shown.kind == "slide":
        slide = slide_of(shown)
        mpp = max(*slide.mpp, *(length * 1000 / min(side, 1024) for length in slide.size_mm))
        from PIL import Image

        drawn = Image.fromarray(slide.thumbnail(mpp))
    else:
        drawn = image_of(shown).drawn(window_of(window, level), side)
    return RenderResult(jpeg(drawn), "image/jpeg") if form == "jpeg" else RenderResult(png(drawn), "image/png")


def map_image(
    paths: Sequence[Path],
    *,
    source: Arguments,
    map_path: Path,
    axis: str = "axial",
    number: int | None = None,
    side: int | None = None,
) -> RenderResult:
    """Color a map as a transparent layer of the size of :func:`image`."""
    from PIL import Image

    shown, map_ = source_from(paths, source), map_of(map_path)
    side = min(side or LONGEST, LONGEST)
    if shown.kind == "volume":
        along = _axis(axis)
        chosen = map_.strongest_slice(along) if number is None else number
        return RenderResult(png(volume_of(shown).layer(map_, along, chosen, side)), "image/png")
    rows, columns = map_.grid.shape
    width, height = image_of(shown).size if shown.kind != "slide" else (columns, rows)
    factor = min(1.0, side / max(width, height))
    width, height = max(1, round(width * factor)), max(1, round(height * factor))
    return RenderResult(png(Image.fromarray(map_.layer(0, 0, rows, columns, height, width))), "image/png")


def volume(paths: Sequence[Path], *, source: Arguments) -> RenderResult:
    """Encode a volume as NIfTI."""
    return RenderResult(volume_of(source_from(paths, source)).nifti(), "application/gzip")


def map_volume(paths: Sequence[Path], *, source: Arguments, map_path: Path) -> RenderResult:
    """Encode a map of a volume as NIfTI, on its own grid of tokens."""
    from softfree.serving.display.volumes import map_nifti

    return RenderResult(map_nifti(map_of(map_path)), "application/gzip")


def descriptor(paths: Sequence[Path], *, source: Arguments, map_path: Path | None = None) -> RenderResult:
    """Describe the tiles of an image or slide, or of its map."""
    text = _tiles(paths, source, map_path).get_dzi("jpeg" if map_path is None else "png")
    return RenderResult(text.encode(), "application/xml")


def tile(
    paths: Sequence[Path],
    *,
    source: Arguments,
    depth: int,
    column: int,
    row: int,
    map_path: Path | None = None,
    window: float | None = None,
    level: float | None = None,
) -> RenderResult:
    """Draw a tile of an image or slide, or of its map."""
    try:
        drawn = _tiles(paths, source, map_path, window, level).get_tile(depth, (column, row))
    except ValueError as error:
        raise NotFound(f"tile {column}_{row} of level {depth}: {str(error).lower()}") from None
    if map_path is None:
        return RenderResult(jpeg(drawn), "image/jpeg")
    return RenderResult(png(drawn), "image/png")


def _tiles(
    paths: Sequence[Path],
    source: Arguments,
    map_path: Path | None,
    window: float | None = None,
    level: float | None = None,
) -> DeepZoomGenerator | MapTiles:
    from softfree.serving.display.slides import MapTiles, image_tiles, slide_tiles

    shown = source_from(paths, source)
    if shown.kind == "volume":
        raise NotFound("a volume has no tiles; get its slices, or volume.nii.gz")
    if map_path is not None:
        map_ = map_of(map_path)
        rows, columns = map_.grid.shape
        return MapTiles(map_, (columns, rows))
    if shown.kind == "slide":
        return slide_tiles(slide_of(shown))
    opened: ShownImage = image_of(shown)
    return image_tiles(opened, window_of(window, level))


def _axis(name: str) -> int:
    if name not in AXES:
        raise NotFound(f"axis {name!r}: expected {', '.join(AXES)}")
    return AXES.index(name)
