"""Verification that a scan of lossless JPEG is complete, by decoding one additional row.

Codes of one more row are appended to the scan. The decoder reads that row correctly only if it consumed exactly what
the file holds for the rows before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from softfree_runtime.readers.jpeg import LOSSLESS, Frame, Scan, codes

# Random, so that a shifted copy is not mistaken for it; without 0xff, which starts a marker.
_ADDED = np.random.default_rng(0).integers(0, 255, 128, dtype=np.uint8).tobytes()
_COMPARED = 6  # pixels
_NO_CODE = (17, 0)  # bits that libjpeg skips, and the difference that it assumes, for an invalid code
# A scan is padded to whole bytes with ones (ITU-T T.81, F.1.2.3); some encoders use zeros, or add a byte.
_FILLS = [
    bit * count + byte for byte in ("", "0" * 8, "1" * 8) for bit in "10" for count in range(8) if count or bit == "1"
]


@dataclass(frozen=True)
class Lengthened:
    """A stream of lossless JPEG with an additional row.

    Attributes:
        source: Stream to decode.
        frame: Its header, without the added row.
        added: Whether there is such a row; scans with restart intervals or of one color each are unchanged.
    """

    source: bytes
    frame: Frame
    added: bool

    @classmethod
    def of(cls, source: bytes, frame: Frame) -> Lengthened:
        """Add the row, if possible."""
        scan = frame.scans[0]
        simple = len(frame.scans) == 1 and not scan.restart and not scan.approximation & 15
        if frame.process != LOSSLESS or not simple or frame.height == 0xFFFF:
            return cls(source, frame, False)
        offset = frame.height_at
        head = source[:offset] + (frame.height + 1).to_bytes(2) + source[offset + 2 : scan.start]
        return cls(head + source[scan.start : scan.end] + _ADDED + b"\xff\xd9", frame, True)

    def checked(self, pixels: np.ndarray) -> np.ndarray:
        """Remove the added row from ``(H + 1, W)`` or ``(H + 1, W, C)``; ValueError if it was not decoded correctly."""
        if not self.added:
            return pixels
        rows = pixels[-2:, :_COMPARED].reshape(2, min(_COMPARED, self.frame.width), -1).astype(np.int64)
        mask = (1 << 8 * pixels.dtype.itemsize) - 1
        scan = self.frame.scans[0]
        if not any(_follows(rows, differences, scan.first, mask) for differences in _differences(scan, rows[0].size)):
            raise ValueError("lossless JPEG scan that ends early or late")
        return pixels[:-1]


def _follows(rows: np.ndarray, differences: list[int], predictor: int, mask: int) -> bool:
    """Return whether the second of ``rows`` ``(2, W, C)`` follows from the first and ``differences``."""
    above, decoded = rows
    channels = above.shape[1]
    row = np.zeros_like(above)
    for number, difference in enumerate(differences):
        column, channel = divmod(number, channels)
        if column:
            left, up, corner = row[column - 1, channel], above[column, channel], above[column - 1, channel]
            predicted = _predicted(predictor, int(left), int(up), int(corner))
        else:
            predicted = int(above[0, channel])
        row[column, channel] = (predicted + difference) & 0xFFFF
        if row[column, channel] & mask != decoded[column, channel]:
            return False
    return True


def _predicted(predictor: int, left: int, up: int, corner: int) -> int:
    """Predict a sample from its neighbors (ITU-T T.81, table H.1)."""
    return (
        *(0, left, up, corner, left + up - corner),
        *(left + ((up - corner) >> 1), up + ((left - corner) >> 1), (left + up) >> 1),
    )[predictor & 7]


def _differences(scan: Scan, count: int) -> Iterator[list[int]]:
    """Yield the first ``count`` differences that the added codes encode, for each possible padding of the scan."""
    tables = [
        {(length, code): symbol for length, code, symbol in _numbered(scan.tables[0, table])}
        for _, table, _ in scan.components
    ]
    added = "".join(f"{byte:08b}" for byte in _ADDED)
    for fill in _FILLS:
        bits = fill + added
        differences: list[int] = []
        position = 0
        while len(differences) < count:
            table = tables[len(differences) % len(tables)]
            length, size = next(
                (
                    (length, table[key])
                    for length in range(1, 17)
                    if (key := (length, int(bits[position : position + length], 2))) in table
                ),
                _NO_CODE,
            )
            position += length
            if size == 16:
                differences.append(1 << 15)
                continue
            value = int(bits[position : position + size] or "0", 2)
            differences.append(value if not size or value >> (size - 1) else value - (1 << size) + 1)
            position += size
        yield differences


def _numbered(table: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield length, code and symbol of each code (ITU-T T.81, C.2)."""
    code, before = 0, 0
    for length, symbol in codes(table):
        code <<= length - before
        yield length, code, symbol
        code, before = code + 1, length
