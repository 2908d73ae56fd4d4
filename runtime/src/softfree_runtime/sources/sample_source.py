"""What a sample is read from: a path, a path with the resolution of its row, or several files."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
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
    """An image of a case.

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
    """Images that are classified together, in an order that does not depend on the table's.

    Attributes:
        files: The images.
        id: Name of the case in the table; empty if it has none.
        variables: Columns with clinical variables, and their cells.
    """

    files: tuple[CaseFile, ...]
    id: str = ""
    variables: tuple[tuple[str, str], ...] = ()


SampleSource = str | SourceFile | tuple[SourceFile, ...] | Case
"""A path; a file with its resolution; the files of a bag; or a case. A path may hold any character."""


def sample_source(files: Sequence[SourceFile]) -> SampleSource:
    """Return the source of a sample that consists of ``files``, in its simplest form."""
    if len(files) > 1:
        return tuple(files)
    return files[0].path if files[0].mpp is None else files[0]


def files_of(source: SampleSource) -> tuple[SourceFile, ...]:
    """Return the files of a sample: one, or the several files of a bag or a case."""
    if isinstance(source, Case):
        return source.files
    if isinstance(source, tuple):
        return source
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
