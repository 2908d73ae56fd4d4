"""DICOM's gray-scale pipeline: modality LUT, then VOI LUT or window, then polarity (PS3.3 C.11, PS3.4 N.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from softfree.data.readers.picture import own_range


@dataclass(frozen=True)
class LookUpTable:
    """A table of one channel: input ``first`` and below give ``entries[0]``, and so on up (PS3.3 C.11.1.1)."""

    first: int
    entries: np.ndarray
    bits: int

    @classmethod
    def parse(cls, descriptor: Any, data: Any, little_endian: bool) -> LookUpTable:
        """Read a LUT from its DICOM descriptor (entries, first input, bits) and data (bytes or integers).

        pydicom's own functions index in the width of the entries, which wraps round for 8-bit tables of more than
        256 entries, and read big-endian palettes as little-endian.
        """
        count, first, bits = (int(value) for value in descriptor)
        count = count or 1 << 16
        if isinstance(data, bytes):
            # 8-bit entries may be packed or stand in 16-bit words, whatever the descriptor says.
            width = "u1" if len(data) < 2 * count else "<u2" if little_endian else ">u2"
            entries = np.frombuffer(data[: count * np.dtype(width).itemsize], width).astype(np.uint16)
        else:
            entries = np.atleast_1d(data).astype(np.uint16)[:count]
        if len(entries) < count:
            raise ValueError(f"look-up table of {len(entries)} entries, expected {count}")
        return cls(first, entries, bits)

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Look up integers, or rounded floats, of any shape; returns uint16 of the same shape."""
        first = self.first
        if first >= 1 << 15 and pixels.min(initial=0) < 0:
            first -= 1 << 16  # a negative first input that was written without its sign
        position = (np.rint(pixels) if pixels.dtype.kind == "f" else pixels).astype(np.int64) - first
        return self.entries[np.clip(position, 0, len(self.entries) - 1, out=position)]


def to_modality(stored: np.ndarray, values: Mapping[str, Any], little_endian: bool) -> tuple[np.ndarray, list[str]]:
    """Turn stored values into the modality's own (Hounsfield units, optical density, ...), and say how."""
    if sequence := values.get("ModalityLUTSequence"):
        table = _table(sequence[0], little_endian)
        return table(stored), [f"modality LUT of {len(table.entries)} entries"]
    slope, intercept = (_number(values.get(name)) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope is None or intercept is None or (slope, intercept) == (1.0, 0.0):
        return stored, []
    with np.errstate(over="ignore"):  # what overflows is found not to be finite later
        pixels = (stored * np.float64(slope) + intercept).astype(np.float32)
    return pixels, [f"modality LUT: slope {slope:g}, intercept {intercept:g}"]


def to_view(
    pixels: np.ndarray, values: Mapping[str, Any], little_endian: bool, bits: int, counted: np.ndarray | None
) -> tuple[np.ndarray, float, float, list[str]]:
    """Apply the first VOI LUT, else the first window, else the picture's own range.

    A linear window changes no pixel: it is the range itself. With centre c and width w, PS3.3 C.11.2.1.2 has
    black at c - w/2 and white at c + w/2 - 1 for LINEAR, at c + w/2 for LINEAR_EXACT.

    Args:
        pixels: ``(H, W, 1)`` modality values.
        values: the elements that hold for this frame.
        little_endian: byte order of LUT data.
        bits: how many bits of each value are used.
        counted: boolean ``(H, W)``, False where a pixel is padding.

    Returns:
        Pixels, low, high and steps.
    """
    if sequence := values.get("VOILUTSequence"):
        table = _table(sequence[0], little_endian)
        step = f"VOI LUT of {len(table.entries)} entries of {table.bits} bits"
        return table(pixels), 0.0, float(2**table.bits - 1), [step]
    centre, width = (_number(values.get(name)) for name in ("WindowCenter", "WindowWidth"))
    steps = []
    if centre is not None and width is not None:
        function = str(values.get("VOILUTFunction") or "LINEAR").upper()
        step = f"window {centre:g}/{width:g}" + ("" if function == "LINEAR" else f" {function.lower()}")
        if width > 0 and function == "SIGMOID":
            curve = 1 / (1 + np.exp(np.clip(-4 * (pixels.astype(np.float64) - centre) / width, -500, 500)))
            return curve.astype(np.float32), 0.0, 1.0, [step]
        if width >= 1 and function == "LINEAR":
            return pixels, centre - width / 2, centre + width / 2 - 1, [step]
        if width > 0 and function == "LINEAR_EXACT":
            return pixels, centre - width / 2, centre + width / 2, [step]
        steps.append(f"{step} ignored: not valid")
    low, high, own = own_range(pixels, bits, counted)
    return pixels, low, high, [*steps, *own]


def not_padding(stored: np.ndarray, dataset: Dataset) -> np.ndarray | None:
    """Boolean ``(H, W)``, False where stored ``(H, W)`` values are the declared padding (PS3.3 C.7.5.1.1.2)."""
    value = _number(dataset.get("PixelPaddingValue"))
    if value is None:
        return None
    limit = _number(dataset.get("PixelPaddingRangeLimit"))
    low, high = sorted((value, value if limit is None else limit))
    return (stored < low) | (stored > high)


def _table(item: Dataset, little_endian: bool) -> LookUpTable:
    return LookUpTable.parse(item.LUTDescriptor, item.LUTData, little_endian)


def _number(value: Any) -> float | None:
    """Return the first of one or several decimal strings; None when it is missing, empty or not finite."""
    first = next(iter(value), None) if isinstance(value, MultiValue) else value
    number = np.nan if first in (None, "") else float(first)
    return number if np.isfinite(number) else None
