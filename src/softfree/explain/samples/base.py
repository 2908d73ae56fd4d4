"""What a sample of any kind can do, and the PNG that all of them can be drawn as."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from softfree.explain.maps import Map
from softfree.explain.overlay import draw_overlay
from softfree.explain.places import Places
from softfree.explain.regions import Region
from softfree.explain.views import View
from softfree.longseq import Rows

THUMBNAIL = 2048  # longest side of the PNG of what is larger than a page


@dataclass(frozen=True)
class Words:
    """What is written beside a map: what it shows, what that means, and the class."""

    title: str
    caption: str
    target: str


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

    def view(self, found: Map, longest: int) -> View:
        """Lay a map over a picture of the sample, about ``longest`` pixels a side at most."""
        ...

    def write(self, form: str, path: Path, found: Map, regions: list[Region], words: Words) -> None:
        """Write a map in one of the formats of the sample's kind."""
        ...


def draw(path: Path, view: View, found: Map, words: Words) -> None:
    """Write a PNG of a view."""
    title = f"{words.title}, {view.note}" if view.note else words.title
    draw_overlay(path, view.picture, view.values, title=title, caption=words.caption, places=view.places,
                 signed=found.signed)  # fmt: skip
