"""The files of a case as its images: those of one DICOM series are one volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.dicom_elements import Elements
from softfree_runtime.readers.quiet import quiet
from softfree_runtime.readers.series_files import is_dicom, read_header


def first_files(paths: Sequence[str], views: Sequence[str], preprocessing: Mapping[str, Any]) -> list[int]:
    """Return the numbers of the files that stand for the images of a case: of a series of slices the first.

    Args:
        paths: All files; those of a series lie in one folder, where a reader finds the others beside the first.
        views: View of each file.
        preprocessing: Of a model of cases, as a dictionary.
    """
    kinds = [preprocessing["image"]["kind"], *(other["image"]["kind"] for other in preprocessing.get("others", ()))]
    tokenizer_of = preprocessing.get("tokenizer_of", {})
    kept, seen = [], set()
    for number, (path, view) in enumerate(zip(paths, views, strict=True)):
        series = _series(Path(path)) if kinds[tokenizer_of.get(view, 0)] == "volume" else None
        if series is None or series not in seen:
            kept.append(number)
        seen.add(series)
    return kept


def _series(path: Path) -> str | None:
    """Return the series of a slice; None for files of another kind, and for those that hold a volume each."""
    try:
        header = read_header(path) if is_dicom(path) else None
        if header is None:
            return None
        with quiet():
            return Elements(header).text("SeriesInstanceUID") if "ImagePositionPatient" in header else None
    except ReadError:  # whose reason comes when it is read
        return None
