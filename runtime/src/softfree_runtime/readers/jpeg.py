"""JPEG as DICOM holds it: its headers, and whether its scans are whole.

libjpeg fills what is missing of a scan with gray and only warns of it, which neither Pillow nor imagecodecs passes on.
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
_SAFE = 64 - 2 * 16  # up to here no block ends before the last of three codes


class Component(NamedTuple):
    """One color of a frame: its id and how often it is sampled across and down."""

    id: int
    across: int
    down: int


class Scan(NamedTuple):
    """One scan: (id, DC table, AC table) of its components, its Huffman tables, and where its data lie."""

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
    """What the markers of a JPEG or JPEG-LS stream say.

    Attributes:
        process: The last byte of its frame marker, such as ``BASELINE``.
        precision: Bits of a sample.
        height: Rows.
        width: Columns.
        components: The colors.
        height_at: Where in the stream the height stands.
        applications: Contents of the APP markers by number.
        scans: In the order of the stream.
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
        """Read all markers; ValueError for what is no JPEG."""
        found: tuple[int, int, bytes] | None = None
        applications: dict[int, bytes] = {}
        tables: dict[tuple[int, int], bytes] = {}
        scans: list[Scan] = []
        restart, ended = 0, False
        for marker, start, end, scan_end in _markers(source):
            content = source[start:end]
            if marker in _FRAMES and found is None:
                found = marker, start, content
            elif marker == 0xC4:
                tables |= dict(_huffman(content))
            elif 0xE0 <= marker <= 0xEF:
                applications.setdefault(marker - 0xE0, content)
            elif marker == 0xDD:
                restart = int.from_bytes(content[:2])
            elif marker == 0xDA:
                scans.append(_scan(content, end, scan_end, dict(tables), restart))
            ended |= marker == 0xD9
        if found is None or len(found[2]) < 6 + 3 * found[2][5] or not scans:
            raise ValueError("no JPEG frame with a scan")
        process, at, content = found
        components = tuple(
            Component(content[place], content[place + 1] >> 4, content[place + 1] & 15)
            for place in range(6, 6 + 3 * content[5], 3)
        )
        size = int.from_bytes(content[1:3]), int.from_bytes(content[3:5])
        return cls(process, content[0], *size, components, at + 1, applications, tuple(scans), ended)

    @property
    def coding(self) -> str | None:
        """``RGB`` or ``YBR`` where the markers of a stream of three colors tell, None where they do not."""
        if len(self.components) != 3:
            return None
        if bytes(component.id for component in self.components).upper() == b"RGB":
            return "RGB"
        adobe = self.applications.get(14, b"")
        if adobe.startswith(b"Adobe") and len(adobe) >= 12:
            return "YBR" if adobe[11] == 1 else "RGB" if adobe[11] == 0 else None
        return "YBR" if self.applications.get(0, b"").startswith(b"JFIF") else None

    @property
    def taken_for_ybr(self) -> bool:
        """Whether libjpeg takes the three colors for YCbCr; its own rules, from default_decompress_parms."""
        if len(self.components) != 3:
            return False
        adobe = self.applications.get(14, b"")
        if self.applications.get(0, b"").startswith(b"JFIF\0"):
            return True
        if adobe.startswith(b"Adobe") and len(adobe) >= 12:
            return adobe[11] != 0
        return bytes(component.id for component in self.components) != b"RGB"


def refuse_damaged(source: bytes, frame: Frame) -> None:
    """Raise ValueError when a scan is damaged in a way that its coding gives away.

    simplejpeg, where it is installed, clears whole streams of 8 bits at once; it is strict with headers too, so that
    what it does not like is looked at once more. Arithmetic coding is only asked for its end marker.
    """
    if not frame.ended:
        raise ValueError("JPEG without an end marker: it is cut short")
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
        # An eighth of the size: all codes are read, and little is done with them.
        import_module("simplejpeg").decode_jpeg(source, "GRAY", min_factor=8)
    except ValueError:
        return False
    return True


def follow_scans(source: bytes, frame: Frame) -> None:
    """Raise ValueError when a scan of sequential Huffman coding ends early, late or in a code that is none."""
    widest, highest = (max(getattr(one, name) for one in frame.components) for name in ("across", "down"))
    if not widest or not highest or not all(one.across and one.down for one in frame.components):
        raise ValueError("JPEG frame with a sampling factor of zero")
    by_id = {component.id: component for component in frame.components}
    for scan in frame.scans:
        if (scan.first, scan.last, scan.approximation) != (0, 63, 0):
            # libjpeg shrugs at it; a scan that breaks ITU-T T.81, table B.3, is not to be trusted with a diagnosis.
            raise ValueError(f"JPEG scan of the coefficients {(scan.first, scan.last)}, expected (0, 63)")
        members = [(by_id[number], direct, others) for number, direct, others in scan.components]
        if len(members) == 1:
            one = members[0][0]
            across = ceil(ceil(frame.width * one.across / widest) / 8)
            down = ceil(ceil(frame.height * one.down / highest) / 8)
            blocks = [(members[0][1], members[0][2])]
        else:
            across, down = ceil(frame.width / (8 * widest)), ceil(frame.height / (8 * highest))
            blocks = [(direct, others) for one, direct, others in members for _ in range(one.across * one.down)]
        _follow(source[scan.start : scan.end], scan, blocks, across * down)


