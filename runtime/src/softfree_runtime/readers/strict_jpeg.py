"""JPEG decoding that reports damage, which Pillow and imagecodecs silently ignore.

libjpeg-turbo fills what it cannot decode with gray and only warns. simplejpeg uses the same library, gives the same
values, and raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg

Space = Literal["GRAY", "RGB", "CMYK"]
IRREGULAR = "irregular JPEG headers or padding repaired"
UNCHECKED = "JPEG of unusual subsampling, not checked for damage"

JPEG_LS = 0xF7
_EOI, _SOS, _APP0, _APP14 = 0xD9, 0xDA, 0xE0, 0xEE
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, JPEG_LS}
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1, 0xC9), (0xC2, 0xCA)
_ALONE = {0x00, 0x01, *range(0xD0, 0xD9), 0xFF}  # bytes after 0xFF that are not followed by a length
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # in coded data, only zeros and restart markers follow 0xFF
_ZEROS = re.compile(rb"\x00{8,}\Z")  # fewer are read as part of the last scan


@dataclass(frozen=True)
class Segment:
    """One marker with its parameters: ``data[start:end]``, without marker and length; nothing for the end marker."""

    marker: int
    start: int
    end: int


@dataclass(frozen=True)
class Frame:
    """A frame header (ITU-T T.81, B.2.2): its marker, bits per sample, and the ids of its components."""

    marker: int
    bits: int
    components: bytes


def decode_jpeg(data: bytes, space: Space) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode the first image of ``data``, 8 bits per sample; what follows its end is ignored.

    Args:
        data: Bytes from the start-of-image marker on.
        space: Color space of the result; CMYK as stored.

    Returns:
        uint8 ``(H, W, C)``, and what was corrected.

    Raises:
        ValueError: Damaged, truncated, without its last scans, or not a JPEG that TurboJPEG decodes.
    """
    corrections: tuple[str, ...] = ()
    try:
        pixels = simplejpeg.decode_jpeg(data, space)
    except ValueError:
        repaired = _repaired(data)
        if repaired == data:
            raise
        pixels, corrections = simplejpeg.decode_jpeg(repaired, space), (IRREGULAR,)
    if missing := _missing_scans(data):
        raise ValueError(f"JPEG without {missing}")
    return pixels, corrections


def frame_of(data: bytes) -> Frame | None:
    """Return the frame header; None if there is none before the first scan."""
    for segment in segments(data):
        if segment.marker in _FRAMES and segment.end - segment.start >= 6:
            return Frame(segment.marker, data[segment.start], data[segment.start + 6 : segment.end : 3])
        if segment.marker == _SOS:
            break
    return None


def segments(data: bytes) -> Iterator[Segment]:
    """Yield the markers of the first image; coded data are skipped."""
    position = 2
    while 0 <= (position := data.find(b"\xff", position)) < len(data) - 1:
        marker = data[position + 1]
        if marker == _EOI:
            yield Segment(_EOI, position, position)
            return
        if marker in _ALONE:
            position += 1 if marker == 0xFF else 2
            continue
        start, end = position + 4, position + 2 + int.from_bytes(data[position + 2 : position + 4])
        yield Segment(marker, start, min(end, len(data)))
        position = end
        if marker == _SOS:
            match = _AFTER_SCAN.search(data, end)
            position = match.start() if match else len(data)


def _missing_scans(data: bytes) -> str:
    """Return what part of the image no scan contains; truncation between two scans leaves no other trace."""
    frame = frame_of(data)
    if frame is None:
        return ""
    scans = (
        (data[segment.start + 1 : segment.end - 3 : 2], segment) for segment in segments(data) if segment.marker == _SOS
    )
    if frame.marker not in _PROGRESSIVE:
        remaining = set(frame.components)
        for names, _ in scans:
            remaining -= set(names)
            if not remaining:
                return ""
        return "the scans of all its components"
    # The lowest bit read so far, by component and coefficient (T.81, G.1.1.1); 255 for none.
    lowest = {name: bytearray([255] * 64) for name in frame.components}
    for names, segment in scans:
        first, last, bits = data[segment.end - 3 : segment.end]
        for name in names:
            lowest[name][first : last + 1] = bytes([bits & 15]) * (last + 1 - first)
    return "its last scans" if any(map(any, lowest.values())) else ""


def _repaired(data: bytes) -> bytes:
    """Correct violations of the standard that other decoders tolerate.

    These are bytes between the segments of the header, parameters of a sequential scan (phones), versions and color
    transforms that do not exist, and zeros between the last scan and the end.
    """
    frame = frame_of(data)
    cmyk = frame is not None and len(frame.components) == 4
    out, header, scans = bytearray(data), [data[:2]], 0
    for segment in segments(data):
        if segment.marker == _SOS and frame is not None and frame.marker in _SEQUENTIAL:
            out[segment.end - 3 : segment.end] = b"\x00\x3f\x00"
        elif segment.marker == _APP0 and data[segment.start : segment.start + 5] == b"JFIF\0":
            out[segment.start + 5] = 1
        elif (
            segment.marker == _APP14
            and data[segment.start : segment.start + 5] == b"Adobe"
            and data[segment.end - 1] > 2
        ):
            out[segment.end - 1] = 2 if cmyk else 1  # what libjpeg assumes
        elif segment.marker == _EOI:
            out[scans : segment.start] = _ZEROS.sub(b"\0\0", out[scans : segment.start])
        if not scans and segment.marker != _EOI:
            header.append(bytes(out[segment.start - 4 : segment.end]))
            scans = segment.end if segment.marker == _SOS else 0
    return b"".join(header) + bytes(out[scans:]) if scans else data
