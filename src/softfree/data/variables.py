"""Clinical variables beside the images: their columns are checked, described, and their scale is estimated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from softfree.data.table_file import TableFile, no_column
from softfree_runtime.core.errors import UserError, listed, shortened
from softfree_runtime.preprocessing.variables import (
    NO_NUMBER,
    Variable,
    as_category,
    as_number,
    cells_of,
    encode,
    is_missing,
)
from softfree_runtime.sources.cases import CASE, TIME, VIEW
from softfree_runtime.sources.sample_source import SampleSource

MAX_CATEGORIES = 50
_RESERVED = ("path", "split", "frame", "patient_id", "mpp", CASE, VIEW, TIME)


def check_variables(
    path: Path, table: TableFile, names: Sequence[str], categorical: Sequence[str], labels: Sequence[str]
) -> list[str]:
    """Check the columns that ``--variables`` names.

    Args:
        path: The table, for messages.
        table: Its rows, these columns as text.
        names: The columns.
        categorical: Those of them whose numbers are categories.
        labels: The columns of the target.

    Returns:
        Notes on what was assumed, one sentence each.

    Raises:
        UserError: A column is missing, reserved or the target; a number column with text, or a category column with
            too many values; names the lines of the table.
    """
    columns = [str(name) for name in table.frame.columns]
    if other := sorted(set(categorical) - set(names)):
        raise UserError(f"--categorical {other[0]}: it is not one of --variables {listed(names)}; add it there")
    notes = []
    for name in names:
        if name not in columns:
            raise no_column(path, name, columns, "name others with --variables")
        if name in _RESERVED or name in labels:
            what = "the target" if name in labels else "no clinical variable"
            raise UserError(f"--variables {name}: this column is {what}; leave it out")
        cells = table.frame[name].dropna()
        known = cells[[not is_missing(cell, number=False) for cell in cells]]
        if known.empty:
            raise UserError(f"{path}: column {name!r} is empty in every row; leave it out of --variables")
        if name in categorical or not _mostly_numbers(known):
            _refuse_many_categories(path, name, known)
        else:
            _refuse_text(path, table, name, known)
        if known.map(as_category).nunique() == 1:
            notes.append(
                f"column {name!r} has one value in all rows, {shortened(known.iloc[0])}: it cannot add anything"
            )
    return notes


def describe_variables(
    names: Sequence[str], categorical: Sequence[str], sources: Sequence[SampleSource]
) -> list[dict[str, Any]]:
    """Describe variables by the cells of all samples: the categories, or the range of a number.

    No statistic of them enters the model: a category that training did not meet acts like an unknown one.

    Returns:
        Fields of :class:`~softfree_runtime.preprocessing.variables.Variable`.
    """
    return [asdict(_described(name, name in categorical, sources)) for name in names]


def scales(variables: Sequence[Variable], training: Sequence[SampleSource]) -> list[dict[str, float]]:
    """Return what a model needs to know of each variable: the number of ``categories``, or ``mean`` and ``std``.

    Args:
        variables: The variables.
        training: The training samples, from which mean and standard deviation are estimated.

    Raises:
        UserError: No training sample has a number.
    """
    values = np.array([encode(variables, cells_of(source)) for source in _readable(variables, training)])
    values = values.reshape(-1, len(variables))
    return [_scale(variable, column) for variable, column in zip(variables, values.T, strict=True)]


def design(variables: Sequence[Variable], values: np.ndarray) -> np.ndarray:
    """Return the columns of a regression on variables: numbers and whether they are missing, and each category.

    Args:
        variables: The variables.
        values: Encoded (n, V), NaN where unknown.

    Returns:
        float64 (n, P). A missing number is the middle of its range.
    """
    columns = []
    for variable, column in zip(variables, np.asarray(values, dtype=np.float64).T, strict=True):
        unknown = np.isnan(column)
        if variable.categories is not None:
            columns += [column == number for number in range(1, len(variable.categories) + 1)]
        else:
            assert variable.low is not None
            assert variable.high is not None
            columns += [np.where(unknown, (variable.low + variable.high) / 2, column), unknown]
    return np.stack(columns, axis=1).astype(np.float64)


def _mostly_numbers(cells: pd.Series) -> bool:
    numbers = [as_number(cell) is not None for cell in cells if cell.casefold() not in NO_NUMBER]
    return sum(numbers) > len(numbers) / 2


def _refuse_text(path: Path, table: TableFile, name: str, cells: pd.Series) -> None:
    wrong = cells[[as_number(cell) is None and not is_missing(cell, number=True) for cell in cells]]
    if len(wrong):
        raise UserError(
            f"{path}: {shortened(wrong.iloc[0])} in column {name!r} ({table.rows.name(wrong.index)}) is not a number;"
            " expected digits with a decimal point and no unit, or an empty cell; if the numbers are categories, name"
            f" it in --categorical '[{name}]'"
        )


def _refuse_many_categories(path: Path, name: str, cells: pd.Series) -> None:
    count = cells.map(as_category).nunique()
    if count > MAX_CATEGORIES:
        raise UserError(
            f"{path}: column {name!r} has {count} different values; expected numbers, or at most {MAX_CATEGORIES}"
            " categories: group them, or leave it out of --variables"
        )


def _described(name: str, categorical: bool, sources: Sequence[SampleSource]) -> Variable:
    cells = pd.Series([cells_of(source).get(name, "") for source in sources], dtype=object)
    known = cells[[not is_missing(cell, number=False) for cell in cells]]
    numbers = [as_number(cell) for cell in known if not is_missing(cell, number=True)]
    values = [number for number in numbers if number is not None]
    # No majority: cases weigh cells otherwise than the rows of check_variables, which left text to categories only.
    if categorical or not values or len(values) < len(numbers):
        return Variable(name, sorted({as_category(cell) for cell in known}))
    return Variable(name, None, min(values), max(values))


def _readable(variables: Sequence[Variable], sources: Sequence[SampleSource]) -> list[SampleSource]:
    """Return the samples whose numbers are numbers; the others cannot be read."""
    numbers = [variable for variable in variables if variable.categories is None]

    def is_readable(cells: Mapping[str, str]) -> bool:
        own = (cells.get(variable.name, "") for variable in numbers)
        return all(is_missing(cell, number=True) or as_number(cell) is not None for cell in own)

    return [source for source in sources if is_readable(cells_of(source))]


def _scale(variable: Variable, column: np.ndarray) -> dict[str, float]:
    if variable.categories is not None:
        return {"categories": len(variable.categories)}
    known = column[~np.isnan(column)]
    if not len(known):
        raise UserError(
            f"column {variable.name!r} is empty in every training row; leave it out of --variables, or give more rows"
            " a value"
        )
    return {"mean": float(known.mean()), "std": float(known.std()) or 1.0}
