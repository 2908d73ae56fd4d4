"""JPEG in DICOM: its headers, and whether its scans are complete.

libjpeg fills the missing part of a scan with gray and only warns, which neither Pillow nor imagecodecs reports.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from math import ceil
from typing import NamedTuple

import numpy as np

BASELINE, EXTENDED, PROGRESSIVE, LOSSLESS, JPEG_LS = 0xC0, 0xC1, 0xC2, 0xC3, 0xF7
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), JPEG_LS)
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_RESTART = re.compile(rb"\xff+[\xd0-\xd7]")


Steps = list[int | None]
_SAFE = 64 - 2 * 16  # below this index, no block ends before the last of three codes


class Component(NamedTuple):
    """One color component of a frame: its id and its horizontal and vertical sampling factors."""

    id: int
    across: int
    down: int


class Scan(NamedTuple):
    """One scan: (id, DC table, AC table) of its components, its Huffman tables, and the location of its data."""

    components: tuple[tuple[int, int, int], ...]
    first: int
    last: int
    approximation: int
    start: int
    end: int
    tables: Mapping[tuple[int, int], bytes]
    restart: int


@dataclass(frozen=True)
class Frame:
    """Content of the markers of a JPEG or JPEG-LS stream.

    Attributes:
        process: Last byte of its frame marker, such as ``BASELINE``.
        precision: Bits per sample.
        height: Rows.
        width: Columns.
        components: Its color components.
        height_at: Offset of the height in the stream.
        applications: Contents of the APP markers, by number.
        scans: Its scans, in the order of the stream.
        ended: Whether the stream has its end marker.
    """

    process: int
    precision: int
    height: int
    width: int
    components: tuple[Component, ...]
    height_at: int
    applications: Mapping[int, bytes]
    scans: tuple[Scan, ...] = field(repr=False)
    ended: bool

    @classmethod
    def parse(cls, source: bytes) -> Frame:
        """Read all markers; ValueError if it is not a JPEG."""
        header: tuple[int, int, bytes] | None = None
        applications: dict[int, bytes] = {}
        tables: dict[tuple[int, int], bytes] = {}
        scans: list[Scan] = []
        restart, ended = 0, False
        for marker, start, end, scan_end in _markers(source):
            content = source[start:end]
            if marker in _FRAMES and header is None:
                header = marker, start, content
            elif marker == 0xC4:
                tables |= dict(_huffman(content))
            elif 0xE0 <= marker <= 0xEF:
                applications.setdefault(marker - 0xE0, content)
            elif marker == 0xDD:
                restart = int.from_bytes(content[:2])
            elif marker == 0xDA:
                scans.append(_scan(content, end, scan_end, dict(tables), restart))
            ended |= marker == 0xD9
        if header is None or len(header[2]) < 6 + 3 * header[2][5] or not scans:
            raise ValueError("no JPEG frame with a scan")
        process, start, content = header
        components = tuple(
            Component(content[offset], content[offset + 1] >> 4, content[offset + 1] & 15)
            for offset in range(6, 6 + 3 * content[5], 3)
        )
        size = int.from_bytes(content[1:3]), int.from_bytes(content[3:5])
        return cls(process, content[0], *size, components, start + 1, applications, tuple(scans), ended)

    @property
    def coding(self) -> str | None:
        """``RGB`` or ``YBR`` if the markers of a stream of three colors say so, else None."""
        if len(self.components) != 3:
            return None
        if bytes(component.id for component in self.components).upper() == b"RGB":
            return "RGB"
        adobe = self.applications.get(14, b"")
        if adobe.startswith(b"Adobe") and len(adobe) >= 12:
            return "YBR" if adobe[11] == 1 else "RGB" if adobe[11] == 0 else None
        return "YBR" if self.applications.get(0, b"").startswith(b"JFIF") else None

    @property
    def read_as_ybr(self) -> bool:
        """Whether libjpeg treats the three colors as YCbCr, by the rules of its default_decompress_parms."""
        if len(self.components) != 3:
            return False
        adobe = self.applications.get(14, b"")
        if self.applications.get(0, b"").startswith(b"JFIF\0"):
            return True
        if adobe.startswith(b"Adobe") and len(adobe) >= 12:
            return adobe[11] != 0
        return bytes(component.id for component in self.components) != b"RGB"


def refuse_damaged(source: bytes, frame: Frame) -> None:
    """Raise ValueError if a scan is damaged in a way that its coding reveals.

    simplejpeg, if installed, clears streams of 8 bits quickly; since it is also strict about headers, streams that it
    refuses are examined again. For arithmetic coding, only the end marker is checked.
    """
    if not frame.ended:
        raise ValueError("truncated JPEG: no end marker")
    if frame.precision == 8 and frame.process != LOSSLESS and _without_warnings(source):
        return
    if frame.process == PROGRESSIVE and find_spec("simplejpeg"):
        raise ValueError("progressive JPEG that cannot be decoded without a warning")
    if frame.process in (BASELINE, EXTENDED):
        follow_scans(source, frame)


def _without_warnings(source: bytes) -> bool:
    if not find_spec("simplejpeg"):
        return False
    try:
        # At an eighth of the size, all codes are read but little is computed.
        import_module("simplejpeg").decode_jpeg(source, "GRAY", min_factor=8)
    except ValueError:
        return False
    return True


def follow_scans(source: bytes, frame: Frame) -> None:
    """Raise ValueError if a scan of sequential Huffman coding ends early or late, or has an invalid code."""
    widest, highest = (max(getattr(component, name) for component in frame.components) for name in ("across", "down"))
    if not widest or not highest or not all(component.across and component.down for component in frame.components):
        raise ValueError("JPEG frame with a sampling factor of zero")
    by_id = {component.id: component for component in frame.components}
    for scan in frame.scans:
        if (scan.first, scan.last, scan.approximation) != (0, 63, 0):
            # libjpeg accepts it, but a scan that violates ITU-T T.81, table B.3, cannot be trusted for a diagnosis.
            raise ValueError(f"JPEG scan of the coefficients {(scan.first, scan.last)}, expected (0, 63)")
        members = [(by_id[number], direct, others) for number, direct, others in scan.components]
        if len(members) == 1:
            component, direct, others = members[0]
            across = ceil(ceil(frame.width * component.across / widest) / 8)
            down = ceil(ceil(frame.height * component.down / highest) / 8)
            blocks = [(direct, others)]
        else:
            across, down = ceil(frame.width / (8 * widest)), ceil(frame.height / (8 * highest))
            blocks = [
                (direct, others)
                for component, direct, others in members
                for _ in range(component.across * component.down)
            ]
        _follow(source[scan.start : scan.end], scan, blocks, across * down)


def _follow(data: bytes, scan: Scan, blocks: Sequence[tuple[int, int]], units: int) -> None:
    """Follow the codes of one scan: ``units`` times ``blocks``, each with its tables for DC and AC."""
    steps = [(_steps(scan.tables[0, direct], True), *_strides(scan.tables[1, others])) for direct, others in blocks]
    intervals = _RESTART.split(data) if scan.restart else [data]
    length = scan.restart or units
    if len(intervals) != ceil(units / length):
        raise ValueError("JPEG scan without its restart markers")
    for number, interval in enumerate(intervals):
        _follow_interval(interval.replace(b"\xff\x00", b"\xff"), steps, min(length, units - number * length))


def _follow_interval(data: bytes, steps: Sequence[tuple[Steps, Steps, Steps]], units: int) -> None:
    windows = _windows(data)
    position = 0
    try:
        for _ in range(units):
            for direct, strides, others in steps:
                position += direct[windows[position]] & 63  # type: ignore[operator]
                index = 1
                while index < _SAFE:
                    step = strides[windows[position]]
                    position += step & 63  # type: ignore[operator]
                    index += step >> 6  # type: ignore[operator]
                while index < 64:
                    step = others[windows[position]]
                    position += step & 63  # type: ignore[operator]
                    index += step >> 6  # type: ignore[operator]
    except TypeError:
        raise ValueError("JPEG scan with an invalid code") from None
    except IndexError:
        raise ValueError("JPEG scan that ends early") from None
    if position > 8 * len(data):
        raise ValueError("JPEG scan that ends early")
    if data[(position + 7) // 8 :].strip(b"\x00\xff"):
        raise ValueError("JPEG scan with data beyond its end")


def _windows(data: bytes) -> array[int]:
    """Return the 16 bits from each bit on, with ones after the end; ``8 * len(data) + 1`` of them."""
    padded = np.frombuffer(data + b"\xff\xff\xff", np.uint8).astype(np.uint32)
    words = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]  # 24 bits from each byte on
    shifts = np.arange(8, 0, -1, dtype=np.uint32)
    return array("H", (words[:, None] >> shifts & 0xFFFF).astype(np.uint16).tobytes()[: 16 * len(data) + 2])


@lru_cache(64)
def _steps(table: bytes, direct: bool) -> Steps:
    """Return, by the next 16 bits, the length of a code with its extra bits, and from bit 6 the coefficients it fills.

    None for bits that are not a code. The end of a block fills 64.
    """
    entries = np.zeros(1 << 16, np.uint16)
    start = 0
    for length, symbol in codes(table):
        size, run = symbol & 15, symbol >> 4
        fills = 1 if direct else 64 if not size and run != 15 else run + 1
        span = 1 << (16 - length)
        entries[start : start + span] = length + size | fills << 6
        start += span
    return [*entries[:start].tolist(), *[None] * (len(entries) - start)]


@lru_cache(64)
def _strides(table: bytes) -> tuple[Steps, Steps]:
    """Return the same for up to three codes at once, if they fit into these 16 bits; and for one."""
    single = _steps(table, False)
    entries = np.array([step or 0 for step in single], np.uint32)
    first, total = entries, entries
    window = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(2):
        length = total & 63
        following = first[window << length & 0xFFFF]
        fits = (following > 0) & (length + (following & 63) <= 16) & (total >> 6 < 64)
        total = np.where(fits, total + following, total)
    return [step or None for step in total.tolist()], single


def codes(table: bytes) -> Iterator[tuple[int, int]]:
    """Yield length and symbol of each code of a Huffman table, in the order of the codes (ITU-T T.81, C.2)."""
    symbols = iter(table[16:])
    for length, count in enumerate(table[:16], 1):
        for _ in range(count):
            yield length, next(symbols)


def _markers(source: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield each marker, the start and end of its content, and the end of the entropy-coded data after it."""
    if source[:2] != b"\xff\xd8":
        raise ValueError("no JPEG start marker")
    position, jpeg_ls = 2, False
    while True:
        while source[position : position + 2] == b"\xff\xff":
            position += 1
        if position + 2 > len(source):
            return
        if source[position] != 0xFF:
            raise ValueError("no JPEG marker at the position of one")
        marker = source[position + 1]
        if marker in _ALONE or marker == 0xD9:
            yield marker, position + 2, position + 2, 0
            if marker == 0xD9:
                return
            position += 2
            continue
        end = position + 2 + int.from_bytes(source[position + 2 : position + 4])
        jpeg_ls |= marker == JPEG_LS
        after = _end_of_scan(source, end, jpeg_ls) if marker == 0xDA else end
        yield marker, position + 4, end, after
        position = after


