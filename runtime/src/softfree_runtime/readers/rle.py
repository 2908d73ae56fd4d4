"""DICOM's run-length coding (PS3.5 annex G), in which a wrong length gives damage away."""

from __future__ import annotations

import numpy as np


def decode_runs(source: bytes, rows: int, columns: int, samples: int, allocated: int) -> np.ndarray:
    """Decode one frame to unsigned ``(H, W)`` or ``(H, W, C)``; ValueError when a segment has not the length it needs.

    A segment may be filled up with zeros: some writers do so.
    """
    count = int.from_bytes(source[:4], "little")
    wide = allocated // 8
    if count != samples * wide or len(source) < 64:
        raise ValueError(f"{count} segments of run lengths, expected {samples * wide}")
    offsets = [int.from_bytes(source[at : at + 4], "little") for at in range(4, 4 + 4 * count, 4)]
    pixels = np.empty((rows * columns, samples, wide), np.uint8)
    for number, (start, end) in enumerate(zip(offsets, [*offsets[1:], len(source)], strict=True)):
        segment = _unpacked(source[start:end])
        if len(segment) < rows * columns or segment[rows * columns :].strip(b"\0"):
            raise ValueError(f"a segment of run lengths of {len(segment)} bytes, expected {rows * columns}")
        # The segments of a sample begin with its highest byte.
        pixels[:, number // wide, wide - 1 - number % wide] = np.frombuffer(segment, np.uint8, rows * columns)
    values = pixels.view(f"<u{wide}")
    return values.reshape((rows, columns, samples)[: 2 if samples == 1 else 3])


def _unpacked(segment: bytes) -> bytes:
    parts = []
    position = 0
    while position < len(segment):
        head = segment[position]
        if head < 128:
            parts.append(segment[position + 1 : position + 2 + head])
            position += 2 + head
        elif head > 128:
            parts.append(segment[position + 1 : position + 2] * (257 - head))
            position += 2
        else:
            position += 1
    return b"".join(parts)
