"""DICOM's gray-scale pipeline: modality LUT, then VOI LUT or window, then polarity (PS3.3 C.11, PS3.4 N.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from softfree_runtime.readers.dicom_elements import Elements
from softfree_runtime.readers.image import exact_float, own_range

_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
_INVISIBLE = 1e-3  # fraction of the range from black to white


@dataclass(frozen=True)
class LookUpTable:
    """A table of one channel: inputs up to ``first`` give ``entries[0]``, the next ``entries[1]`` (PS3.3 C.11.1.1).

    Attributes:
        first: The first input.
        entries: uint16.
        bits: Declared bits per entry.
        missing: Number of declared entries that the file lacks.
    """

    first: int
    entries: np.ndarray
    bits: int
    missing: int = 0

    @classmethod
    def read(cls, elements: Elements, descriptor: str, data: str, little_endian: bool) -> LookUpTable:
        """Read a table from the named elements; ValueError names the one that is missing or damaged."""
        count, first, bits = cls.describe(elements, descriptor)
        if data not in elements:
            raise ValueError(f"no {data}")
        swapped = not little_endian and elements.representation(data) in ("OW", "US")
        entries = _entries(elements.value(data), count, bits, little_endian, swapped)
        if not len(entries):
            raise ValueError(f"no {data}")
        return cls(first, entries, bits, count - len(entries))

    @staticmethod
    def describe(elements: Elements, descriptor: str) -> tuple[int, int, int]:
        """Read number of entries, first input and bits of a table; ValueError names a bad element."""
        numbers = elements.vector(descriptor, 3)
        if numbers is None:
            raise ValueError(f"no {descriptor}")
        count, first, bits = (int(number) for number in numbers)
        return count & 0xFFFF or 1 << 16, first, bits & 0xFFFF  # a count is unsigned, whatever the VR says

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Look up integers, or rounded floats, of any shape; returns uint16 of the same shape."""
        first = self._first(round(float(pixels.min())), round(float(pixels.max())))
        position = (np.rint(pixels) if pixels.dtype.kind == "f" else pixels).astype(np.int64) - first
        return self.entries[np.clip(position, 0, len(self.entries) - 1, out=position)]

    def _first(self, lowest: int, highest: int) -> int:
        """Return the first input with the right sign, if it was written as the other integer type."""
        other = self.first - (1 << 16) if self.first >= 1 << 15 else self.first + (1 << 16)
        if self.first >= 1 << 15 and lowest < 0:
            return other
        own_fits, other_fits = (
            start <= highest and start + len(self.entries) > lowest for start in (self.first, other)
        )
        return other if other_fits and not own_fits and not 0 <= self.first < 1 << 15 else self.first

    @property
    def white(self) -> float:
        """The largest output: the maximum of the declared bits, or the largest entry if the declaration is implausible.

        It is implausible if an entry is larger, or if none exceeds a 256th of it: the image would be black.
        """
        greatest, declared = int(self.entries.max()), (1 << self.bits) - 1 if self.bits <= 16 else 0
        return float(declared if declared >> 8 < greatest <= declared else max(greatest, 1))


