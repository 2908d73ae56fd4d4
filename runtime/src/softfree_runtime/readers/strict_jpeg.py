"""JPEG by a decoder that says what libjpeg warns of: damage that Pillow and imagecodecs decode without a word.

libjpeg-turbo fills what it cannot decode with gray, and calls that a warning. simplejpeg is the same library, with the
same values, and raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import simplejpeg

Space = Literal["GRAY", "RGB", "CMYK"]
IRREGULAR = "irregular JPEG headers or padding mended"
UNCHECKED = "JPEG of unusual subsampling, decoded without a look for damage"

JPEG_LS = 0xF7
_EOI, _SOS, _APP0, _APP14 = 0xD9, 0xDA, 0xE0, 0xEE
_FRAMES = {0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, JPEG_LS}
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1, 0xC9), (0xC2, 0xCA)
_ALONE = {0x00, 0x01, *range(0xD0, 0xD9), 0xFF}  # bytes after 0xFF that no length follows
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # in coded data only zeros and restarts follow 0xFF
_ZEROS = re.compile(rb"\x00{8,}\Z")  # fewer are read as part of the last scan, and lost


@dataclass(frozen=True)
class Segment:
    """One marker with its parameters: ``data[start:end]``, without marker and length; nothing for the end marker."""

    marker: int
    start: int
    end: int


@dataclass(frozen=True)
class Frame:
    """What the frame header says (ITU-T T.81, B.2.2): how it is coded, bits a sample, and the components' names."""

    marker: int
    bits: int
    components: bytes


def decode_jpeg(data: bytes, space: Space) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode the first image of ``data``, 8 bits a sample; what follows its end is ignored.

    Args:
        data: From the start-of-image marker on.
        space: What comes out; CMYK as it is stored.

    Returns:
        uint8 ``(H, W, C)``, and what was corrected, in words.

    Raises:
        ValueError: Damaged, cut short, without its last scans, or not a JPEG that TurboJPEG decodes.
    """
    corrections: tuple[str, ...] = ()
    try:
        pixels = simplejpeg.decode_jpeg(data, space)
    except ValueError:
        mended = _mended(data)
        if mended == data:
            raise
        pixels, corrections = simplejpeg.decode_jpeg(mended, space), (IRREGULAR,)
    if missing := _missing(data):
        raise ValueError(f"JPEG without {missing}")
    return pixels, corrections


def frame_of(data: bytes) -> Frame | None:
    """Return the frame header, None where there is none before the first scan."""
    for one in segments(data):
        if one.marker in _FRAMES and one.end - one.start >= 6:
            return Frame(one.marker, data[one.start], data[one.start + 6 : one.end : 3])
        if one.marker == _SOS:
            break
    return None


def segments(data: bytes) -> Iterator[Segment]:
    """Go through the markers of the first image, to its end; coded data are skipped."""
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
            found = _AFTER_SCAN.search(data, end)
            position = found.start() if found else len(data)


def _missing(data: bytes) -> str:
    """Say what of the image no scan brought; what is cut off between two scans leaves no other trace."""
    frame = frame_of(data)
    if frame is None:
        return ""
    scans = ((data[one.start + 1 : one.end - 3 : 2], one) for one in segments(data) if one.marker == _SOS)
    if frame.marker not in _PROGRESSIVE:
        left = set(frame.components)
        for names, _ in scans:
            left -= set(names)
            if not left:
                return ""
        return "the scans of all its components"
    # The lowest bit that has come, by component and coefficient (T.81, G.1.1.1); 255 before any has.
    lowest = {name: bytearray([255] * 64) for name in frame.components}
    for names, one in scans:
        first, last, bits = data[one.end - 3 : one.end]
        for name in names:
            lowest[name][first : last + 1] = bytes([bits & 15]) * (last + 1 - first)
    return "its last scans" if any(map(any, lowest.values())) else ""


def _mended(data: bytes) -> bytes:
    """Correct what encoders write against the standard and decoders read all the same.

    That is bytes between the segments of the header, parameters of a sequential scan (phones), versions and color
    transforms that do not exist, and zeros between the last scan and the end.
    """
    frame = frame_of(data)
    four = frame is not None and len(frame.components) == 4
    out, header, scans = bytearray(data), [data[:2]], 0
    for one in segments(data):
        if one.marker == _SOS and frame is not None and frame.marker in _SEQUENTIAL:
            out[one.end - 3 : one.end] = b"\x00\x3f\x00"
        elif one.marker == _APP0 and data[one.start : one.start + 5] == b"JFIF\0":
            out[one.start + 5] = 1
        elif one.marker == _APP14 and data[one.start : one.start + 5] == b"Adobe" and data[one.end - 1] > 2:
            out[one.end - 1] = 2 if four else 1  # what libjpeg assumes
        elif one.marker == _EOI:
            out[scans : one.start] = _ZEROS.sub(b"\0\0", out[scans : one.start])
        if not scans and one.marker != _EOI:
            header.append(bytes(out[one.start - 4 : one.end]))
            scans = one.end if one.marker == _SOS else 0
    return b"".join(header) + bytes(out[scans:]) if scans else data
