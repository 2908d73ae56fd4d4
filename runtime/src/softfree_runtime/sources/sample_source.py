"""What a sample is read from: a path, a path with the resolution of its row, or the several files of a patient."""

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


SampleSource = str | SourceFile | tuple[SourceFile, ...]
"""A path; a file with its resolution; or the files of one bag. A path is never parsed: any character is allowed."""


def sample_source(files: Sequence[SourceFile]) -> SampleSource:
    """Return the source of a sample that consists of ``files``, in its simplest form."""
    if len(files) > 1:
        return tuple(files)
    return files[0].path if files[0].mpp is None else files[0]


def files_of(source: SampleSource) -> tuple[SourceFile, ...]:
    """Return the files of a sample: one, or the several files of a bag."""
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
