"""DICOM series and multi-frame files as volumes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, JPEGLosslessSV1, SecondaryCaptureImageStorage, generate_uid
from tests.corpus.case import Made, Outcome, case
from tests.corpus.dicom_cases import items, write

SERIES = generate_uid()
COUNT = 8
SLICES = np.random.default_rng(0).integers(0, 4000, (COUNT, 9, 7)).astype(np.int16) - 1000
RIGHT = SLICES[None, :, ::-1, ::-1]  # rows run to the back and columns to the left
ROUNDED = "ImagePositionPatient: rounded in the header"
One = Callable[[int], dict[str, Any]]


def nothing(number: int) -> dict[str, Any]:
    return {}


def write_series(folder: Path, each: One = nothing, slices: np.ndarray = SLICES, step: float = 2.0) -> Path:
    """Write axial slices ``step`` mm apart, each with elements of its own; the name ends in its number."""
    made = folder / "series"
    made.mkdir(exist_ok=True)
    for number, pixels in enumerate(slices):
        options: dict[str, Any] = {
            "name": f"slice{number}.dcm",
            "pixels": pixels,
            "SeriesInstanceUID": SERIES,
            "ImagePositionPatient": [0, 0, step * number],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [0.5, 0.75],
            "SliceThickness": 2,
        }
        write(made, **(options | each(number)))
    return made


def right(voxels: np.ndarray = RIGHT, spacing: tuple[float, ...] = (2.0, 0.5, 0.75), **others: Any) -> dict[str, Any]:
    return {"voxels": voxels, "spacing": np.array(spacing), **others}


def register(
    property: str,
    outcome: Outcome,
    each: One = nothing,
    expected: dict[str, Any] | None = None,
    *,
    says: str = "",
    status: str = "corrupt",
    after: Callable[[Path], object] = lambda folder: None,
    tolerance: float = 1e-6,
    **options: Any,
) -> None:
    """Register a series that :func:`write_series` makes, and that ``after`` may change."""

    @case("DICOM series", property, "volume", outcome, says=says, status=status)
    def make(folder: Path) -> Made:
        made = write_series(folder, each, **options)
        after(made)
        return Made(made, {} if outcome == "refused" else expected or right(), tolerance)


def only(wanted: int, **elements: Any) -> One:
    """Elements for one slice alone."""
    return lambda number: elements if number == wanted else {}


def positions(*heights: str) -> One:
    """Heights as they are written."""
    return lambda number: {"ImagePositionPatient": ["0", "0", heights[number]]}


# --- slice positions

register("even slices", "read")
for step in (0.625, 1.3125, 2.3333333, 0.3333333):
    for digits in (1, 2):
        if 10.0**-digits > 0.2 * step:
            continue
        heights = [f"{step * number:.{digits}f}" for number in range(COUNT)]
        exact = (
            np.abs(np.diff(np.array(heights, float)) - np.median(np.diff(np.array(heights, float)))).max() < 0.01 * step
        )
        register(
            f"slices every {step} mm, written with {digits} decimal{'s' * (digits > 1)}",
            "read" if exact else "corrected",
            positions(*heights),
            right(spacing=(step, 0.5, 0.75)),
            says="" if exact else ROUNDED,
            tolerance=0.5 * 10.0**-digits / (COUNT - 1) * 2,
        )
register(
    "positions truncated instead of rounded",
    "corrected",
    positions(*(f"{int(62.5 * n) / 100}" for n in range(COUNT))),
    right(spacing=(0.625, 0.5, 0.75)),
    says=ROUNDED,
    tolerance=2e-3,
)
register(
    "rounded positions with a slice missing",
    "refused",
    positions(*(f"{0.625 * (n + (n > 3)):.2f}" for n in range(COUNT))),
    says="slice3.dcm, slice4.dcm: 1 slice missing in between",
)
register(
    "rounded positions with the second-to-last slice missing",
    "refused",
    positions(*(f"{0.625 * (n + (n > 6)):.2f}" for n in range(COUNT))),
    says="slice6.dcm, slice7.dcm: 1 slice missing in between",
)
register(
    "positions in whole millimeters of slices every 1.5 mm",
    "refused",
    positions(*(f"{1.5 * n:.0f}" for n in range(COUNT))),
    says="1 slice missing",
)
register(
    "positions with decimal commas",
    "corrected",
    lambda n: {
        "ImagePositionPatient": ["0.00", "0.00", f"{n * 2}.00"],
        "bytes_for": {f"0.00\\0.00\\{n * 2}.00".encode(): f"0,00\\0,00\\{n * 2},00".encode()},
    },
    says="ImagePositionPatient: decimal comma",
)
register(
    "a slice missing",
    "refused",
    after=lambda folder: (folder / "slice4.dcm").unlink(),
    says="slice3.dcm, slice5.dcm: 1 slice missing in between",
)
register(
    "the same slice twice",
    "refused",
    after=lambda folder: shutil.copy(folder / "slice4.dcm", folder / "copy.dcm"),
    says="the same slice twice",
    status="unsupported",
)
register(
    "two echoes in one series",
    "refused",
    lambda n: {"ImagePositionPatient": [0, 0, 2 * (n // 2)], "EchoTime": 4 + 2 * (n % 2)},
    says="they differ in EchoTime",
    status="unsupported",
)
register(
    "two time points in one series",
    "refused",
    lambda n: {
        "ImagePositionPatient": [0, 0, 2 * (n // 2)],
        "TemporalPositionIdentifier": n % 2,
        "AcquisitionNumber": n % 2,
    },
    says="they differ in AcquisitionNumber, TemporalPositionIdentifier",
    status="unsupported",
)
register(
    "magnitude and phase in one series",
    "refused",
    lambda n: {"ImagePositionPatient": [0, 0, 2 * (n // 2)], "ImageType": ["ORIGINAL", "PRIMARY", "MP"[n % 2]]},
    says="they differ in ImageType",
    status="unsupported",
)
register(
    "a slice without a position",
    "refused",
    only(2, ImagePositionPatient=None),
    says="slice2.dcm: no ImagePositionPatient",
    status="unsupported",
)
register(
    "a position with text in it",
    "refused",
    only(2, ImagePositionPatient=["0", "0", "4.25"], bytes_for={b"4.25": b"Jane"}),
    says="slice2.dcm: no ImagePositionPatient",
    status="unsupported",
)
register("a slice thickness with text in it", "corrected", only(2, SliceThickness="4.25", bytes_for={b"4.25": b"Jane"}))
register(
    "a series description that is invalid in its character set",
    "read",
    only(
        2,
        SeriesDescription="Doe^Jane",
        SpecificCharacterSet="ISO_IR 192",
        bytes_for={b"Doe^Jane": b"D\xff\xfe^J\x80ne"},
    ),
)


# --- what else lies in the folder


def beside(folder: Path, name: str, **elements: Any) -> None:
    write(folder, SLICES[0, :5, :4], name=name, **elements)


LEFT_OUT = "localizers or secondary captures in the folder skipped"
LOCALIZER = {
    "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
    "ImagePositionPatient": [0, 0, 50],
    "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
    "PixelSpacing": [1, 1],
}
register(
    "a localizer of the same series",
    "corrected",
    after=lambda folder: beside(folder, "localizer.dcm", SeriesInstanceUID=SERIES, **LOCALIZER),
    says=LEFT_OUT,
)
register(
    "a localizer of another series",
    "corrected",
    after=lambda folder: beside(folder, "localizer.dcm", SeriesInstanceUID=generate_uid(), **LOCALIZER),
    says=LEFT_OUT,
)
register(
    "a secondary capture",
    "corrected",
    after=lambda folder: beside(
        folder, "report.dcm", SeriesInstanceUID=SERIES, SOPClassUID=SecondaryCaptureImageStorage
    ),
    says=LEFT_OUT,
)
register(
    "Siemens mosaics",
    "refused",
    lambda n: {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]},
    says="Siemens mosaic",
    status="unsupported",
)


# --- values of slices

register("rescaling", "read", lambda n: {"RescaleSlope": 2, "RescaleIntercept": -10}, right(RIGHT * 2.0 - 10))
register(
    "a different RescaleSlope in each slice",
    "read",
    lambda n: {"RescaleSlope": n + 1, "RescaleIntercept": 5},
    right(RIGHT * (np.arange(COUNT)[:, None, None] + 1.0) + 5),
)
register(
    "RescaleSlope 0 in all slices",
    "corrected",
    lambda n: {"RescaleSlope": 0, "RescaleIntercept": -1024},
    says="RescaleSlope: 0, not rescaled",
)
register(
    "RescaleSlope 0 in one slice",
    "refused",
    lambda n: {"RescaleSlope": 0 if n == 3 else 1, "RescaleIntercept": -1024},
    says="RescaleSlope",
)
register(
    "HighBit 15, 12 bits stored",
    "corrected",
    lambda n: {"pixels": SLICES[n] << 4 >> 0, "bits": 12, "HighBit": 15},
    right((RIGHT << 4) >> 4),
    says="HighBit",
)
register(
    "an empty modality LUT in each slice",
    "corrected",
    lambda n: {"ModalityLUTSequence": items({})},
    says="ModalityLUTSequence",
)
register(
    "PixelSpacing with decimal commas",
    "corrected",
    lambda n: {"PixelSpacing": ["0.500", "0.750"], "bytes_for": {b"0.500": b"0,500", b"0.750": b"0,750"}},
    says="PixelSpacing: decimal comma",
)
CODE = [imagecodecs.jpeg_encode(one.view(np.uint16), lossless=True, bitspersample=16) for one in SLICES]
register("lossless JPEG", "read", lambda n: {"syntax": JPEGLosslessSV1, "codes": [CODE[n]]})
register(
    "lossless JPEG, one slice truncated",
    "refused",
    lambda n: {"syntax": JPEGLosslessSV1, "codes": [CODE[n] if n != 5 else CODE[n][:90] + b"\xff\xd9"]},
    says="slice5.dcm",
)
register("a slice with pixels missing", "refused", only(5, content=SLICES[5].tobytes()[:-20]), says="slice5.dcm")


# --- enhanced files


def write_enhanced(folder: Path, heights: list[float], each: One = nothing, frames: np.ndarray = SLICES) -> Path:
    """Write one file whose frames lie at ``heights``, each with elements of its functional groups."""
    groups = []
    for number, height in enumerate(heights):
        group = Dataset()
        group.PlanePositionSequence = items({"ImagePositionPatient": [0, 0, height]})
        for name, elements in each(number).items():
            setattr(group, name, items(elements))
        groups.append(group)
    return write(
        folder,
        frames[0],
        content=frames.tobytes(),
        NumberOfFrames=len(heights),
        SOPClassUID=EnhancedMRImageStorage,
        SharedFunctionalGroupsSequence=items(
            {
                "PlaneOrientationSequence": items({"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}),
                "PixelMeasuresSequence": items({"PixelSpacing": [0.5, 0.75], "SliceThickness": 2}),
            }
        ),
        PerFrameFunctionalGroupsSequence=Sequence(groups),
    )


ORDER = [3, 1, 4, 0, 5, 7, 2, 6]
SORTED = RIGHT[:, np.argsort(ORDER)]


def enhanced(
    property: str,
    outcome: Outcome,
    expected: dict[str, Any] | None = None,
    *,
    says: str = "",
    status: str = "corrupt",
    **options: Any,
) -> None:
    @case("DICOM series", f"enhanced file: {property}", "volume", outcome, says=says, status=status)
    def make(folder: Path) -> Made:
        return Made(write_enhanced(folder, **options), expected or right(SORTED), 1e-5)


HEIGHTS = [2.0 * position for position in ORDER]


def scaled(number: int) -> dict[str, Any]:
    return {
        "PixelValueTransformationSequence": {"RescaleSlope": number + 1, "RescaleIntercept": 3, "RescaleType": "US"}
    }


FACTORS = (np.arange(COUNT) + 1.0)[:, None, None]
enhanced("frames out of order", "read", heights=HEIGHTS)
enhanced(
    "a different rescaling in each frame",
    "read",
    right((RIGHT * FACTORS + 3)[:, np.argsort(ORDER)]),
    heights=HEIGHTS,
    each=scaled,
)
enhanced(
    "rounded positions",
    "corrected",
    right(SORTED, spacing=(0.625, 0.5, 0.75)),
    says=ROUNDED,
    heights=[round(0.625 * position, 2) for position in ORDER],
)
enhanced(
    "frames of two echoes at one position",
    "refused",
    says="they differ in EffectiveEchoTime",
    status="unsupported",
    heights=[2.0 * (n // 2) for n in range(COUNT)],
    each=lambda n: {"MREchoSequence": {"EffectiveEchoTime": 4.0 + n % 2}},
)
enhanced("a frame missing", "refused", says="1 slice missing", heights=[2.0 * (n + (n > 3)) for n in range(COUNT)])
enhanced(
    "RescaleSlope 0 in all frames",
    "corrected",
    says="RescaleSlope: 0",
    heights=HEIGHTS,
    each=lambda n: {"PixelValueTransformationSequence": {"RescaleSlope": 0, "RescaleIntercept": 3}},
)
enhanced(
    "RescaleSlope 0 in one frame",
    "refused",
    says="RescaleSlope",
    heights=HEIGHTS,
    each=lambda n: {"PixelValueTransformationSequence": {"RescaleSlope": float(n != 3), "RescaleIntercept": 3}},
)
enhanced("pixels missing", "refused", says="PixelData of", heights=HEIGHTS, frames=SLICES[:-1])
