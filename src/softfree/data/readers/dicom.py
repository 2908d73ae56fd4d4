"""DICOM pictures, one frame at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, pixel_array
from pydicom.pixels.utils import get_expected_length
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    VLWholeSlideMicroscopyImageStorage,
)

from softfree.data.readers import jpeg
from softfree.data.readers.grayscale import LookUpTable, not_padding, to_modality, to_view
from softfree.data.readers.picture import (
    Picture,
    chosen_frame,
    in_one_line,
    own_range,
    refuse_large,
    refuse_not_finite,
    with_gray_noted,
)
from softfree.data.readers.quiet import quiet
from softfree.errors import ReadError

jpeg.register()

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
# One decoder for each coding, so that a result does not depend on what else is installed. The others have one only.
_DECODERS = {
    JPEGBaseline8Bit: "pillow",
    JPEGExtended12Bit: jpeg.PLUGIN,
    JPEGLossless: jpeg.PLUGIN,
    JPEGLosslessSV1: jpeg.PLUGIN,
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    JPEG2000Lossless: "pylibjpeg",
    JPEG2000: "pylibjpeg",
}
_GRAY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_FRAME_MACROS = ("PixelMeasuresSequence", "PixelValueTransformationSequence", "FrameVOILUTSequence")
_FRAME_VALUES = (
    *("ModalityLUTSequence", "RescaleSlope", "RescaleIntercept"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"),
)


def decode(path: Path, frame: int | None = None, *, max_pixels: int = 1 << 28) -> tuple[np.ndarray, Dataset]:
    """Decode stored values: no rescaling, no window, no inversion; YBR already turned into RGB.

    Args:
        path: a DICOM file, with or without preamble.
        frame: counted from 0; None for all frames.
        max_pixels: rows x columns that are refused beyond, for all wanted frames together.

    Returns:
        The array, ``(H, W)`` or ``(H, W, 3)`` with the frames in front when there are several and all are wanted,
        in native byte order; and the dataset, its large elements not yet read.

    Raises:
        ReadError: with status ``no_pixels``, ``unsupported``, ``too_large`` or ``corrupt``.
    """
    with quiet():
        try:
            # Large elements are read when they are asked for.
            dataset = dcmread(path, force=True, defer_size=1 << 20)
        except MemoryError:
            raise
        except Exception as error:  # pydicom raises nearly anything on damaged files
            raise ReadError(f"{path}: not readable as DICOM ({type(error).__name__})", "corrupt") from error
        if not any(name in dataset for name in _PIXELS):
            raise ReadError(f"{path}: DICOM without pixel data{_kind(dataset)}; leave it out of the table", "no_pixels")
        try:
            _refuse(path, dataset, frame, max_pixels)
            return _decode(path, dataset, frame), dataset
        except (ReadError, MemoryError):
            raise
        except NotImplementedError as error:
            raise ReadError(f"{path}: {in_one_line(error)}", "unsupported") from error
        except Exception as error:
            raise ReadError(f"{path}: damaged DICOM pixel data: {in_one_line(error)}", "corrupt") from error


def read_dicom(path: Path, frame: int | None = None, *, max_pixels: int = 1 << 28) -> Picture:
    """Read one frame, the first by default, as it is meant to be seen.

    Raises:
        ReadError: as :func:`decode`, and ``not_finite``.
    """
    number = frame or 0
    stored, dataset = decode(path, number, max_pixels=max_pixels)
    with quiet():
        try:
            return _present(path, stored, dataset, number)
        except (ReadError, MemoryError):
            raise
        except Exception as error:  # a header element that is not what the standard says
            message = f"{path}: DICOM header with a damaged LUT, window or size ({type(error).__name__})"
            raise ReadError(message, "corrupt") from error


def _refuse(path: Path, dataset: Dataset, frame: int | None, max_pixels: int) -> None:
    """Raise ReadError, from the header alone, for what cannot be read or would not fit."""
    if dataset.get("SOPClassUID") == VLWholeSlideMicroscopyImageStorage:
        raise ReadError(
            f"{path}: a whole-slide image; slides are not read as pictures, give regions of it", "unsupported"
        )
    if absent := [name for name in ("PhotometricInterpretation", "Rows", "Columns") if name not in dataset]:
        raise ReadError(f"{path}: DICOM pixel data without {' and '.join(absent)} in the header", "corrupt")
    photometric = dataset.PhotometricInterpretation
    if photometric not in (*_GRAY, *_COLOUR, "PALETTE COLOR"):
        raise ReadError(f"{path}: photometric interpretation {photometric} is not supported", "unsupported")
    rows, columns, frames = int(dataset.Rows), int(dataset.Columns), frame_count(dataset)
    chosen_frame(path, frame, frames)
    refuse_large(path, columns, rows * (frames if frame is None else 1), max_pixels)


def _decode(path: Path, dataset: Dataset, frame: int | None) -> np.ndarray:
    meta = getattr(dataset, "file_meta", None) or FileMetaDataset()
    if not meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        native = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        meta.TransferSyntaxUID = native if little else ExplicitVRBigEndian
        dataset.file_meta = meta
    syntax = meta.TransferSyntaxUID
    if frame is not None and frame_count(dataset) > 1 and syntax in _NATIVE:
        if get_expected_length(dataset) > path.stat().st_size:
            raise ValueError(f"the file is too short for the {frame_count(dataset)} frames of its header")
        # From the path, pydicom reads the wanted frame alone.
        pixels = pixel_array(path, index=frame, transfer_syntax_uid=syntax)
    else:
        eight = syntax == JPEGExtended12Bit and dataset.BitsStored == 8
        pixels = pixel_array(dataset, index=frame, decoding_plugin="pillow" if eight else _DECODERS.get(syntax, ""))
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _present(path: Path, stored: np.ndarray, dataset: Dataset, frame: int) -> Picture:
    """Turn the stored values ``(H, W)`` or ``(H, W, 3)`` of one frame into a picture."""
    photometric = dataset.PhotometricInterpretation
    values = frame_elements(dataset, frame)
    little = bool(dataset.original_encoding[1])
    bits = used_bits(stored, dataset)
    steps = list(chosen_frame(path, frame, frame_count(dataset))[1])
    pixels = stored if stored.ndim == 3 else stored[..., None]  # (H, W, C)
    if pixels.dtype == np.float64:
        pixels = pixels.astype(np.float32)
    if photometric == "PALETTE COLOR":
        pixels = _palette(stored, dataset, little)
        low, high = 0.0, 255.0 if pixels.max() < 256 else 65535.0
        steps.append("palette to RGB")
    elif photometric in _COLOUR:
        low, high, own = own_range(pixels, bits)
        steps += [*([] if photometric == "RGB" else [f"{photometric} to RGB"]), *own]
    else:
        pixels, modality = to_modality(pixels, values, little)
        refuse_not_finite(path, pixels)
        if stored.dtype.kind == "f" and values.get("VOILUTFunction") in (None, "LINEAR"):
            values["VOILUTFunction"] = "LINEAR_EXACT"  # LINEAR counts in whole numbers
        pixels, low, high, view = to_view(pixels, values, little, bits, not_padding(stored, dataset))
        steps += modality + view
        if photometric == "MONOCHROME1":
            pixels = np.float32(low + high) - pixels.astype(np.float32)
            steps.append("MONOCHROME1 inverted")
    described = with_gray_noted(describe(stored, bits, photometric), pixels)
    return Picture(pixels, low, high, _spacing(values), tuple(steps), described)


def _palette(stored: np.ndarray, dataset: Dataset, little_endian: bool) -> np.ndarray:
    """Palette indices ``(H, W)`` to RGB ``(H, W, 3)`` (PS3.3 C.7.6.3.1.5)."""
    descriptor = dataset.RedPaletteColorLookupTableDescriptor
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        # pydicom expands the segments; asked for every input in turn, it gives the whole table.
        count, first = descriptor[0] or 1 << 16, descriptor[1]
        table = apply_color_lut(np.arange(first, first + count, dtype=np.int32), dataset)[:, :3]
        tables = [LookUpTable(first, channel, 16) for channel in table.T]
    else:
        data = [dataset[f"{colour}PaletteColorLookupTableData"].value for colour in ("Red", "Green", "Blue")]
        tables = [LookUpTable.parse(descriptor, channel, little_endian) for channel in data]
    return np.stack([table(stored) for table in tables], axis=-1)


def frame_elements(dataset: Dataset, frame: int) -> dict[str, Any]:
    """Collect what holds for one frame: the dataset's elements, then the shared and its own functional groups."""
    found = {name: dataset.get(name) for name in _FRAME_VALUES}
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    each = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for group in (*shared[:1], *each[frame : frame + 1]):
        for macro in _FRAME_MACROS:
            for item in (group.get(macro) or [])[:1]:
                found |= {name: item.get(name) for name in _FRAME_VALUES if name in item}
    return found


