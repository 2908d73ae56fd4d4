"""Positions of the slices of a DICOM series, and whether they form a volume (PS3.3 C.7.6.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import NoReturn

import numpy as np
from pydicom.dataset import Dataset

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.dicom import frame_elements
from softfree_runtime.readers.dicom_elements import Elements
from softfree_runtime.readers.volume import SHEAR

# Tolerance of slice positions, relative to the distance between slices.
UNEVEN = 0.01
_SAME_DIRECTION = 1e-3
# Maximum rounding of positions, relative to the distance between slices.
_COARSE = 0.25
_POSITION_GROUPS = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
MOSAIC = "Siemens mosaics, with all slices side by side in one image; convert them to NIfTI first"
# Elements that may differ between slices at one position.
MARKS = (
    *("AcquisitionNumber", "EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "TriggerTime", "DiffusionBValue"),
    *("ImageType", "AcquisitionTime"),
)
_FRAME_MARKS = ("TemporalPositionIndex", "FrameAcquisitionNumber", "EffectiveEchoTime", "DiffusionBValue")
_MARKED = ("FrameContentSequence", "MREchoSequence", "MRDiffusionSequence")
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Slice:
    """One slice: its name for messages, and its position in millimeters to the left, the back and the head (LPS+).

    Attributes:
        name: File name or frame number.
        position: ``(3,)``, center of the first voxel.
        along_row: ``(3,)`` unit vector from one column to the next.
        along_column: ``(3,)`` unit vector from one row to the next.
        spacing: Millimeters between rows, between columns.
        thickness: Millimeters to the next slice in the header, or None.
        shape: Rows, columns.
        digits: ``(3,)``, unit of the last written digit of each coordinate, in millimeters.
        marks: Elements that may distinguish slices at one position, for comparison only.
    """

    name: str
    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    spacing: tuple[float, float]
    thickness: float | None
    shape: tuple[int, int]
    digits: np.ndarray
    marks: Mapping[str, str]

    @classmethod
    def parse(cls, path: Path, dataset: Dataset, name: str, frame: int | None, corrections: list[str]) -> Slice:
        """Read the position from the header of a file or of one of its frames; ReadError if it has none."""
        elements = frame_elements(dataset, frame or 0, (*_POSITION_GROUPS, *_MARKED), corrections)
        position = _numbers(path, name, elements, "ImagePositionPatient", 3)
        directions = _numbers(path, name, elements, "ImageOrientationPatient", 6)
        spacing = _numbers(path, name, elements, "PixelSpacing", 2)
        row, column = directions[:3], directions[3:]
        if not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=SHEAR):
            raise ReadError("rows and columns are not at right angles; repair the header", path=path, members=[name])
        if not (spacing > 0).all():
            raise ReadError("PixelSpacing is zero or negative; repair the header", path=path, members=[name])
        thickness = elements.number("SpacingBetweenSlices") or elements.number("SliceThickness")
        shape = elements.whole("Rows") or 0, elements.whole("Columns") or 0
        digits = np.array([_last_digit(text) for text in elements.texts("ImagePositionPatient")])
        names = ("SOPInstanceUID", *MARKS) if frame is None else _FRAME_MARKS
        marks = {keyword: "\\".join(elements.texts(keyword)) for keyword in names}
        return cls(name, position, row, column, (float(spacing[0]), float(spacing[1])), thickness, shape, digits, marks)


def arrange(path: Path, slices: Sequence[Slice]) -> tuple[list[int], np.ndarray, tuple[str, ...]]:
    """Sort slices along their normal and check that they form a straight, evenly spaced, complete volume.

    Args:
        path: Path of the series, for messages.
        slices: Slices in any order.

    Returns:
        The order, the affine ``(4, 4)`` from (slice, row, column, 1) to millimeters RAS+, and what was corrected.

    Raises:
        ReadError: Mixed sizes or orientations, slices at one position, missing or uneven slices, or a sheared stack.
    """
    first = slices[0]
    for other in slices:
        _refuse_mixed(path, first, other)
    normal = np.cross(first.along_row, first.along_column)
    order = sorted(range(len(slices)), key=lambda number: float(slices[number].position @ normal))
    ordered = [slices[number] for number in order]
    step, corrections = _step(path, ordered, normal)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = first.along_column * first.spacing[0]
    affine[:3, 2] = first.along_row * first.spacing[1]
    affine[:3, 3] = ordered[0].position
    return order, _LPS_TO_RAS @ affine, corrections


def _step(path: Path, ordered: Sequence[Slice], normal: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the vector between neighboring slices ``(3,)``, and what was corrected."""
    if len(ordered) == 1:
        thickness = ordered[0].thickness
        if not thickness or thickness < 0:
            raise ReadError("a single slice whose header has no thickness; a volume needs one", path=path)
        return normal * thickness, ()
    positions = np.stack([slice_.position for slice_ in ordered])
    steps = np.diff(positions, axis=0)  # (n - 1, 3)
    gaps = steps @ normal
    distinct = gaps[gaps > 1e-3]
    usual = float(np.median(distinct)) if len(distinct) else 0.0
    _refuse_same_position(path, ordered, np.flatnonzero(gaps <= max(1e-3, UNEVEN * usual)).tolist())
    mean = (positions[-1] - positions[0]) / len(steps)
    median = np.median(steps, axis=0)
    digits = np.min([slice_.digits for slice_ in ordered], axis=0)
    corrections: tuple[str, ...] = ()
    off = np.linalg.norm(steps - median, axis=1)
    if off.max() > UNEVEN * usual:
        digits = np.where(digits <= _COARSE * usual, digits, 2 * UNEVEN * usual)
        even = _even_step(positions, digits)
        if even is None:
            number = int(np.argmax(off))
            _refuse_gap(path, ordered[number].name, ordered[number + 1].name, float(gaps[number]), usual)
        mean = even
        corrections = ("ImagePositionPatient: rounded in the header, even spacing used",)
    across = float(mean @ normal)
    tilt = float(np.linalg.norm(mean - across * normal)) / usual
    # The first and the last position may each be rounded by half a digit.
    if tilt > SHEAR + (float(digits.max()) / (len(steps) * usual) if corrections else 0):
        angle = np.degrees(np.arctan(tilt))
        raise ReadError(
            f"sheared: each slice is shifted relative to the one before (tilted gantry, {angle:.1f} degrees); "
            "resample it to a straight grid",
            "unsupported",
            path=path,
        )
    return across * normal if tilt > SHEAR else mean, corrections


