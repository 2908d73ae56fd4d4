"""Reading images: the reader is chosen by a file's content, not by its name."""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.dicom import read_dicom
from softfree_runtime.readers.image import DecodedImage
from softfree_runtime.readers.raster import read_raster
from softfree_runtime.readers.settings import SETTINGS, tell
from softfree_runtime.readers.tiff import read_tiff

__all__ = ["DecodedImage", "read_image"]

_HEAD = 352  # bytes that identify a file
_NIFTI = (b"n+1", b"ni1", (348).to_bytes(4, "little"), (348).to_bytes(4, "big"))
_RASTER = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF87a", b"GIF89a")
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
# A data set without preamble starts with group 2 or 8, in either byte order.
_DICOM = (b"\x02\x00", b"\x08\x00", b"\x00\x02\x00", b"\x00\x08\x00")
_ELSEWHERE = {
    b"\x1f\x8b": "a gzip-compressed file; unpack it first",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"%PDF": "a PDF document; save its image as PNG",
    b"\x89HDF": "an HDF5 file; save its images as PNG or TIFF",
    b"\x93NUMPY": "a NumPy array; save it as TIFF",
}


def read_image(path: str | Path, *, frame: int | None = None, max_pixels: int | None = None) -> DecodedImage:
    """Read one image: DICOM, TIFF, PNG, JPEG, BMP, GIF or WebP.

    Args:
        path: The file.
        frame: Which frame or page, counted from 0; the first one by default.
        max_pixels: Larger images are refused by their header, before anything is decoded; default: 2**28, unless the
            program has changed :data:`~softfree_runtime.readers.settings.SETTINGS`.

    Raises:
        ReadError: Names the file, the reason and the fix; its status is ``missing``, ``empty``,
            ``folder``, ``no_pixels``, ``corrupt``, ``unsupported``, ``too_large`` or ``not_finite``.
    """
    image = _read(Path(path), frame, SETTINGS.max_pixels if max_pixels is None else max_pixels).with_growth_noted()
    tell(path, image.steps)
    return image


def _read(path: Path, frame: int | None, max_pixels: int) -> DecodedImage:
    head = file_head(path)
    try:
        if head[128:132] == b"DICM":
            return read_dicom(path, frame, max_pixels=max_pixels)
        if head.startswith(_TIFF):
            return read_tiff(path, frame, max_pixels=max_pixels)
        if head.startswith(_RASTER) or (head.startswith(b"RIFF") and head[8:12] == b"WEBP"):
            return read_raster(path, frame, max_pixels=max_pixels)
        if kind := _unsupported(head, path.name):
            raise ReadError(f"{kind}", "unsupported", path=path)
        if head.startswith(_DICOM) or path.suffix.lower() in (".dcm", ".dicom", ".ima"):
            return read_dicom(path, frame, max_pixels=max_pixels)
    except MemoryError as error:
        raise ReadError("does not fit in memory; cut it into regions or reduce it", "too_large", path=path) from error
    raise ReadError(
        "not an image that softfree reads: DICOM, TIFF, PNG, JPEG, BMP, GIF, WebP", "unsupported", path=path
    )


def file_head(path: Path) -> bytes:
    """Return the first bytes of a file; ReadError if it cannot be opened or is empty."""
    try:
        if path.is_dir():
            os.scandir(path).close()  # an unreadable folder raises here
            raise ReadError("a folder; expected an image file", "folder", path=path)
        if not os.path.lexists(path):
            raise ReadError("no such file; check the path and the folder it is relative to", "missing", path=path)
        if not path.is_file():
            raise ReadError("not a regular file, or a broken link", "missing", path=path)
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError) as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(
            f"cannot be opened ({getattr(error, 'strerror', None) or error})", "missing", path=path
        ) from error
    if not head:
        raise ReadError("an empty file (0 bytes); fetch it again", "empty", path=path)
    return head


def _unsupported(head: bytes, name: str) -> str | None:
    """Return what a file is that is known but not supported."""
    inside = _unzipped(head)
    magic = inside[344:347] or inside[:4]  # poorly compressed data may not reach the magic number
    if magic in _NIFTI or inside[4:7] in (b"n+2", b"ni2") or name.lower().endswith(".nii.gz"):
        return "a NIfTI volume; train or predict with a model of volumes, such as seqnorm_vit3d_tiny"
    return next((kind for magic, kind in _ELSEWHERE.items() if head.startswith(magic)), None)


def _unzipped(head: bytes) -> bytes:
    """Return ``head`` unzipped if it is gzip-compressed."""
    if head.startswith(b"\x1f\x8b"):
        with contextlib.suppress(zlib.error):
            return zlib.decompressobj(wbits=31).decompress(head, _HEAD)
    return head
