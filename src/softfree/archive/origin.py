"""Where an image comes from, by elements of its header that do not identify a patient: month, device and site."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from softfree_runtime.readers.dicom_file import open_dicom
from softfree_runtime.readers.series_files import is_dicom

COLUMNS = ("month", "device", "site")
_KEYWORDS = ("StudyDate", "AcquisitionDate", "Manufacturer", "ManufacturerModelName", "InstitutionName")
Origin = tuple[str | None, str | None, str | None]


def origin_of(path: str) -> Origin:
    """Return the month (``2026-11``), device and site of a DICOM file; None for what it does not say."""
    file = Path(path)
    if not (file.is_file() and is_dicom(file)):
        return None, None, None
    found: dict[str, str] = {}
    with suppress(Exception), open_dicom(file, _KEYWORDS) as (header, _):  # why it is unreadable is in its row
        found = {name: str(header.get(name) or "").strip() for name in _KEYWORDS}
    date = re.match(r"(\d{4})\.?(\d{2})", found.get("StudyDate", "") or found.get("AcquisitionDate", ""))
    device = " ".join(filter(None, (found.get("Manufacturer"), found.get("ManufacturerModelName"))))
    return f"{date[1]}-{date[2]}" if date else None, device or None, found.get("InstitutionName") or None
