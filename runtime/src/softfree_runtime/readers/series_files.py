"""Grouping of the DICOM files of a folder into series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import UID

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.dicom import frame_count
from softfree_runtime.readers.dicom_elements import Elements
from softfree_runtime.readers.dicom_file import open_dicom
from softfree_runtime.readers.quiet import quiet
from softfree_runtime.readers.series_geometry import MARKS

_ENDINGS = (".dcm", ".dicom", ".ima")
_NEEDED = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "ImageType"),
    *("NumberOfFrames", "Rows", "Columns"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "SliceThickness"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
    *MARKS,
]
_IMAGES_IN_MOSAIC = 0x0019100A  # Siemens
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@dataclass(frozen=True)
class Series:
    """The files of one SeriesInstanceUID in one folder.

    Attributes:
        folder: The folder.
        files: Files sorted by name, at least one.
        headers: Header of each file, without pixels.
        description: SeriesDescription, or empty. Not for messages, since it is free text.
        others: Number of other files in the folder, which are not DICOM images.
        aside: Number of localizers and secondary captures skipped.
    """

    folder: Path
    files: tuple[Path, ...]
    headers: tuple[Dataset, ...]
    description: str
    others: int = 0
    aside: int = 0

    @property
    def multi_frame(self) -> bool:
        """Whether any file has several frames, so that each file is a separate volume."""
        with quiet():
            return any(frame_count(header) > 1 for header in self.headers)


def series_in(folder: Path) -> list[Series]:
    """Group the DICOM images directly in a folder by SeriesInstanceUID, sorted by file name.

    Localizers, and secondary captures without a position, are skipped if there are other images.

    Raises:
        ReadError: A DICOM file is damaged, so a slice would be missing.
    """
    members: list[tuple[Path, Dataset]] = []
    others = 0
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        header = read_header(path) if is_dicom(path) else None
        if header is None:
            others += 1
        else:
            members.append((path, header))
    by_uid: dict[str, list[tuple[Path, Dataset]]] = {}
    with quiet():
        kept = [member for member in members if not _is_no_slice(member[1])] or members
        for path, header in kept:
            by_uid.setdefault(Elements(header).text("SeriesInstanceUID"), []).append((path, header))
    return [make_series(folder, series, others, len(members) - len(kept)) for series in by_uid.values()]


def is_mosaic(header: Dataset) -> bool:
    """Return whether one image contains all slices side by side, as in functional and diffusion MR of Siemens."""
    return "MOSAIC" in map(str.upper, Elements(header).texts("ImageType")) or _IMAGES_IN_MOSAIC in header


def _is_no_slice(header: Dataset) -> bool:
    elements = Elements(header)
    if "LOCALIZER" in map(str.upper, elements.texts("ImageType")):
        return True
    has_position = "ImagePositionPatient" in elements or "PerFrameFunctionalGroupsSequence" in header
    return elements.text("SOPClassUID").startswith(_SECONDARY_CAPTURE) and not has_position


def is_dicom(path: Path) -> bool:
    """Return whether a file starts like DICOM, or is named so."""
    if path.suffix.lower() in _ENDINGS:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_header(path: Path) -> Dataset | None:
    """Read the elements needed to place an image; None for DICOM without an image, such as a report or a directory.

    Raises:
        ReadError: The file is damaged.
    """
    try:
        with quiet(), open_dicom(path, [*_NEEDED, _IMAGES_IN_MOSAIC]) as (dataset, _):
            frame_count(dataset)
            meta = Elements(dataset.file_meta)
            kind = UID(Elements(dataset).text("SOPClassUID") or meta.text("MediaStorageSOPClassUID"))
    except OSError as error:
        raise ReadError(f"cannot be opened ({error.strerror or error})", "missing", path=path) from error
    except ReadError as error:
        raise error.of(path) from error.__cause__
    if "Rows" in dataset and "Columns" in dataset:
        return dataset
    if not kind or "Image Storage" in kind.name:
        raise ReadError("damaged DICOM: no image size in the header; copy it again", path=path)
    return None


def make_series(folder: Path, members: Sequence[tuple[Path, Dataset]], others: int = 0, aside: int = 0) -> Series:
    """Create a series from files and their headers."""
    files, headers = zip(*members, strict=True)
    with quiet():
        description = Elements(headers[0]).texts("SeriesDescription")[0]
    return Series(folder, files, headers, description, others, aside)
