"""A DICOM file up to its pixel data, and where those lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from softfree.errors import ReadError

_UNDEFINED = 0xFFFFFFFF
_DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"  # which pydicom takes off
_KEYWORDS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}


@dataclass(frozen=True)
class PixelElement:
    """The element that holds the pixels.

    Attributes:
        keyword: ``PixelData``, ``FloatPixelData`` or ``DoubleFloatPixelData``.
        representation: the value representation, such as ``OW``; empty in implicit encoding.
        length: bytes that the header promises; None for encapsulated frames.
        source: an open file.
        start: where in ``source`` the value begins.
    """

    keyword: str
    representation: str
    length: int | None
    source: BinaryIO
    start: int

    def available(self) -> int:
        """Bytes of the value that the file really holds."""
        present = self.source.seek(0, SEEK_END) - self.start
        return max(0, present if self.length is None else min(present, self.length))


@contextmanager
def open_dicom(
    path: Path, keywords: Sequence[str | int] | None = None
) -> Iterator[tuple[FileDataset, PixelElement | None]]:
    """Read all that stands before the pixels, which stay in the file; what stands after them is not looked at.

    The data set has a transfer syntax, guessed from its encoding where the file names none.

    Args:
        path: the file.
        keywords: the elements that are wanted, or their tags; all of them by default.

    Raises:
        ReadError: it cannot be read as DICOM.
    """
    tags: list[BaseTag | int] | None = [Tag(keyword) for keyword in keywords] if keywords else None
    with path.open("rb") as file:
        met: list[tuple[int, str | None, int, int]] = []

        def at_pixels(tag: BaseTag, representation: str | None, length: int) -> bool:
            if tag not in _KEYWORDS:
                return False
            met.append((int(tag), representation, length, file.tell()))
            return True

        try:
            # Large elements, such as tables, are read when they are asked for.
            dataset = read_partial(file, at_pixels, defer_size=1 << 20, force=True, specific_tags=tags)
            deflated = dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
            element = None
            if deflated or (met and "Rows" not in dataset):  # its elements are out of order
                file.seek(0)
                dataset = dcmread(file, force=True, specific_tags=tags)
                element = _in_memory(dataset)
            elif met:
                tag, representation, length, start = met[0]
                declared = None if length == _UNDEFINED else length
                element = PixelElement(_KEYWORDS[tag], representation or "", declared, file, start)
        except MemoryError:
            raise
        except Exception as error:  # pydicom raises nearly anything on damaged files
            raise ReadError(f"{path}: not readable as DICOM ({type(error).__name__})", "corrupt") from error
        _name_syntax(dataset)
        yield dataset, element


def _in_memory(dataset: FileDataset) -> PixelElement | None:
    """The pixels of a file that had to be read as a whole, deflated or with its elements out of order."""
    for tag, keyword in _KEYWORDS.items():
        if (raw := dataset.get_item(tag)) is not None:
            content = raw.value or b""
            if getattr(raw, "length", None) == _UNDEFINED or getattr(raw, "is_undefined_length", False):
                return PixelElement(keyword, str(raw.VR or ""), None, BytesIO(content + _DELIMITER), 0)
            return PixelElement(keyword, str(raw.VR or ""), len(content), BytesIO(content), 0)
    return None


def _name_syntax(dataset: FileDataset) -> None:
    meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    if not meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        meta.TransferSyntaxUID = UID(native if little else ExplicitVRBigEndian)
        dataset.file_meta = meta
