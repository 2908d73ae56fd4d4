"""A slide to explain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from softfree.data.modalities.slide import Region as SlideRegion
from softfree.data.modalities.slide import SlidePreprocessing
from softfree.data.modalities.slide_rows import SlideRows, load_or_open
from softfree.data.slide_readers.slide import Slide, open_slide
from softfree.saliency.captions import MapText
from softfree.saliency.geometry import TokenGrid
from softfree.saliency.maps import Map
from softfree.saliency.regions import Region
from softfree.saliency.rendering import RenderedMap
from softfree.saliency.samples.opener import THUMBNAIL, SampleOpener, draw
from softfree.saliency.slide_files import render_slide, write_geojson, write_pyramid
from softfree_runtime.sources.sample_source import SampleSource, file_of


@dataclass(frozen=True)
class SlideSample:
    """A slide, reopened when it is drawn."""

    source: SampleSource
    tensor: Tensor | SlideRows
    token_grid: TokenGrid

    @classmethod
    def read(cls, opener: SampleOpener, source: SampleSource, frame: int | None) -> SlideSample:
        """Read and prepare the slide's tissue."""
        preprocessing = opener.preprocessing
        assert isinstance(preprocessing, SlidePreprocessing)
        tensor = load_or_open(preprocessing, source, frame)
        with preprocessing.open(source) as slide:
            token_grid = slide_token_grid(slide, preprocessing.region(slide), preprocessing.mpp, opener.patch[0])
        return cls(source, tensor, token_grid)

    def write(self, form: str, path: Path, maps: Sequence[Map], regions: list[Region], words: MapText) -> None:
        """Write GeoJSON, a pyramidal TIFF, or a PNG of the whole slide."""
        if form == "geojson":
            write_geojson(path, regions, self.token_grid, words.subject)
        elif form == "png":
            draw(path, self.render(maps, THUMBNAIL), maps, words)
        else:
            with self._open() as slide:
                write_pyramid(path, slide, maps[0].values, self.token_grid, maps[0].signed)

    def _open(self) -> Slide:
        file = file_of(self.source)
        return open_slide(file.path, file.mpp)

    def render(self, maps: Sequence[Map], longest: int) -> RenderedMap:
        """Render over the whole slide."""
        with self._open() as slide:
            pixels, token_grid = render_slide(slide, self.token_grid, longest)
        return RenderedMap(pixels / np.float32(255), tuple(map_.values for map_ in maps), token_grid)


def slide_token_grid(slide: Slide, region: SlideRegion, mpp: float, patch: int) -> TokenGrid:
    """Token grid of a slide on level 0.

    Args:
        slide: The slide.
        region: The part that was read.
        mpp: Micrometers per pixel at which it was read.
        patch: Side of a patch in these pixels.
    """
    scale = (mpp / slide.mpp[1], mpp / slide.mpp[0])  # level 0 pixels per pixel that was read, rows and columns
    start = (region.top * 1000 / slide.mpp[1], region.left * 1000 / slide.mpp[0])
    shape = (slide.size[1], slide.size[0])
    visible = tuple(
        (max(0.0, low), min(float(side), low + length * factor))
        for low, side, length, factor in zip(start, shape, (region.height, region.width), scale, strict=True)
    )
    spacing = (slide.mpp[1] / 1000, slide.mpp[0] / 1000)
    return TokenGrid(start, tuple(patch * factor for factor in scale), visible, shape, spacing)