def to_modality(stored: np.ndarray, elements: Elements, little_endian: bool) -> tuple[np.ndarray, list[str]]:
    """Convert stored values to those of the modality (Hounsfield units, optical density, ...) and return the steps."""
    for table in _tables(elements, "ModalityLUTSequence", little_endian):
        pixels = table(stored)
        if not _flattened(stored, pixels):
            return pixels, [f"modality LUT of {len(table.entries)} entries"]
        elements.correct("ModalityLUTSequence: one value for all pixels, ignored")
    slope, intercept = (elements.number(name) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope == 0:
        elements.correct("RescaleSlope: 0, not rescaled")
    elif slope is None and intercept:
        elements.correct("RescaleSlope: none with a RescaleIntercept, not rescaled")
    elif intercept is None and slope not in (None, 1):
        elements.correct("RescaleIntercept: none with a RescaleSlope, not rescaled")
    if not slope or intercept is None or (slope, intercept) == (1.0, 0.0):
        return stored, []
    with np.errstate(over="ignore"):  # overflow is detected later as not finite
        pixels = (stored * np.float64(slope) + intercept).astype(exact_float(stored.dtype))
    return pixels, [f"modality LUT: slope {slope:g}, intercept {intercept:g}"]


def to_view(
    pixels: np.ndarray,
    elements: Elements,
    little_endian: bool,
    bits: int,
    counted: np.ndarray | None,
    *,
    fractions: bool = False,
) -> tuple[np.ndarray, float, float, list[str]]:
    """Apply the first VOI LUT, else the first window, else the image's own range.

    A linear window changes no pixel: it is the range itself. With center c and width w, PS3.3 C.11.2.1.2 has
    black at c - w/2 and white at c + w/2 - 1 for LINEAR, at c + w/2 for LINEAR_EXACT. A table or window that would
    hide everything is not used.

    Args:
        pixels: ``(H, W, 1)`` modality values.
        elements: Elements of this frame.
        little_endian: Byte order of LUT data.
        bits: How many bits of each value are used.
        counted: Boolean ``(H, W)``, False for padding; None if there is none.
        fractions: Whether the file stores floats, for which LINEAR, defined for integers, becomes LINEAR_EXACT.

    Returns:
        Pixels, low, high and steps.
    """
    for table in _tables(elements, "VOILUTSequence", little_endian):
        shown = table(pixels)
        if not _flattened(pixels, shown):
            if table.white != (1 << table.bits) - 1:
                elements.correct("LUTDescriptor: bits contradicted by its entries, whose own range is used")
            step = f"VOI LUT of {len(table.entries)} entries of {table.bits} bits"
            return shown, 0.0, table.white, [step]
        elements.correct("VOILUTSequence: one value for all pixels, ignored")
    center, width = (elements.number(name) for name in ("WindowCenter", "WindowWidth"))
    steps = []
    if center is not None and width is not None:
        function = _function(elements, fractions)
        step = f"window {center:g}/{width:g}" + ("" if function == "LINEAR" else f" {function.lower()}")
        windowed = _windowed(pixels, center, width, function)
        if windowed is None:
            elements.correct("WindowWidth: not valid, window ignored")
            steps.append(f"{step} ignored: not valid")
        elif _blank(pixels, windowed, counted):
            elements.correct("WindowCenter: a window beyond all values, ignored")
            steps.append(f"{step} ignored: nothing would be visible")
        else:
            return *windowed, [step]
    low, high, own = own_range(pixels, bits, counted)
    return pixels, low, high, [*steps, *own]


def not_padding(stored: np.ndarray, elements: Elements, bits: int) -> np.ndarray | None:
    """Return boolean ``(H, W)``, False for stored ``(H, W)`` values that are declared padding (PS3.3 C.7.5.1.1.2)."""
    value, limit = (_of_sign(stored, elements, name, bits) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if value is None:
        return None
    low, high = sorted((value, value if limit is None else limit))
    return (stored < low) | (stored > high)


def _of_sign(stored: np.ndarray, elements: Elements, keyword: str, bits: int) -> float | None:
    """Read a stored value that may have been written as if the pixels had the other signedness."""
    value = elements.number(keyword)
    if value is None or stored.dtype.kind == "f":
        return value
    signed = stored.dtype.kind == "i"
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if low <= value <= high:
        return value
    for width in (16, bits):
        other = value - (1 << width) if signed else value + (1 << width)
        if low <= other <= high:
            elements.correct(
                f"{keyword}: {'unsigned' if signed else 'signed'}, but the pixels are not; its bits reinterpreted"
            )
            return other
    elements.correct(f"{keyword}: beyond all values that the pixels can have, ignored")
    return None


def _tables(elements: Elements, keyword: str, little_endian: bool) -> list[LookUpTable]:
    """Read the usable tables of a sequence; record why each other one is ignored."""
    tables = []
    for item in elements.items(keyword):
        own = Elements(item, corrections=elements.corrections)
        try:
            table = LookUpTable.read(own, "LUTDescriptor", "LUTData", little_endian)
        except ValueError as error:
            elements.correct(f"{keyword}: {error}, ignored")
            continue
        if table.missing > max(1, len(table.entries) // 100):
            elements.correct(f"{keyword}: much shorter than declared, ignored")
            continue
        if table.missing:
            elements.correct(f"{keyword}: shorter than declared, its last entry repeated")
        tables.append(table)
    return tables


def _entries(data: Any, count: int, bits: int, little_endian: bool, swapped: bool) -> np.ndarray:
    """Extract up to ``count`` entries from bytes or integers, as uint16.

    pydicom's own functions index in the width of the entries, which wraps around for 8-bit tables of more than
    256 entries, and read big-endian palettes as little-endian.

    Args:
        data: Value of the element.
        count: Declared number of entries.
        bits: Declared bits per entry. Entries of 8 bits may be packed or stored in 16-bit words.
        little_endian: Byte order of words.
        swapped: Whether bytes were packed into words that were then written in big-endian order.
    """
    if not isinstance(data, bytes | bytearray):
        words = np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF
        if len(words) > 0.75 * count or bits > 8:
            return words[:count].astype(np.uint16)
        return np.frombuffer(words.astype("<u2").tobytes(), np.uint8)[:count].astype(np.uint16)
    if bits > 8 or len(data) > 1.5 * count:
        words = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if little_endian else ">u2")
        return words[:count].astype(np.uint16)
    packed = np.frombuffer(data, np.uint8)
    if swapped:
        packed = packed[: len(packed) // 2 * 2].reshape(-1, 2)[:, ::-1].reshape(-1)
    return packed[:count].astype(np.uint16)


def _function(elements: Elements, fractions: bool) -> str:
    function = elements.text("VOILUTFunction") or "LINEAR"
    if function not in _FUNCTIONS:
        elements.correct("VOILUTFunction: not in the standard, LINEAR used")
        function = "LINEAR"
    return "LINEAR_EXACT" if function == "LINEAR" and fractions else function


def _windowed(pixels: np.ndarray, center: float, width: float, function: str) -> tuple[np.ndarray, float, float] | None:
    """Return pixels and the range of a window; None for an invalid width."""
    if width <= 0 or (function == "LINEAR" and width < 1):
        return None
    if function == "SIGMOID":
        curve = 1 / (1 + np.exp(np.clip(-4 * (pixels.astype(np.float64) - center) / width, -500, 500)))
        return curve.astype(np.float32), 0.0, 1.0
    return pixels, center - width / 2, center + width / 2 - (function == "LINEAR")


def _blank(pixels: np.ndarray, windowed: tuple[np.ndarray, float, float], counted: np.ndarray | None) -> bool:
    """Return whether a window shows a single gray although the pixels, without padding, have several values."""
    shown, low, high = windowed
    if counted is not None and counted.any():
        pixels, shown = pixels[counted], shown[counted]
    if pixels.min() == pixels.max():
        return False
    darkest, brightest = float(shown.min()), float(shown.max())
    if shown is not pixels and low == 0 and high == 1:
        return brightest - darkest < _INVISIBLE
    return darkest >= max(high, np.nextafter(low, np.inf)) or brightest <= low


def _flattened(pixels: np.ndarray, shown: np.ndarray) -> bool:
    return bool(shown.min() == shown.max() and pixels.min() != pixels.max())
