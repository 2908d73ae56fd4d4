"""Decoding of one frame of a DICOM file to its samples, whatever the header says about them.

There is one decoder for each coding, so that results do not depend on what else is installed. Of the decoders that
pydicom supports, GDCM crashes on some damaged files and refuses 12 bits, and pylibjpeg-libjpeg is under the GPL.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from types import ModuleType

import numpy as np
from PIL import Image

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers import jpeg
from softfree_runtime.readers.jpeg_lossless import Lengthened

_JP2 = b"\x00\x00\x00\x0cjP  "


@dataclass(frozen=True)
class Coded:
    """A decoded frame.

    Attributes:
        samples: ``(H, W)`` or ``(H, W, C)``, without color conversion, except the inverse of JPEG 2000's own transform.
        family: ``JPEG``, ``JPEG-LS`` or ``JPEG 2000``.
        precision: Bits per sample, according to the codestream.
        signed: Whether the codestream declares them signed, which only JPEG 2000 can.
        coding: ``RGB`` or ``YBR`` if the codestream says so.
    """

    samples: np.ndarray
    family: str
    precision: int
    signed: bool
    coding: str | None


def decode_frame(source: bytes, rows: int, columns: int, samples: int) -> Coded:
    """Decode a frame by its content.

    Raises:
        ValueError: The frame is damaged or not of the size in the header.
        ReadError: A package is missing; status ``unsupported``.
    """
    if source.startswith((b"\xff\x4f\xff\x51", _JP2)):
        return _jpeg_2000(source, rows, columns, samples)
    frame = jpeg.Frame.parse(source)
    _refuse_other_size((frame.height, frame.width, len(frame.components)), (rows, columns, samples))
    if frame.process == jpeg.JPEG_LS:
        return _jpeg_ls(source, frame)
    jpeg.refuse_damaged(source, frame)
    pixels = _lossy(source, frame) if frame.process != jpeg.LOSSLESS and frame.precision == 8 else _other(source, frame)
    return Coded(pixels, "JPEG", frame.precision, False, frame.coding)


def _lossy(source: bytes, frame: jpeg.Frame) -> np.ndarray:
    with Image.open(BytesIO(source), formats=("JPEG",)) as image:
        if frame.read_as_ybr:
            image.draft("YCbCr", image.size)  # as coded
        return np.array(image)


def _other(source: bytes, frame: jpeg.Frame) -> np.ndarray:
    """Decode JPEG of 12 bits, and lossless JPEG."""
    color = "RGB" if len(frame.components) == 3 else None
    lengthened = Lengthened.of(source, frame)
    decode = _package("imagecodecs", "imagecodecs").jpeg_decode
    pixels = lengthened.checked(decode(lengthened.source, colorspace=color, outcolorspace=color))
    if int(pixels.max()) >> frame.precision:
        raise ValueError("JPEG with values beyond its precision")
    return pixels


def _jpeg_ls(source: bytes, frame: jpeg.Frame) -> Coded:
    buffer, info = _package("jpeg_ls", "pyjpegls").decode_pixel_data(source)
    colors = len(frame.components)
    pixels = np.frombuffer(buffer, np.uint8 if frame.precision <= 8 else "<u2")
    if colors == 1:
        pixels = pixels.reshape(frame.height, frame.width)
    elif info["interleave_mode"] == 0:
        pixels = pixels.reshape(colors, frame.height, frame.width).transpose(1, 2, 0)
    else:
        pixels = pixels.reshape(frame.height, frame.width, colors)
    return Coded(pixels, "JPEG-LS", frame.precision, False, frame.coding)


def _jpeg_2000(source: bytes, rows: int, columns: int, samples: int) -> Coded:
    head = source.find(b"\xff\x4f\xff\x51") + 2
    if head < 2 or len(source) < head + 43:
        raise ValueError("JPEG 2000 without a header")
    right, bottom, left, top = (int.from_bytes(source[head + at : head + at + 4]) for at in (6, 10, 14, 18))
    count = int.from_bytes(source[head + 38 : head + 40])
    _refuse_other_size((bottom - top, right - left, count), (rows, columns, samples))
    depths = set(source[head + 40 : head + 40 + 3 * count : 3])
    if len(depths) != 1:
        raise ValueError("JPEG 2000 with colors of different depths")
    depth = depths.pop()
    signed, precision = bool(depth & 0x80), (depth & 0x7F) + 1
    width = 1 if precision <= 8 else 2 if precision <= 16 else 4
    decoded = _package("openjpeg", "pylibjpeg-openjpeg").decode_pixel_data(source, version=2)
    pixels = np.frombuffer(decoded, f"<{'i' if signed else 'u'}{width}")
    pixels = pixels.reshape((rows, columns, count)[: 2 if count == 1 else 3])
    return Coded(pixels, "JPEG 2000", precision, signed, "RGB" if _transformed(source, head) else None)


def _transformed(source: bytes, head: int) -> bool:
    """Return whether JPEG 2000's own color transform was used, which decoders invert (ISO 15444-1, A.6.1)."""
    position = head
    while source[position : position + 1] == b"\xff" and source[position + 1] not in (0x90, 0x93):
        if source[position + 1] == 0x52:
            return source[position + 8] == 1
        position += 2 + int.from_bytes(source[position + 2 : position + 4])
    return False


