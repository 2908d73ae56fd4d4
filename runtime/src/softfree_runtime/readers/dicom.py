"""DICOM images, one frame at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut
from pydicom.uid import UID, VLWholeSlideMicroscopyImageStorage

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.dicom_elements import Elements
from softfree_runtime.readers.dicom_file import open_dicom
from softfree_runtime.readers.dicom_pixels import COLOR, PALETTE, Layout, count_frames, decode_pixels, read_layout
from softfree_runtime.readers.grayscale import LookUpTable, not_padding, to_modality, to_view
from softfree_runtime.readers.image import (
    DecodedImage,
    chosen_frame,
    in_one_line,
    inverted,
    own_range,
    refuse_large,
    refuse_not_finite,
    with_gray_noted,
)
from softfree_runtime.readers.quiet import quiet

_FRAME_MACROS = ("PixelMeasuresSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence")
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


@dataclass(frozen=True)
class Header:
    """Header information for the decoded frames of a file.

    Attributes:
        bits: Number of bits used in each value.
        layout: How the file stores them.
        dataset: The elements of the header.
        corrections: Errors found so far.
    """

    bits: int
    layout: Layout
    dataset: Dataset
    corrections: list[str]

    @property
    def little_endian(self) -> bool:
        """Byte order of lookup tables."""
        return bool(self.dataset.original_encoding[1])

    def elements(self, frame: int, corrections: list[str] | None = None) -> Elements:
        """Return the elements that apply to one frame; their errors are added to ``corrections``."""
        return frame_elements(
            self.dataset, frame, _FRAME_MACROS, self.corrections if corrections is None else corrections
        )

    def describe(self, stored: np.ndarray) -> str:
        """Return the content of the file in words, such as ``12-bit signed MONOCHROME2``."""
        if stored.dtype.kind == "f":
            return f"{stored.dtype} {self.layout.photometric}"
        return f"{self.bits}-bit {'signed ' if stored.dtype.kind == 'i' else ''}{self.layout.photometric}"


def decode(path: Path, frame: int | None = None, *, max_pixels: int = 1 << 28) -> tuple[np.ndarray, Header]:
    """Decode stored values: no rescaling, window or inversion; YBR is converted to RGB.

    Args:
        path: A DICOM file, with or without preamble.
        frame: Counted from 0; None for all frames.
        max_pixels: Maximum rows x columns, for all decoded frames together.

    Returns:
        The array, ``(H, W)`` or ``(H, W, 3)`` with the frames first if several are decoded,
        in native byte order; and the header.

    Raises:
        ReadError: With status ``no_pixels``, ``unsupported``, ``too_large`` or ``corrupt``.
    """
    with quiet(), open_dicom(path) as (dataset, element):
        if element is None:
            raise ReadError(
                f"DICOM without pixel data{_kind(dataset)}; leave it out of the table", "no_pixels", path=path
            )
        elements = Elements(dataset)
        if element.after_damage:
            elements.correct("elements before the Image Pixel module: damaged, ignored")
        try:
            if dataset.get("SOPClassUID") == VLWholeSlideMicroscopyImageStorage:
                raise ReadError("a whole-slide image; slides are not read as images, give regions of it", "unsupported")
            layout = read_layout(dataset, elements, element)
            chosen_frame(path, frame, layout.frames)
            refuse_large(path, layout.columns, layout.rows * (layout.frames if frame is None else 1), max_pixels)
            stored = decode_pixels(element, layout, elements, frame)
        except ReadError as error:
            raise error.of(path) from error.__cause__
        except MemoryError:
            raise
        except Exception as error:  # decoders raise almost any exception on damaged frames
            raise ReadError(f"damaged DICOM pixel data: {in_one_line(error, path)}", "corrupt", path=path) from error
    return stored.pixels, Header(stored.bits, layout, dataset, elements.corrections)


def read_dicom(path: Path, frame: int | None = None, *, max_pixels: int = 1 << 28) -> DecodedImage:
    """Read one frame as it is meant to be displayed; default: the first.

    Raises:
        ReadError: As :func:`decode`, and ``not_finite``.
    """
    number = frame or 0
    stored, header = decode(path, number, max_pixels=max_pixels)
    with quiet():
        try:
            return _present(path, stored, header, number)
        except ReadError as error:
            raise error.of(path) from error.__cause__
        except MemoryError:
            raise
        except Exception as error:  # a header element that violates the standard
            raise ReadError(
                f"DICOM header with a damaged element ({type(error).__name__})", "corrupt", path=path
            ) from error


def _present(path: Path, stored: np.ndarray, header: Header, frame: int) -> DecodedImage:
    """Convert the stored values ``(H, W)`` or ``(H, W, 3)`` of one frame to an image."""
    photometric, little = header.layout.photometric, header.little_endian
    elements = header.elements(frame)
    steps = list(chosen_frame(path, frame, header.layout.frames)[1])
    pixels = stored if stored.ndim == 3 else stored[..., None]  # (H, W, C)
    if pixels.dtype == np.float64:
        pixels = pixels.astype(np.float32)
    if photometric == PALETTE:
        pixels, high = _palette(stored, elements, header)
        low = 0.0
        steps.append("palette to RGB")
    elif photometric in COLOR:
        low, high, own = own_range(pixels, header.bits)
        steps += [*([] if photometric == "RGB" else [f"{photometric} to RGB"]), *own]
    else:
        pixels, modality = to_modality(pixels, elements, little)
        refuse_not_finite(path, pixels)
        counted = not_padding(stored, elements, header.bits)
        fractions = stored.dtype.kind == "f"
        pixels, low, high, view = to_view(pixels, elements, little, header.bits, counted, fractions=fractions)
        steps += modality + view
        if photometric == "MONOCHROME1":
            pixels = inverted(pixels, low, high)
            steps.append("MONOCHROME1 inverted")
    described = with_gray_noted(header.describe(stored), pixels)
    spacing = _spacing(elements)
    aspect = 1.0 if spacing else _aspect(elements)
    corrections = tuple(elements.corrections)
    return DecodedImage(pixels, low, high, spacing, (*steps, *corrections), described, corrections, aspect)


def _palette(stored: np.ndarray, elements: Elements, header: Header) -> tuple[np.ndarray, float]:
    """Convert palette indices ``(H, W)`` to RGB ``(H, W, 3)``; return it with the white value (PS3.3 C.7.6.3.1.5)."""
    try:
        tables = _palette_tables(elements, header)
    except ValueError as error:
        raise ReadError(f"a palette that cannot be read: {error}") from error
    for table in tables:
        if table.missing > 0 and int(stored.max()) >= table.first + len(table.entries):
            raise ReadError("a palette with fewer entries than the pixels need; repair the header")
    white = 255.0 if max(int(table.entries.max()) for table in tables) < 256 else 65535.0
    return np.stack([table(stored) for table in tables], axis=-1), white


def _palette_tables(elements: Elements, header: Header) -> list[LookUpTable]:
    names = [f"{color}PaletteColorLookupTable" for color in ("Red", "Green", "Blue")]
    if "SegmentedRedPaletteColorLookupTableData" in elements:
        count, first, bits = LookUpTable.describe(elements, f"{names[0]}Descriptor")
        # pydicom expands the segments; looking up every input gives the whole table.
        every = apply_color_lut(np.arange(first, first + count, dtype=np.int32), header.dataset)[:, :3]
        return [LookUpTable(first, channel, bits) for channel in every.T]
    little = header.little_endian
    return [LookUpTable.read(elements, f"{name}Descriptor", f"{name}Data", little) for name in names]


def frame_elements(dataset: Dataset, frame: int, macros: tuple[str, ...], corrections: list[str]) -> Elements:
    """Return the elements that apply to one frame: of the data set, the shared and the frame's functional groups."""
    whole = Elements(dataset, corrections=corrections)
    shared = whole.items("SharedFunctionalGroupsSequence")[:1]
    own = whole.items("PerFrameFunctionalGroupsSequence")[frame : frame + 1]
    groups = [Elements(group, corrections=corrections) for group in (*shared, *own)]
    layers = [item for group in groups for macro in macros for item in group.items(macro)[:1]]
    return Elements(dataset, *layers, corrections=corrections)


def _spacing(elements: Elements) -> tuple[float, float] | None:
    for name in _SPACINGS:
        pair = elements.vector(name, 2)
        if pair and min(pair) > 0:
            return pair[0], pair[1]
    return None


def _aspect(elements: Elements) -> float:
    """Return the height of a pixel divided by its width, 1 if the file does not say (PS3.3 C.7.6.3.1.7)."""
    pair = elements.vector("PixelAspectRatio", 2)
    return pair[0] / pair[1] if pair and min(pair) > 0 else 1.0


def frame_count(dataset: Dataset) -> int:
    """Return the number of frames; ReadError if the header does not have a valid one."""
    return count_frames(Elements(dataset))


def _kind(dataset: Dataset) -> str:
    """Return the standard's name for the kind of object; never a value that the file's author chose."""
    try:
        uid = UID(dataset.SOPClassUID)
    except Exception:  # damaged
        return ""
    return f" ({uid.name})" if uid.name != uid else ""