def _spacing(values: dict[str, Any]) -> tuple[float, float] | None:
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        pair = values.get(name)
        if isinstance(pair, MultiValue) and len(pair) == 2 and all(0 < float(value) < np.inf for value in pair):
            return float(pair[0]), float(pair[1])
    return None


def used_bits(stored: np.ndarray, dataset: Dataset) -> int:
    """How many bits of each stored value are used."""
    width = stored.dtype.itemsize * 8
    return min(int(dataset.get("BitsStored") or width), width) if stored.dtype.kind in "ui" else width


def describe(stored: np.ndarray, bits: int, photometric: str) -> str:
    """What the file holds, such as ``12-bit signed MONOCHROME2``."""
    if stored.dtype.kind == "f":
        return f"{stored.dtype} {photometric}"
    return f"{bits}-bit {'signed ' if stored.dtype.kind == 'i' else ''}{photometric}"


def frame_count(dataset: Dataset) -> int:
    """Number of frames; ValueError where the header does not give a number."""
    try:
        return int(dataset.get("NumberOfFrames") or 1)
    except ValueError:
        raise ValueError("the header's number of frames is not a number") from None


def _kind(dataset: Dataset) -> str:
    """Name the kind of object in the standard's words; never a value that the file's author chose."""
    try:
        uid = UID(dataset.SOPClassUID)
    except Exception:  # damaged: then it has no name
        return ""
    return f" ({uid.name})" if uid.name != uid else ""
