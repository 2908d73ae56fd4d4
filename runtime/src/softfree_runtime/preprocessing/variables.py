"""Clinical variables of a case: from the cells of a table to the numbers that a model takes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from softfree_runtime.core.errors import ReadError, listed, shortened
from softfree_runtime.sources.identity import is_no_label, plain_text
from softfree_runtime.sources.sample_source import Case

NO_NUMBER = ("na", "n/a", "none", "unknown")
"""Words that stand for a missing number, in lower case, besides what programs write for an empty cell."""
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.IGNORECASE)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")


@dataclass(frozen=True)
class Variable:
    """A column of the table that a model takes beside the images.

    Attributes:
        name: The column.
        categories: The known categories, numbered from 1; 0 is any other. None for a number.
        low, high: Range of a number in the table of the training; None for categories.
    """

    name: str
    categories: list[str] | None = None
    low: float | None = None
    high: float | None = None

    def encode(self, cell: str) -> float:
        """Return the number of a category, or the number in the cell; NaN if it is empty or says that it is unknown.

        Raises:
            ReadError: Text instead of a number.
        """
        if self.is_missing(cell):
            return math.nan
        if self.categories is not None:
            category = as_category(cell)
            return float(self.categories.index(category) + 1) if category in self.categories else 0.0
        number = as_number(cell)
        if number is None:
            raise ReadError(
                f"{self.name} is {shortened(cell)}; expected a number with a decimal point, or an empty cell",
                "unsupported",
            )
        return number

    def is_missing(self, cell: str) -> bool:
        """Whether a cell is empty or says that its value is unknown; ``none`` may be a category."""
        return is_missing(cell, number=self.categories is None)

    def is_unknown(self, cell: str) -> bool:
        """Whether a cell is missing, or holds a category that is not known."""
        return self.is_missing(cell) or (self.categories is not None and as_category(cell) not in self.categories)


class TakesVariables:
    """Base of the preprocessing of samples that may have clinical variables.

    Attributes:
        variables: Fields of each :class:`Variable`, for JSON.
    """

    variables: list[dict[str, Any]]

    @cached_property
    def clinical_variables(self) -> tuple[Variable, ...]:
        """The clinical variables of a sample."""
        return tuple(Variable(**fields) for fields in self.variables)

    def encoded_variables(self, source: Any) -> np.ndarray:
        """Return the variables of a source, float32 (V,), NaN where unknown.

        Raises:
            ReadError: Text instead of a number.
        """
        return np.array(encode(self.clinical_variables, cells_of(source)), dtype=np.float32)

    def variables_in_words(self) -> list[str]:
        """Name the variables in a sentence; none without variables."""
        names = listed([variable.name for variable in self.clinical_variables])
        return [f"Clinical variables beside the images: {names}."] if names else []

    def hidden_in_words(self) -> str:
        """Say how many variables training hides, to be joined to other words; empty without variables."""
        share = getattr(self, "variable_dropout", 0.0)
        return f", {100 * share:g} % of the clinical variables hidden" if self.variables else ""


def cells_of(source: Any) -> dict[str, str]:
    """Return the cells of the clinical variables of a source, by column."""
    return dict(source.variables) if isinstance(source, Case) else {}


def hidden(count: int, share: float, random: np.random.Generator) -> np.ndarray:
    """Draw the numbers of variables that training hides: each with probability ``share``, and as often all."""
    return np.flatnonzero((random.random(count) < share) | (random.random() < share))


def is_missing(cell: str, *, number: bool) -> bool:
    """Whether a cell of numbers, or of categories, is empty or says that its value is unknown."""
    text = plain_text(cell)
    return not text or is_no_label(text) or (number and text.casefold() in NO_NUMBER)


def as_number(cell: str) -> float | None:
    """Return the finite number that a cell holds, with a decimal point or comma; None for anything else.

    ``1,234`` may be a thousand or a decimal and is nothing.
    """
    text = cell.strip()
    if _THOUSANDS.fullmatch(text) or not _NUMBER.fullmatch(text):
        return None
    number = float(text.replace(",", "."))
    return number if math.isfinite(number) else None


def as_category(cell: str) -> str:
    """Return a category in one form: without spaces around it, and 1 for 1.0."""
    text = plain_text(cell)
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", text)


def encode(variables: Sequence[Variable], cells: Mapping[str, str]) -> list[float]:
    """Encode the cells of a case, by column; NaN where there is none.

    Raises:
        ReadError: Text instead of a number.
    """
    return [variable.encode(cells.get(variable.name, "")) for variable in variables]


def missing(variables: Sequence[Variable], cells: Mapping[str, str]) -> list[str]:
    """Return the names of the variables that a case lacks, or whose category the model does not know."""
    return [variable.name for variable in variables if variable.is_unknown(cells.get(variable.name, ""))]


def notes(variables: Sequence[Variable], rows: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Say what a model makes of the cells of a table: by column, sentences."""
    found: dict[str, list[str]] = {}
    for variable in variables:
        cells = [cell for row in rows if not variable.is_missing(cell := row.get(variable.name, ""))]
        sentences = _notes(variable, cells) if cells else ["missing in all rows, which are predicted without it"]
        if sentences:
            found[variable.name] = sentences
    return found


def _notes(variable: Variable, cells: Sequence[str]) -> list[str]:
    if variable.categories is not None:
        unknown = sorted({as_category(cell) for cell in cells} - set(variable.categories))
        known = listed(variable.categories, 12)
        what = f"{listed(unknown, 5)} unknown to the model, which treats them as missing; it knows {known}"
        return [what] if unknown else []
    low, high = variable.low, variable.high
    if low is None or high is None:
        return []
    numbers = (as_number(cell) for cell in cells)
    outside = sum(number is not None and not low <= number <= high for number in numbers)
    words = f"{outside} of {len(cells)} values lie outside those of the training, {low:g} to {high:g}"
    return [f"{words}; check their unit"] if outside else []
