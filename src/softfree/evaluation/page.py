"""A plain page of sections with text, figures and a table, for results that are not the report of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.figure import Figure

from softfree.evaluation.plots.style import svg
from softfree.evaluation.report import environment
from softfree_runtime.core.files import write_atomically


class Link(NamedTuple):
    """A text that leads to another page, with a smaller one below it."""

    text: str
    href: str
    below: str


Cell = str | tuple[str, str] | Link
"""A text, or a text with a smaller one below it."""


class Grid(NamedTuple):
    """A table; the first column has names, the others have numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class Drawing(NamedTuple):
    """A figure with a title, which is unique within a page, and a caption."""

    title: str
    figure: Figure
    caption: str = ""

    @property
    def svg(self) -> Markup:
        """The figure as an element of the page."""
        return Markup(svg(self.figure, self.title))


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a page, in the order of its fields."""

    title: str
    paragraphs: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    table: Grid | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page.

    Attributes:
        title: Of the page.
        notice: What readers must know first, or None.
        paragraphs: The result in a few sentences.
        sections: The parts.
        commands: Commands that made it.
    """

    title: str
    notice: str | None = None
    paragraphs: Sequence[str] = ()
    sections: Sequence[Section] = ()
    commands: Sequence[str] = ()


def write_page(path: Path, page: Page) -> None:
    """Write the page as a self-contained HTML file, atomically."""
    write_atomically(path, environment().get_template("page.html.j2").render(page=page))
