"""What a sample of any kind can do, and the PNG that all of them can be drawn as."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor

from softfree.explain.captions import Words, name_of
from softfree.explain.geometry import Places
from softfree.explain.maps import Map
from softfree.explain.overlay import Layer, draw_overlay
from softfree.explain.regions import Region
from softfree.explain.rendering import View
from softfree.streaming import Rows

THUMBNAIL = 2048  # longest side of the PNG of what is larger than a page


class Sample(Protocol):
    """A sample that can be explained."""

    @property
    def tensor(self) -> Tensor | Rows:
        """What the model takes; rows where that is too long to be read at once."""
        ...

    @property
    def places(self) -> Places:
        """Where the tokens lie in what was read."""
        ...

    def view(self, maps: Sequence[Map], longest: int) -> View:
        """Lay maps over an image of the sample, about ``longest`` pixels a side at most."""
        ...

    def write(self, form: str, path: Path, maps: Sequence[Map], regions: list[Region], words: Words) -> None:
        """Write maps in one of the formats of the sample's kind: all of them beside each other, or the first alone."""
        ...


def draw(path: Path, view: View, maps: Sequence[Map], words: Words) -> None:
    """Write a PNG of a view."""
    title = f"{words.title}; {view.note}" if view.note else words.title
    layers = [Layer(values, name_of(one), one.signed) for values, one in zip(view.values, maps, strict=True)]
    draw_overlay(path, view.image, layers, title=title, caption=words.caption, places=view.places)
