"""Sources of slides and bags: a path joined with the resolution of its row, ``slide.svs#mpp=0.25``."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from softfree_runtime.core.errors import UserError, shortened

if TYPE_CHECKING:
    import pandas as pd

    from softfree.data.table import Table


def split_source(source: str) -> tuple[str, float | None]:
    """Split a source into path and micrometers per pixel, None if it has none."""
    found = re.fullmatch(r"(.*)#mpp=([0-9]+\.?[0-9]*(?:e[+-]?[0-9]+)?)", source, re.DOTALL)
    return (found[1], float(found[2])) if found else (source, None)


def join_source(path: str, mpp: float | None) -> str:
    """Join a path with micrometers per pixel; inverse of :func:`split_source`."""
    return path if mpp is None else f"{path}#mpp={mpp!r}"


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


def resolutions(column: pd.Series) -> list[float | None]:
    """Parse the cells of a column ``mpp``; as :func:`resolution`."""
    return [resolution(cell) for cell in column.astype(object).where(column.notna(), None)]


def with_resolution(table: Table) -> Table:
    """Join each row's file with its column ``mpp``, if the table has one."""
    if "mpp" not in table.frame:
        return table
    pairs = zip(table.frame["file"], resolutions(table.frame["mpp"]), strict=True)
    return replace(table, frame=table.frame.assign(file=[join_source(path, mpp) for path, mpp in pairs]))
