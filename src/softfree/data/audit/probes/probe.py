"""What is kept of a sample, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

BLOCK = 1 << 20
"""Bytes or values that are hashed at once."""


@dataclass(frozen=True)
class Probe:
    """Facts about one sample; all but the first two are unset when it cannot be read.

    Attributes:
        status: ``ok``, or why it cannot be read (see :class:`softfree_runtime.core.errors.ReadError`).
        reason: the same for people.
        file_size: bytes.
        height: rows; of tile features the tiles.
        width: columns; of tile features their width.
        channels: 1 or 3; of a volume any number.
        stored: what the file holds, such as ``8-bit gray``.
        spacing: millimeters from (slice to slice,) row to row and column to column, where the file says so.
        blank: whether all pixels are the same.
        pixel_digest: of the decoded values, whatever the file format; a gray image has the same one as RGB.
        file_digest: of the file.
        corrections: what the reader assumed or corrected, in words.
        thumbnail: of an image, see :func:`softfree.data.audit.near_duplicates.thumbnail`; None for other kinds.
    """

    status: str
    reason: str
    file_size: int = 0
    height: int = 0
    width: int = 0
    channels: int = 0
    stored: str = ""
    spacing: tuple[float, ...] | None = None
    blank: bool = False
    pixel_digest: bytes = b""
    file_digest: bytes = b""
    corrections: tuple[str, ...] = ()
    thumbnail: np.ndarray | None = field(default=None, compare=False, repr=False)


def digest_file(path: Path) -> tuple[int, bytes]:
    """Size and digest of a file."""
    digest, size = blake2b(digest_size=16), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
    return size, digest.digest()
