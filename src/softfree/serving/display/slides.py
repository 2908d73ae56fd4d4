"""Tiles of slides and of other large images, in the DeepZoom format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from openslide import AbstractSlide
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

from softfree.data.slide_readers.pyramid import Pyramid
from softfree.data.slide_readers.slide import Slide
from softfree.serving.display.images import ShownImage, Window
from softfree.serving.display.map_file import StoredMap

TILE, OVERLAP = 254, 1  # with its overlap, a tile has 256 pixels a side
_RGBA = "RGBA"


class Levels(AbstractSlide):
    """Base of sources of tiles: OpenSlide's interface over what softfree reads, so that its DeepZoom works on all."""

    def __init__(self, sizes: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self._sizes = sizes

    @classmethod
    def detect_format(cls, filename: object) -> str | None:
        """Return None: files are opened elsewhere."""
        return None

    @property
    def level_count(self) -> int:
        """Number of levels."""
        return len(self._sizes)

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level."""
        return self._sizes

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """How many pixels of level 0 are one of each level."""
        width, height = self._sizes[0]
        return tuple((width / w + height / h) / 2 for w, h in self._sizes)

    @property
    def properties(self) -> Mapping[str, str]:
        """None are needed."""
        return {}

    @property
    def associated_images(self) -> Mapping[str, Image.Image]:
        """None: labels of slides have names of patients."""
        return {}

    def get_best_level_for_downsample(self, downsample: float) -> int:
        """Return the coarsest level that is fine enough."""
        fine = [n for n, down in enumerate(self.level_downsamples) if down <= downsample * 1.01]
        return fine[-1] if fine else 0

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Image.Image:
        """Read a part of a level that lies inside it, as RGB."""
        raise NotImplementedError

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        """See OpenSlide."""
        down = self.level_downsamples[level]
        left, top = (round(edge / down) for edge in location)
        whole_width, whole_height = self._sizes[level]
        width, height = min(size[0], whole_width - left), min(size[1], whole_height - top)
        inside = self.region(level, left, top, width, height).convert(_RGBA)
        if inside.size == size:
            return inside
        out = Image.new(_RGBA, size)
        out.paste(inside, (0, 0))
        return out

    def close(self) -> None:
        """Nothing to close here."""


class SlideLevels(Levels):
    """The levels of a slide that fit its proportions."""

    def __init__(self, pyramid: Pyramid, kept: tuple[int, ...]) -> None:
        super().__init__(tuple(pyramid.sizes[number] for number in kept))
        self._pyramid, self._kept = pyramid, kept

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Image.Image:
        """See the base."""
        pixels, _ = self._pyramid.region(self._kept[level], x, y, width, height)
        return Image.fromarray(pixels)


class ImageLevels(Levels):
    """One level: a decoded image with a window."""

    def __init__(self, shown: ShownImage, window: Window | None) -> None:
        super().__init__((shown.source_size,))
        self._shown, self._window = shown, window

    def region(self, level: int, x: int, y: int, width: int, height: int) -> Image.Image:
        """See the base."""
        return self._shown.crop((x, y, x + width, y + height), self._window)


def slide_tiles(slide: Slide) -> DeepZoomGenerator:
    """Return the tiles of a slide."""
    return DeepZoomGenerator(SlideLevels(*slide.fitting_levels()), TILE, OVERLAP)


def image_tiles(shown: ShownImage, window: Window | None) -> DeepZoomGenerator:
    """Return the tiles of an image."""
    return DeepZoomGenerator(ImageLevels(shown, window), TILE, OVERLAP)


def slide_facts(slide: Slide) -> dict[str, Any]:
    """Describe a slide for the page."""
    width, height = slide.size
    return {
        "kind": "slide",
        "width": width,
        "height": height,
        "source": [width, height],
        "spacing": [slide.mpp[1] / 1000, slide.mpp[0] / 1000],
        "stored": f"slide of {slide.levels} level{'' if slide.levels == 1 else 's'}",
        "steps": list(slide.corrections),
        "gray": False,
    }


class MapTiles:
    """Tiles of a map, transparent where it says nothing; they do not overlap, which would show as lines.

    Args:
        map_: The map.
        size: (width, height) of the source.
    """

    def __init__(self, map_: StoredMap, size: tuple[int, int]) -> None:
        self._map = map_
        self._layout = DeepZoomGenerator(Levels((size,)), TILE + 2 * OVERLAP, 0)

    @property
    def level_count(self) -> int:
        """The number of levels."""
        return self._layout.level_count

    def get_dzi(self, form: str) -> str:
        """Return the descriptor."""
        return self._layout.get_dzi(form)

    def get_tile(self, level: int, address: tuple[int, int]) -> Image.Image:
        """Draw a tile; ValueError if there is none there."""
        (left, top), _, (width, height) = self._layout.get_tile_coordinates(level, address)
        columns, rows = self._layout.get_tile_dimensions(level, address)
        return Image.fromarray(
            np.ascontiguousarray(self._map.layer(top, left, top + height, left + width, rows, columns))
        )
