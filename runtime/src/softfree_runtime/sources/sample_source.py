"""What a sample is read from: a path, a path with the resolution of its row, or the files of a case."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from softfree_runtime.core.errors import UserError, shortened


@dataclass(frozen=True)
class SourceFile:
    """A slide, or the features of its tiles.

    Attributes:
        path: The file.
        mpp: Micrometers per pixel of the slide's finest level; None to use what the file says.
    """

    path: str
    mpp: float | None = None

    def __str__(self) -> str:
        return self.path if self.mpp is None else f"{self.path}#mpp={self.mpp!r}"


@dataclass(frozen=True)
class CaseFile(SourceFile):
    """A file of a case: an image, or the features of a slide.

    Attributes:
        frame: Frame of a multi-frame file, counted from 0; None for the first.
        view: What it shows, such as ``frontal``; empty if unknown.
        time: When it was taken, in any unit, from any start; None if unknown.
    """

    frame: int | None = None
    view: str = ""
    time: float | None = None


@dataclass(frozen=True)
class Case:
    """Images or slides that are classified together, in an order that does not depend on the table's.

    Attributes:
        files: The images or slides.
        id: Name of the case in the table; empty if it has none.
        variables: Columns with clinical variables, and their cells.
    """

    files: tuple[CaseFile, ...]
    id: str = ""
    variables: tuple[tuple[str, str], ...] = ()


SampleSource = str | SourceFile | Case
"""A path; a file with its resolution; or a case. A path may hold any character."""


def sample_source(file: SourceFile) -> SampleSource:
    """Return the source of a sample of one file, in its simplest form."""
    return file.path if file.mpp is None else file


def files_of(source: SampleSource) -> tuple[SourceFile, ...]:
    """Return the files of a sample: one, or those of a case."""
    if isinstance(source, Case):
        return source.files
    return (source if isinstance(source, SourceFile) else SourceFile(source),)


def file_of(source: SampleSource) -> SourceFile:
    """Return the file of a sample that has only one, such as a slide."""
    (file,) = files_of(source)
    return file


def name_of(source: SampleSource) -> str:
    """Return the paths of a sample, for messages."""
    return ";".join(file.path for file in files_of(source))


def resolution(cell: object) -> float | None:
    """Parse a cell of a column ``mpp``, which may have a decimal comma; None if it is empty.

    Raises:
        UserError: Not a positive number.
    """
    if cell is None or cell == "":
        return None
    try:
        number = float(re.sub(r"^([0-9]*),([0-9]+)$", r"\1.\2", str(cell).strip()))
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise UserError(
            f"column mpp holds {shortened(cell)}; expected micrometers per pixel of the slide, such as 0.25, or an"
            " empty cell"
        )
    return number
