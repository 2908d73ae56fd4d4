"""Reading a DICOM file up to its pixel data, and locating them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.filereader import read_dataset, read_file_meta_info, read_partial
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.dicom_elements import Elements

_UNDEFINED = 0xFFFFFFFF
_SYNTAX = Tag("TransferSyntaxUID")
_LARGE = 1 << 20  # bytes
# SamplesPerPixel: implicit or not, little-endian or not, and the bytes before its value.
_BEGINNINGS = (
    (False, True, b"\x28\x00\x02\x00US\x02\x00"),
    (True, True, b"\x28\x00\x02\x00\x02\x00\x00\x00"),
    (False, False, b"\x00\x28\x00\x02US\x00\x02"),
)
_DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"  # which pydicom strips
_KEYWORDS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}


@dataclass(frozen=True)
class PixelElement:
    """The element that holds the pixels.

    Attributes:
        keyword: ``PixelData``, ``FloatPixelData`` or ``DoubleFloatPixelData``.
        representation: The value representation, such as ``OW``; empty in implicit encoding.
        length: Bytes according to the header; None for encapsulated frames.
        source: An open file.
        start: Offset of the value in ``source``.
        after_damage: Whether elements before the Image Pixel module could not be read.
    """

    keyword: str
    representation: str
    length: int | None
    source: BinaryIO
    start: int
    after_damage: bool = False

    def available(self) -> int:
        """Return how many bytes of the value the file actually contains."""
        present = self.source.seek(0, SEEK_END) - self.start
        return max(0, present if self.length is None else min(present, self.length))


@contextmanager
def open_dicom(
    path: Path, keywords: Sequence[str | int] | None = None
) -> Iterator[tuple[FileDataset, PixelElement | None]]:
    """Read everything before the pixels, which stay in the file; what follows them is ignored.

    The data set has a transfer syntax, guessed from its encoding if the file names none.

    Args:
        path: The file.
        keywords: Keywords or tags of the elements to read; all by default.

    Raises:
        ReadError: It cannot be read as DICOM.
    """
    tags: list[BaseTag | int] | None = [Tag(keyword) for keyword in keywords] if keywords else None
    with path.open("rb") as file:
        watch = _Watch(file)
        try:
            dataset, element = _read(file, watch, tags)
        except MemoryError:
            raise
        except Exception as error:  # pydicom raises nearly anything on damaged files
            recovered = _recovered(path, file, tags)
            if recovered is None:
                raise ReadError(f"not readable as DICOM ({type(error).__name__})", "corrupt", path=path) from error
            dataset, element = recovered
        if watch.lost and (element is None or "Rows" not in dataset):
            dataset, element = _recovered(path, file, tags) or (dataset, element)
        _name_syntax(dataset)
        yield dataset, element


class _Watch:
    """Observes the elements of a data set as they are read, and stops at the pixels.

    Attributes:
        pixels: Tag, value representation, length and start of the pixels, once they are reached.
        lost: Whether the elements are out of order or end beyond the file: one of them has a wrong length.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, SEEK_END)
        file.seek(0)
        self._last = 0
        self.pixels: tuple[int, str, int, int] | None = None
        self.lost = False

    def __call__(self, tag: BaseTag, representation: str | None, length: int) -> bool:
        start = self._file.tell()
        if tag in _KEYWORDS:
            self.pixels = int(tag), representation or "", length, start
            return True
        self.lost |= tag <= self._last or (length != _UNDEFINED and start + length > self._size)
        self._last = int(tag)
        return False

    def element(self, damaged: bool = False) -> PixelElement | None:
        """Return the element with the pixels, if it was reached."""
        if self.pixels is None:
            return None
        tag, representation, length, start = self.pixels
        declared = None if length == _UNDEFINED else length
        return PixelElement(_KEYWORDS[tag], representation, declared, self._file, start, damaged)


def _read(file: BinaryIO, watch: _Watch, tags: list[BaseTag | int] | None) -> tuple[FileDataset, PixelElement | None]:
    # Large elements, such as tables, are read on access.
    dataset = read_partial(file, watch, defer_size=_LARGE, force=True, specific_tags=tags)
    deflated = dataset.file_meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
    if deflated or (watch.pixels and "Rows" not in dataset):  # its elements are out of order
        file.seek(0)
        dataset = dcmread(file, force=True, specific_tags=tags)
        return dataset, _in_memory(dataset)
    return dataset, watch.element()


def _recovered(
    path: Path, file: BinaryIO, tags: list[BaseTag | int] | None
) -> tuple[FileDataset, PixelElement | None] | None:
    """Read from the Image Pixel module on, which begins with SamplesPerPixel, if elements before it are damaged."""
    file.seek(0)
    content = file.read()
    if content[128:132] != b"DICM":
        return None
    try:
        meta = read_file_meta_info(path)
    except Exception:  # damaged, too
        meta = FileMetaDataset()
    for implicit, little, beginning in _BEGINNINGS:
        if (start := content.find(beginning)) < 0:
            continue
        watch = _Watch(file)
        file.seek(start)
        with suppress(Exception):
            elements = read_dataset(file, implicit, little, stop_when=watch, defer_size=_LARGE, specific_tags=tags)
            if watch.pixels and not watch.lost and "Rows" in elements:
                dataset = FileDataset(file, elements, None, meta, implicit, little)
                dataset.set_original_encoding(implicit, little, "iso8859")
                return dataset, watch.element(damaged=True)
    return None


def _in_memory(dataset: FileDataset) -> PixelElement | None:
    """Return the pixels of a file read as a whole, since it is deflated or its elements are out of order."""
    for tag, keyword in _KEYWORDS.items():
        if (raw := dataset.get_item(tag)) is not None:
            content = raw.value or b""
            if getattr(raw, "length", None) == _UNDEFINED or getattr(raw, "is_undefined_length", False):
                return PixelElement(keyword, str(raw.VR or ""), None, BytesIO(content + _DELIMITER), 0)
            return PixelElement(keyword, str(raw.VR or ""), len(content), BytesIO(content), 0)
    return None


def _name_syntax(dataset: FileDataset) -> None:
    meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    syntax = Elements(meta).texts("TransferSyntaxUID")[0]
    if not syntax:
        implicit, little = dataset.original_encoding
        native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        syntax = native if little else ExplicitVRBigEndian
    meta[_SYNTAX] = DataElement(_SYNTAX, "UI", UID(syntax))
    dataset.file_meta = meta
