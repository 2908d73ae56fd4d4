"""Which DICOM files of a folder belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from softfree.data.readers.dicom import frame_count
from softfree.data.readers.quiet import quiet
from softfree.errors import ReadError

_ENDINGS = (".dcm", ".dicom", ".ima")
_NEEDED = [
    *("SOPClassUID", "SeriesInstanceUID", "SeriesDescription", "NumberOfFrames", "Rows", "Columns"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SpacingBetweenSlices", "SliceThickness"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
]


@dataclass(frozen=True)
class Series:
    """The files of one SeriesInstanceUID in one folder.

    Attributes:
        folder: where they lie.
        files: sorted by name, at least one.
        headers: of each file, without pixels.
        description: SeriesDescription, empty where there is none. It is not for messages: people write into it.
        others: number of files beside them that are no DICOM images.
    """

    folder: Path
    files: tuple[Path, ...]
    headers: tuple[Dataset, ...]
    description: str
    others: int = 0

    @property
    def multi_frame(self) -> bool:
        """Whether any file holds several frames, which makes each file a volume of its own."""
        return any(frame_count(header) > 1 for header in self.headers)


def series_in(folder: Path) -> list[Series]:
    """Group the DICOM images that lie in a folder itself, not below it, by SeriesInstanceUID; sorted by file name.

    Raises:
        ReadError: a DICOM file that is damaged, since a slice would be missing.
    """
    found: dict[str, list[tuple[Path, Dataset]]] = {}
    others = 0
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        header = read_header(path) if is_dicom(path) else None
        if header is None:
            others += 1
        else:
            found.setdefault(str(header.get("SeriesInstanceUID") or ""), []).append((path, header))
    return [make_series(folder, members, others) for members in found.values()]


def is_dicom(path: Path) -> bool:
    """Whether a file begins like DICOM, or is named so."""
    if path.suffix.lower() in _ENDINGS:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_header(path: Path) -> Dataset | None:
    """Read the elements that place a file; None for DICOM that is no image, such as a report or a directory.

    Raises:
        ReadError: a damaged file.
    """
    with quiet():
        try:
            dataset = dcmread(path, force=True, stop_before_pixels=True, specific_tags=_NEEDED)
            for _ in dataset:  # elements are parsed when they are first looked at
                pass
            frame_count(dataset)
            kind = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
        except OSError as error:
            raise ReadError(f"{path}: cannot be opened ({error.strerror or error})", "missing") from error
        except Exception as error:  # pydicom raises nearly anything on damaged files
            raise ReadError(f"{path}: not readable as DICOM ({type(error).__name__}); fetch it again") from error
    if "Rows" in dataset and "Columns" in dataset:
        return dataset
    if kind is None or "Image Storage" in UID(kind).name:
        raise ReadError(f"{path}: damaged DICOM: no size of its image in the header; fetch it again")
    return None


def make_series(folder: Path, members: Sequence[tuple[Path, Dataset]], others: int = 0) -> Series:
    """Make a series of files and their headers."""
    files, headers = zip(*members, strict=True)
    return Series(folder, files, headers, str(headers[0].get("SeriesDescription") or ""), others)
