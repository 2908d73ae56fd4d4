"""The interface of samples of all kinds, and the PNG that each can be drawn as."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from softfree.saliency.captions import MapText, method_title
from softfree.saliency.geometry import TokenGrid
from softfree.saliency.maps import Map
from softfree.saliency.overlay import Layer, draw_overlay
from softfree.saliency.regions import Region
from softfree.saliency.rendering import RenderedMap
from softfree.streaming import Rows

THUMBNAIL = 2048  # longest side of the PNG of what is larger than a page


class Sample(Protocol):
    """A sample that can be explained."""

    @property
    def tensor(self) -> Tensor | Rows:
        """Input of the model; rows if it is too long to be read at once."""
        ...

    @property
    def token_grid(self) -> TokenGrid:
        """Positions of the tokens in the source."""
        ...

    def render(self, maps: Sequence[Map], longest: int) -> RenderedMap:
        """Render maps over an image of the sample, at most about ``longest`` pixels a side."""
        ...

    def write(self, form: str, path: Path, maps: Sequence[Map], regions: list[Region], words: MapText) -> None:
        """Write maps in one of the formats of the sample's kind: all next to each other, or only the first."""
        ...


def draw(path: Path, rendered: RenderedMap, maps: Sequence[Map], words: MapText) -> None:
    """Write a PNG of rendered maps."""
    title = f"{words.title}; {rendered.note}" if rendered.note else words.title
    layers = [Layer(values, method_title(one), one.signed) for values, one in zip(rendered.values, maps, strict=True)]
    draw_overlay(path, rendered.image, layers, title=title, caption=words.caption, token_grid=rendered.token_grid)