def _follow(data: bytes, scan: Scan, blocks: Sequence[tuple[int, int]], units: int) -> None:
    """Go through the codes of one scan; ``units`` of ``blocks``, each with its tables for DC and AC."""
    steps = [(_steps(scan.tables[0, direct], True), *_strides(scan.tables[1, others])) for direct, others in blocks]
    parts = _RESTART.split(data) if scan.restart else [data]
    every = scan.restart or units
    if len(parts) != ceil(units / every):
        raise ValueError("JPEG scan without the restart markers that it needs")
    for number, part in enumerate(parts):
        _follow_part(part.replace(b"\xff\x00", b"\xff"), steps, min(every, units - number * every))


def _follow_part(part: bytes, steps: Sequence[tuple[Steps, Steps, Steps]], units: int) -> None:
    windows = _windows(part)
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
        raise ValueError("JPEG scan with a code that is none") from None
    except IndexError:
        raise ValueError("JPEG scan that ends early") from None
    if position > 8 * len(part):
        raise ValueError("JPEG scan that ends early")
    if part[(position + 7) // 8 :].strip(b"\x00\xff"):
        raise ValueError("JPEG scan with data beyond its end")


def _windows(part: bytes) -> array[int]:
    """The 16 bits from each bit on, followed by ones; ``8 * len(part) + 1`` of them."""
    padded = np.frombuffer(part + b"\xff\xff\xff", np.uint8).astype(np.uint32)
    words = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]  # 24 bits from each byte on
    shifts = np.arange(8, 0, -1, dtype=np.uint32)
    return array("H", (words[:, None] >> shifts & 0xFFFF).astype(np.uint16).tobytes()[: 16 * len(part) + 2])


@lru_cache(64)
def _steps(table: bytes, direct: bool) -> Steps:
    """By the next 16 bits: the length of a code with its extra bits, and from bit 6 on how many coefficients it fills.

    None for bits that are no code. The end of a block fills 64.
    """
    entries = np.zeros(1 << 16, np.uint16)
    at = 0
    for length, symbol in codes(table):
        size, run = symbol & 15, symbol >> 4
        fills = 1 if direct else 64 if not size and run != 15 else run + 1
        span = 1 << (16 - length)
        entries[at : at + span] = length + size | fills << 6
        at += span
    return [*entries[:at].tolist(), *[None] * (len(entries) - at)]


@lru_cache(64)
def _strides(table: bytes) -> tuple[Steps, Steps]:
    """By the next 16 bits the same for up to three codes at once, as far as they lie in these bits; and for one."""
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
    """Give length and symbol of each code of a Huffman table, in the order of the codes (ITU-T T.81, C.2)."""
    symbols = iter(table[16:])
    for length, count in enumerate(table[:16], 1):
        for _ in range(count):
            yield length, next(symbols)


def _markers(source: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Give each marker, the start and end of its content, and the end of the entropy-coded data after it."""
    if source[:2] != b"\xff\xd8":
        raise ValueError("no start marker of a JPEG")
    position, jpeg_ls = 2, False
    while True:
        while source[position : position + 2] == b"\xff\xff":
            position += 1
        if position + 2 > len(source):
            return
        if source[position] != 0xFF:
            raise ValueError("no JPEG marker where one is expected")
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
    """Find the marker that ends a scan: 0xff before what is neither data nor a restart marker."""
    content = np.frombuffer(source, np.uint8, offset=start)
    at = np.flatnonzero(content[:-1] == 0xFF)
    after = content[at + 1]
    # In JPEG-LS 7 bits of data may follow 0xff (ITU-T T.87, A.1), in JPEG a zero.
    ends = (after >= 0x80 if jpeg_ls else after != 0) & (after != 0xFF) & ((after < 0xD0) | (after > 0xD7))
    found = at[ends]
    end = start + int(found[0]) if len(found) else len(source)
    while end > start and source[end - 1] == 0xFF:  # fill bytes
        end -= 1
    return end


def _huffman(content: bytes) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Give each table of a DHT marker by its class and number: 16 counts, then the symbols."""
    position = 0
    while position + 17 <= len(content):
        size = 17 + sum(content[position + 1 : position + 17])
        kind = content[position] >> 4, content[position] & 15
        yield kind, content[position + 1 : position + size]
        position += size


def _scan(content: bytes, start: int, end: int, tables: Mapping[tuple[int, int], bytes], restart: int) -> Scan:
    count = content[0]
    components = tuple(
        (content[place], content[place + 1] >> 4, content[place + 1] & 15) for place in range(1, 1 + 2 * count, 2)
    )
    first, last, approximation = content[1 + 2 * count : 4 + 2 * count]
    return Scan(components, first, last, approximation, start, end, tables, restart)