def _end_of_scan(source: bytes, start: int, jpeg_ls: bool) -> int:
    """Find the marker that ends a scan: 0xff followed by neither data nor a restart marker."""
    content = np.frombuffer(source, np.uint8, offset=start)
    positions = np.flatnonzero(content[:-1] == 0xFF)
    after = content[positions + 1]
    # In JPEG-LS, 7 bits of data may follow 0xff (ITU-T T.87, A.1); in JPEG, a zero.
    ends = (after >= 0x80 if jpeg_ls else after != 0) & (after != 0xFF) & ((after < 0xD0) | (after > 0xD7))
    markers = positions[ends]
    end = start + int(markers[0]) if len(markers) else len(source)
    while end > start and source[end - 1] == 0xFF:  # fill bytes
        end -= 1
    return end


def _huffman(content: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Yield each table of a DHT marker with its class and number: 16 counts, then the symbols."""
    position = 0
    while position + 17 <= len(content):
        size = 17 + sum(content[position + 1 : position + 17])
        kind = content[position] >> 4, content[position] & 15
        yield kind, content[position + 1 : position + size]
        position += size


def _scan(content: bytes, start: int, end: int, tables: Mapping[tuple[int, int], bytes], restart: int) -> Scan:
    count = content[0]
    components = tuple(
        (content[offset], content[offset + 1] >> 4, content[offset + 1] & 15) for offset in range(1, 1 + 2 * count, 2)
    )
    first, last, approximation = content[1 + 2 * count : 4 + 2 * count]
    return Scan(components, first, last, approximation, start, end, tables, restart)
