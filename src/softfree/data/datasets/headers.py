"""Values from the headers of DICOM files of public data sets."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread

from softfree_runtime.readers.quiet import quiet


def header_text(path: Path, keywords: tuple[str, ...]) -> list[str | None]:
    """Return the elements as text, None for those absent; all None if the file cannot be read.

    ``softfree check`` reports broken files.
    """
    try:
        with quiet():
            header = dcmread(path, stop_before_pixels=True, specific_tags=list(keywords))
        return [str(header.get(keyword) or "").strip() or None for keyword in keywords]
    except Exception:  # pydicom raises many kinds of exceptions
        return [None] * len(keywords)


def years(age: str | None) -> int | None:
    """Return whole years of a DICOM age such as 061Y; None for other units, and for 0, which stands for unknown."""
    number = (age or "").removesuffix("Y")
    return int(number) if number.isdigit() and int(number) > 0 else None
