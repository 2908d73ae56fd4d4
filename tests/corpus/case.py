"""One property of real files, as a small file that has it and the values that are right.

A module of this folder makes cases with :func:`case`; ``test_corpus.py`` runs them all, and ``python -m tests.corpus``
writes the table of ``docs/reference/formats.md`` from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from softfree.data.modalities.feature_files import read_features
from softfree.data.slide_readers.slide import Slide, open_slide
from softfree.data.table import read_table
from softfree_runtime.readers import read_image
from softfree_runtime.sources.volume_files import read_volume


def open_with_pixels(path: Path, **arguments: Any) -> Slide:
    """Open a slide and read all of it at its finest level, as its attribute ``pixels``."""
    slide = open_slide(path, **arguments)
    slide.pixels = slide.read(0, 0, *slide.size, slide.mpp[0])  # type: ignore[attr-defined]
    return slide


Outcome = Literal["read", "corrected", "refused"]
READERS: dict[str, Callable[..., Any]] = {
    "image": read_image,
    "volume": read_volume,
    "slide": open_with_pixels,
    "features": read_features,
    "table": read_table,
}


@dataclass(frozen=True)
class Made:
    """A file that was written, and what is right.

    Attributes:
        path: what the reader is given.
        expected: right values by the attribute of the sample that holds them, such as ``pixels`` or ``task.classes``;
            arrays and numbers are compared to ``tolerance``. Empty for a file that is to be refused.
        tolerance: largest absolute difference.
        arguments: of the reader.
    """

    path: Path
    expected: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 1e-6
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One property.

    Attributes:
        format: the group of formats it is listed under, such as ``DICOM``.
        property: what is special about the file, in words.
        reader: a key of ``READERS``.
        outcome: whether the file is read as it stands, read with a correction that is said, or refused.
        says: what the correction or the reason must contain, case folded.
        status: of the refusal; None for a table.
        make: writes the file into an empty folder.
    """

    format: str
    property: str
    reader: str
    outcome: Outcome
    says: str
    status: str | None
    make: Callable[[Path], Made]


CASES: list[Case] = []


def case(
    format: str, property: str, reader: str, outcome: Outcome, *, says: str = "", status: str | None = "corrupt"
) -> Callable[[Callable[[Path], Made]], Callable[[Path], Made]]:
    """Register a function that writes a file as a case; the arguments are those of :class:`Case`."""

    def register(make: Callable[[Path], Made]) -> Callable[[Path], Made]:
        assert reader in READERS, reader
        CASES.append(Case(format, property, reader, outcome, says, None if reader == "table" else status, make))
        return make

    return register


def differs(sample: Any, made: Made) -> list[str]:
    """Return what is not as expected, a line each."""
    results = []
    for name, right in made.expected.items():
        value = attrgetter(name)(sample)
        if isinstance(value, pd.Series):
            value = value.tolist()
        if isinstance(right, np.ndarray | float | int) and not isinstance(right, bool):
            same = np.shape(value) == np.shape(right) and np.allclose(value, right, rtol=0, atol=made.tolerance)
        else:
            same = value == right
        if not same:
            results.append(f"{name}: got {value!r}, expected {right!r}"[:2000])
    return results