def _refuse_other_size(size: tuple[int, int, int], expected: tuple[int, int, int]) -> None:
    """Compare rows, columns and samples of a codestream with those of the header."""
    if size != expected:
        stream, header = (" x ".join(map(str, numbers)) for numbers in (size, expected))
        raise ValueError(f"a codestream of {stream} samples, but Rows, Columns and SamplesPerPixel say {header}")


def _package(module: str, package: str) -> ModuleType:
    """Import a decoder on demand: imagecodecs takes 80 MB, which the torch-free runtime does not require."""
    try:
        return import_module(module)
    except ImportError:
        raise ReadError(f"its pixels need the package {package}; pip install {package}", "unsupported") from None


def decode_runs(source: bytes, rows: int, columns: int, samples: int, allocated: int) -> np.ndarray:
    """Decode one run-length frame (PS3.5 annex G) to unsigned ``(H, W)`` or ``(H, W, C)``.

    A segment may be padded with zeros, as some writers do.

    Raises:
        ValueError: A segment has the wrong length, which reveals damage.
    """
    count = int.from_bytes(source[:4], "little")
    wide = allocated // 8
    if count != samples * wide or len(source) < 64:
        raise ValueError(f"{count} run-length segments, expected {samples * wide}")
    offsets = [int.from_bytes(source[at : at + 4], "little") for at in range(4, 4 + 4 * count, 4)]
    pixels = np.empty((rows * columns, samples, wide), np.uint8)
    for number, (start, end) in enumerate(zip(offsets, [*offsets[1:], len(source)], strict=True)):
        segment = _unpacked(source[start:end])
        if len(segment) < rows * columns or segment[rows * columns :].strip(b"\0"):
            raise ValueError(f"a run-length segment of {len(segment)} bytes, expected {rows * columns}")
        # The segments of a sample start with its most significant byte.
        pixels[:, number // wide, wide - 1 - number % wide] = np.frombuffer(segment, np.uint8, rows * columns)
    values = pixels.view(f"<u{wide}")
    return values.reshape((rows, columns, samples)[: 2 if samples == 1 else 3])


def _unpacked(segment: bytes) -> bytes:
    runs = []
    position = 0
    while position < len(segment):
        head = segment[position]
        if head < 128:
            runs.append(segment[position + 1 : position + 2 + head])
            position += 2 + head
        elif head > 128:
            runs.append(segment[position + 1 : position + 2] * (257 - head))
            position += 2
        else:
            position += 1
    return b"".join(runs)