def _even_step(positions: np.ndarray, digits: np.ndarray) -> np.ndarray | None:
    """Return the vector ``(3,)`` between evenly spaced slices whose positions ``(n, 3)`` were rounded to ``digits``.

    None if no such vector exists.
    """
    # Two of them that are n slices apart are n distances apart, give or take one digit for both roundings. One distance
    # fits all pairs if and only if all lie within half a digit of evenly spaced positions.
    least, most = np.full(3, -np.inf), np.full(3, np.inf)
    for apart in range(1, len(positions)):
        differences = positions[apart:] - positions[:-apart]
        least = np.maximum(least, (differences.max(axis=0) - digits) / apart)
        most = np.minimum(most, (differences.min(axis=0) + digits) / apart)
    return (least + most) / 2 if (least <= most + 1e-9).all() else None


def _refuse_mixed(path: Path, first: Slice, other: Slice) -> None:
    directions = np.concatenate([first.along_row - other.along_row, first.along_column - other.along_column])
    spacings = np.subtract(first.spacing, other.spacing)
    if np.abs(directions).max() > _SAME_DIRECTION:
        what = "orientations"
    elif first.shape != other.shape:
        what = "numbers of rows and columns"
    elif np.abs(spacings).max() > UNEVEN * min(first.spacing):
        what = "pixel spacings"
    else:
        return
    raise ReadError(
        f"slices of different {what}; give each stack its own folder",
        "unsupported",
        path=path,
        members=[first.name, other.name],
    )


def _refuse_same_position(path: Path, ordered: Sequence[Slice], same: list[int]) -> None:
    if not same:
        return
    first = ordered[same[0]].marks
    second = ordered[same[0] + 1].marks
    differing = [key for key, value in first.items() if value != second[key] and key != "SOPInstanceUID"]
    if "MOSAIC" in first.get("ImageType", "").upper():
        fix = f"they are {MOSAIC}"
    elif first.get("SOPInstanceUID") and first.get("SOPInstanceUID") == second.get("SOPInstanceUID"):
        fix = "the same slice twice; keep one of each"
    elif differing:
        fix = f"they differ in {', '.join(differing[:3])}; give each its own folder"
    else:
        fix = "keep one of each, or give each time its own folder"
    members = [ordered[neighbor].name for number in same for neighbor in (number, number + 1)]
    raise ReadError(f"slices at the same position: {fix}", "unsupported", path, list(dict.fromkeys(members)))


def _refuse_gap(path: Path, before: str, after: str, gap: float, usual: float) -> NoReturn:
    missing = round(gap / usual) - 1
    what = f"{missing} slice{'s' if missing > 1 else ''} missing in between" if missing > 0 else "uneven slices"
    raise ReadError(
        f"{what} ({gap:.4g} mm apart, {usual:.4g} elsewhere); copy the series again",
        path=path,
        members=[before, after],
    )


def _numbers(path: Path, name: str, elements: Elements, key: str, count: int) -> np.ndarray:
    numbers = elements.numbers(key)
    if len(numbers) != count or None in numbers:
        raise ReadError(f"no {key}, or none that is valid; a volume needs it", "unsupported", path, [name])
    values = np.array(numbers, dtype=float)
    if not np.isfinite(values).all():
        raise ReadError(f"{key} is not finite; repair the header", "not_finite", path, [name])
    return values


def _last_digit(text: str) -> float:
    """Return the unit of the last digit of a decimal string."""
    exponent = Decimal(text.replace(",", ".")).as_tuple().exponent
    return 10.0 ** min(exponent, 0) if isinstance(exponent, int) else 0.0
