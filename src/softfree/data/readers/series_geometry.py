"""Where the slices of a DICOM series lie, and whether they make a volume (PS3.3 C.7.6.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from softfree.data.readers.volume import SHEAR
from softfree.errors import ReadError

# Share of the distance between slices by which one of them may be off.
UNEVEN = 0.01
_SAME_DIRECTION = 1e-3
_PLACES = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SpacingBetweenSlices", "SliceThickness"),
}
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Slice:
    """One slice: its name for messages, and its place in millimetres to the left, the back and the head (LPS+).

    Attributes:
        name: file name, or number of the frame.
        position: ``(3,)``, centre of the first voxel.
        along_row: ``(3,)`` unit vector from one column to the next.
        along_column: ``(3,)`` unit vector from one row to the next.
        spacing: millimetres between rows, between columns.
        thickness: millimetres to the next slice as the header has it, or None.
        shape: rows, columns.
    """

    name: str
    position: np.ndarray
    along_row: np.ndarray
    along_column: np.ndarray
    spacing: tuple[float, float]
    thickness: float | None
    shape: tuple[int, int]

    @classmethod
    def parse(cls, path: Path, dataset: Dataset, name: str, frame: int | None = None) -> Slice:
        """Read the place from a file's header, or of one of its frames; ReadError when it has none."""
        found = _elements(dataset, frame)
        position = _numbers(path, name, found, "ImagePositionPatient", 3)
        directions = _numbers(path, name, found, "ImageOrientationPatient", 6)
        spacing = _numbers(path, name, found, "PixelSpacing", 2)
        row, column = directions[:3], directions[3:]
        if not np.allclose([row @ row, column @ column, row @ column], [1, 1, 0], atol=SHEAR):
            raise ReadError(f"{path}: rows and columns of {name} are not at right angles; repair its header")
        if not (spacing > 0).all():
            raise ReadError(f"{path}: PixelSpacing of {name} is zero or negative; repair its header")
        thickness = next(
            (float(found[key]) for key in ("SpacingBetweenSlices", "SliceThickness") if found.get(key)), None
        )
        shape = int(dataset.Rows), int(dataset.Columns)
        return cls(name, position, row, column, (float(spacing[0]), float(spacing[1])), thickness, shape)


def arrange(path: Path, slices: Sequence[Slice]) -> tuple[list[int], np.ndarray]:
    """Sort slices along their normal and check that they make one straight, even, complete volume.

    Args:
        path: the series, for messages.
        slices: in any order.

    Returns:
        The order, and the affine ``(4, 4)`` from (slice, row, column, 1) to millimetres RAS+.

    Raises:
        ReadError: mixed sizes or orientations, slices at one place, missing or uneven slices, a tilted stack.
    """
    first = slices[0]
    for other in slices:
        _refuse_mixed(path, first, other)
    normal = np.cross(first.along_row, first.along_column)
    order = sorted(range(len(slices)), key=lambda number: float(slices[number].position @ normal))
    ordered = [slices[number] for number in order]
    step = _step(path, ordered, normal)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = first.along_column * first.spacing[0]
    affine[:3, 2] = first.along_row * first.spacing[1]
    affine[:3, 3] = ordered[0].position
    return order, _LPS_TO_RAS @ affine


def _step(path: Path, ordered: Sequence[Slice], normal: np.ndarray) -> np.ndarray:
    """Return the way from one slice to the next ``(3,)``."""
    if len(ordered) == 1:
        thickness = ordered[0].thickness
        if not thickness or thickness < 0:
            raise ReadError(f"{path}: a single slice whose header has no thickness; a volume needs one")
        return normal * thickness
    positions = np.stack([one.position for one in ordered])
    steps = np.diff(positions, axis=0)  # (n - 1, 3)
    gaps = steps @ normal
    apart = gaps[gaps > 1e-3]
    usual = float(np.median(apart)) if len(apart) else 0.0
    _refuse_same_place(path, ordered, np.flatnonzero(gaps <= max(1e-3, UNEVEN * usual)).tolist())
    mean = (positions[-1] - positions[0]) / len(steps)
    median = np.median(steps, axis=0)
    tilt = np.linalg.norm(median - (median @ normal) * normal) / usual
    for number in np.flatnonzero(np.linalg.norm(steps - median, axis=1) > UNEVEN * usual).tolist():
        _refuse_gap(path, ordered[number].name, ordered[number + 1].name, float(gaps[number]), usual)
    if tilt > SHEAR:
        angle = np.degrees(np.arctan(tilt))
        raise ReadError(
            f"{path}: sheared: each slice is shifted against the last (tilted gantry, {angle:.1f} degrees); "
            "resample it to a straight grid",
            "unsupported",
        )
    return mean


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
        f"{path}: slices of different {what}, such as {first.name} and {other.name}; give each stack its own folder",
        "unsupported",
    )


def _refuse_same_place(path: Path, ordered: Sequence[Slice], same: list[int]) -> None:
    if not same:
        return
    pairs = [f"{ordered[number].name} and {ordered[number + 1].name}" for number in same[:3]]
    more = f" and {len(same) - 3} more" if len(same) > 3 else ""
    raise ReadError(
        f"{path}: slices at the same place: {', '.join(pairs)}{more}; "
        "keep one of each, or give each time its own folder",
        "unsupported",
    )


def _refuse_gap(path: Path, before: str, after: str, gap: float, usual: float) -> None:
    missing = round(gap / usual) - 1
    if missing > 0:
        what = f"{missing} slice{'s' if missing > 1 else ''} missing between {before} and {after}"
    else:
        what = f"uneven slices at {before} and {after}"
    raise ReadError(f"{path}: {what} ({gap:.4g} mm apart, {usual:.4g} elsewhere); fetch the series again")


def _elements(dataset: Dataset, frame: int | None) -> dict[str, Any]:
    """Collect the elements that hold for a file, or for a frame: those of the shared groups, then its own."""
    found = {key: dataset.get(key) for keys in _PLACES.values() for key in keys}
    if frame is not None:
        shared = dataset.get("SharedFunctionalGroupsSequence") or []
        each = dataset.get("PerFrameFunctionalGroupsSequence") or []
        for group in (*shared[:1], *each[frame : frame + 1]):
            for macro, keys in _PLACES.items():
                for item in (group.get(macro) or [])[:1]:
                    found |= {key: item.get(key) for key in keys if key in item}
    return found


def _numbers(path: Path, name: str, found: dict[str, Any], key: str, count: int) -> np.ndarray:
    value = found.get(key)
    if value in (None, "") or not hasattr(value, "__len__") or len(value) != count:
        raise ReadError(f"{path}: {name} has no {key}; a volume needs it", "unsupported")
    numbers = np.array([float(number) for number in value])
    if not np.isfinite(numbers).all():
        raise ReadError(f"{path}: {key} of {name} is not finite; repair its header", "not_finite")
    return numbers
