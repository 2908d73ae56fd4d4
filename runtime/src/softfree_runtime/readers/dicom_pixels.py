"""Stored values of a DICOM file's frames, reconciling its header with its codestreams."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames, get_frame
from pydicom.pixels import convert_color_space, get_decoder
from pydicom.uid import UID, RLELossless

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.dicom_codes import Coded, decode_frame, decode_runs
from softfree_runtime.readers.dicom_elements import Elements
from softfree_runtime.readers.dicom_file import PixelElement

GRAY = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
_YBR = ("YBR_FULL", "YBR_FULL_422")
_JPEG_2000_YBR = ("YBR_ICT", "YBR_RCT")
COLOR = ("RGB", *_YBR, *_JPEG_2000_YBR)
# Of this or a retired edition of the standard; other values are not quoted in messages, as they could be anything.
_KNOWN = ("HSV", "ARGB", "CMYK", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "XYB")
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_DAMAGED = "damaged DICOM pixel data"
_FLOAT = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}


@dataclass(frozen=True)
class Layout:
    """The Image Pixel module (PS3.3 C.7.6.3).

    Attributes:
        rows: Rows of a frame.
        columns: Columns of a frame.
        frames: Number of frames.
        photometric: The photometric interpretation.
        samples: Samples per pixel, 1 or 3.
        planar: Whether colors are stored in separate planes.
        allocated: Bits allocated per value.
        stored: Number of these that are used.
        high: Index of the highest used bit.
        signed: Whether values are two's complement.
        syntax: The transfer syntax.
        overlaid: Whether unused bits hold overlays, as older editions of the standard allow.
    """

    rows: int
    columns: int
    frames: int
    photometric: str
    samples: int
    planar: bool
    allocated: int
    stored: int
    high: int
    signed: bool
    syntax: UID
    overlaid: bool = field(repr=False)

    def native_bytes(self, frames: int) -> int:
        """Return the size of ``frames`` uncompressed frames in bytes."""
        bits = self.rows * self.columns * self.samples * self.allocated * frames
        if self.photometric == "YBR_FULL_422":
            bits = bits // 3 * 2
        return -(-bits // 8)


def read_layout(dataset: Dataset, elements: Elements, element: PixelElement) -> Layout:
    """Read and check the elements that describe how pixels are stored.

    Raises:
        ReadError: A required element is missing, damaged or contradicts the others; the message names it.
    """
    photometric = _photometric(elements)
    syntax = dataset.file_meta.TransferSyntaxUID
    rows, columns = (_needed(elements, name, 1, 0xFFFF) for name in ("Rows", "Columns"))
    samples = 3 if photometric in COLOR else 1
    declared = elements.whole("SamplesPerPixel")
    if declared != samples:
        # Remaining contradictions are checked against the pixels.
        elements.correct("SamplesPerPixel: missing or contradicts PhotometricInterpretation, which is used")
    allocated = _FLOAT.get(element.keyword) or _needed(elements, "BitsAllocated", 1, 64)
    if allocated not in (1, 8, 16, 32, 64):
        raise ReadError(f"BitsAllocated {allocated} is not supported, expected 8, 16 or 32", "unsupported")
    stored, high, signed = allocated, allocated - 1, False
    if element.keyword not in _FLOAT:
        stored = _needed(elements, "BitsStored", 1, allocated)
        high = _high_bit(elements, allocated, stored)
        signed = bool(_needed(elements, "PixelRepresentation", 0, 1))
    planar = elements.whole("PlanarConfiguration") if samples > 1 else 0
    if planar not in (0, 1):
        elements.correct("PlanarConfiguration: missing or neither 0 nor 1, interleaved colors assumed")
    tags = dataset.keys()  # iterating over the data set would decode its elements
    overlaid = any(_overlaid(dataset, tag) for tag in tags if 0x6000 <= tag.group < 0x6100)
    return Layout(
        *(rows, columns, count_frames(elements), photometric, samples, planar == 1),
        *(allocated, stored, high, signed, syntax, overlaid),
    )


def count_frames(elements: Elements) -> int:
    """Read the number of frames; 1 if the header has none."""
    if "NumberOfFrames" not in elements:
        return 1
    number = elements.whole("NumberOfFrames")
    if number == 0:
        elements.correct("NumberOfFrames: 0, 1 assumed")
        return 1
    if number is None or number < 0:
        raise ReadError("the header's NumberOfFrames is not a number of frames")
    return number


@dataclass(frozen=True)
class Stored:
    """Decoded frames.

    Attributes:
        pixels: ``(H, W)`` or ``(H, W, 3)``, RGB, with the frames as first axis if all of several were decoded.
        bits: How many bits of each value are used.
    """

    pixels: np.ndarray
    bits: int


def decode_pixels(element: PixelElement, layout: Layout, elements: Elements, frame: int | None) -> Stored:
    """Decode one frame, or all of them with None.

    Raises:
        ReadError: The pixels are damaged, truncated or not of the size in the header.
    """
    try:
        get_decoder(layout.syntax)
    except NotImplementedError:
        raise ReadError(f"transfer syntax {_named(layout.syntax)} is not supported", "unsupported") from None
    decode = _encapsulated if layout.syntax.is_encapsulated else _native
    return decode(element, layout, elements, frame)


def _native(element: PixelElement, layout: Layout, elements: Elements, frame: int | None) -> Stored:
    """Decode uncompressed frames."""
    layout = _with_length_checked(element, layout, elements)
    element.source.seek(element.start)
    options: dict[str, Any] = {
        "pixel_keyword": element.keyword,
        "pixel_vr": element.representation,
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": layout.samples,
        "number_of_frames": layout.frames,
        "photometric_interpretation": layout.photometric,
        "planar_configuration": int(layout.planar),
        "bits_allocated": layout.allocated,
        "bits_stored": layout.stored,
        "pixel_representation": int(layout.signed),
        "correct_unused_bits": False,
    }
    # Raw: without conversion of colors.
    pixels, _ = get_decoder(layout.syntax).as_array(element.source, index=frame, raw=True, **options)
    return _of_words(pixels.astype(pixels.dtype.newbyteorder("="), copy=False), layout, elements)


def _of_words(words: np.ndarray, layout: Layout, elements: Elements) -> Stored:
    """Convert words, as the file allocates them, to values or RGB colors."""
    if layout.photometric in _JPEG_2000_YBR:
        raise ReadError(f"photometric interpretation {layout.photometric} without JPEG 2000", "unsupported")
    values = words if words.dtype.kind == "f" else _without_unused_bits(words, layout, elements)
    return Stored(_to_rgb(values) if layout.photometric in _YBR else values, layout.stored)


def _with_length_checked(element: PixelElement, layout: Layout, elements: Elements) -> Layout:
    """Compare the length of native pixels with the header; return the layout that fits."""
    if element.length is None:
        raise ReadError("compressed frames, but the transfer syntax is for uncompressed pixels")
    expected, available = layout.native_bytes(layout.frames), element.available()
    full = replace(layout, photometric="YBR_FULL")
    if layout.photometric == "YBR_FULL_422" and available - full.native_bytes(full.frames) in (0, 1):
        elements.correct("PhotometricInterpretation: YBR_FULL_422, but pixels are not subsampled, YBR_FULL used")
        return full
    if available < expected:
        size = "Rows, Columns, SamplesPerPixel, BitsAllocated and NumberOfFrames"
        raise ReadError(f"{_DAMAGED}: {element.keyword} of {available} bytes; {size} require {expected}")
    if available - expected > 1:
        element.source.seek(element.start + expected)
        beyond = element.source.read(available - expected)
        if layout.frames > 1 and available >= layout.native_bytes(layout.frames + 1):
            elements.correct("NumberOfFrames: less than the pixel data hold, the others ignored")
        elif beyond.strip(beyond[:1]):
            size = "Rows, Columns, SamplesPerPixel, BitsAllocated or NumberOfFrames"
            raise ReadError(f"{element.keyword} of {available} bytes, expected {expected}: {size} is wrong")
        else:
            elements.correct(f"{element.keyword}: padded beyond its end, padding ignored")
    return layout


def _encapsulated(element: PixelElement, layout: Layout, elements: Elements, frame: int | None) -> Stored:
    """Decode encapsulated frames, whose codestreams have headers of their own."""
    _refuse_cut(element, layout, elements)
    source, offsets = element.source, _extended_offsets(elements)
    source.seek(element.start)
    if frame is not None or layout.frames == 1:
        codes = [get_frame(source, frame or 0, number_of_frames=layout.frames, extended_offsets=offsets)]
    else:
        all_codes = generate_frames(source, number_of_frames=layout.frames, extended_offsets=offsets)
        codes = [code for code, _ in zip(all_codes, range(layout.frames), strict=False)]
        if len(codes) < layout.frames:
            raise ValueError(f"{len(codes)} frames, but NumberOfFrames says {layout.frames}")
    decoded = [_decoded(code, layout, elements) for code in codes]
    if len(decoded) == 1 and (frame is not None or layout.frames == 1):
        return decoded[0]
    return Stored(np.stack([stored.pixels for stored in decoded]), max(stored.bits for stored in decoded))


def _decoded(code: bytes, layout: Layout, elements: Elements) -> Stored:
    """Decode a frame and reconcile its codestream with the header."""
    size = layout.rows, layout.columns, layout.samples
    if layout.syntax == RLELossless:
        words = decode_runs(code, *size, layout.allocated)
        return _of_words(words.view(f"{'i' if layout.signed else 'u'}{words.dtype.itemsize}"), layout, elements)
    coded = decode_frame(code, *size)
    values, signed, bits = _agreed_values(coded, layout, elements)
    width = max(8, layout.allocated, 8 * -(-bits // 8))
    if layout.allocated < bits:
        elements.correct("BitsAllocated: less than the codestream's precision, which is used")
    pixels = values.astype(f"{'i' if signed else 'u'}{1 << (width // 8 - 1).bit_length()}", copy=False)
    return Stored(_agreed_colors(pixels, coded, layout, elements), bits)


def _agreed_values(coded: Coded, layout: Layout, elements: Elements) -> tuple[np.ndarray, bool, int]:
    """Return the values of samples, whether they are signed, and how many bits they use."""
    samples, precision, stored = coded.samples, coded.precision, layout.stored
    if coded.signed:
        negative = int(samples.min()) < 0
        if negative and not layout.signed:
            elements.correct("PixelRepresentation: unsigned, but the codestream is signed, which is used")
        return samples, negative or layout.signed, max(stored, precision) if negative else stored
    top = int(samples.max())
    if layout.high != stored - 1:
        if precision > layout.high:
            elements.correct("HighBit: not BitsStored - 1, values shifted down")
            samples, precision = samples >> (layout.high + 1 - stored), stored
            top = int(samples.max())
        else:
            elements.correct("HighBit: contradicts the codestream, ignored")
    if precision < stored and samples.ndim == 3 and not layout.signed:
        elements.correct("BitsStored: more than the codestream's precision, which is used")
        return samples, False, precision
    if not layout.signed:
        if top >> stored and not layout.overlaid:
            elements.correct("BitsStored: less than the codestream's values use, its precision is used")
            return samples, False, precision
        return samples & ((1 << stored) - 1) if top >> stored else samples, False, stored
    sign = stored if precision >= stored else precision if coded.family != "JPEG" else None
    values = samples if sign is None else _two_complement(samples, sign)
    if top >> stored and not layout.overlaid:
        whole = _two_complement(samples, precision)
        if (whole != values).any():
            elements.correct("BitsStored: less than the codestream's values use, its precision is used")
            return whole, True, precision
    if coded.family == "JPEG 2000" and int(values.min()) < 0:
        elements.correct("PixelRepresentation: signed, but the codestream is not; values read as two's complement")
    return values, True, stored


def _agreed_colors(pixels: np.ndarray, coded: Coded, layout: Layout, elements: Elements) -> np.ndarray:
    """Return RGB ``(H, W, 3)``, by the codestream's color coding, else by the header; gray is unchanged."""
    if layout.photometric not in COLOR:
        return pixels
    declared = "RGB" if layout.photometric == "RGB" else "YBR"
    if layout.photometric in _JPEG_2000_YBR:
        if coded.family == "JPEG 2000":
            if coded.coding is None:
                elements.correct("PhotometricInterpretation: a transform that the codestream does not have, RGB used")
            return pixels
        elements.correct("PhotometricInterpretation: for JPEG 2000, but the frames are not, YBR_FULL used")
    elif coded.coding not in (None, declared):
        elements.correct(f"PhotometricInterpretation: {declared}, but the codestream is {coded.coding}, which is used")
    return _to_rgb(pixels) if (coded.coding or declared) == "YBR" else pixels


def _without_unused_bits(words: np.ndarray, layout: Layout, elements: Elements) -> np.ndarray:
    """Extract the value from each word: the bits from ``high`` down, ``stored`` of them (PS3.5 8.1.1)."""
    if layout.allocated in (1, layout.stored):
        return words
    values = words << (layout.allocated - 1 - layout.high)
    values >>= layout.allocated - layout.stored  # keeps the sign
    if layout.high != layout.stored - 1:
        elements.correct("HighBit: not BitsStored - 1, values shifted down")
    elif not layout.overlaid and not np.array_equal(values, words):
        beyond = words.view(f"u{words.dtype.itemsize}") >> layout.stored
        if beyond[values != words].any():  # the sign may or may not extend into them
            elements.correct("BitsStored: bits beyond it are not empty, ignored")
    return values


def _two_complement(samples: np.ndarray, bits: int) -> np.ndarray:
    """Read the lowest ``bits`` of unsigned samples as a two's complement."""
    width = 8 * samples.dtype.itemsize
    values = (samples << (width - bits)).view(f"i{samples.dtype.itemsize}")
    return values >> (width - bits)


def _to_rgb(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype != np.uint8:
        raise ReadError("YBR colors of more than 8 bits are not supported", "unsupported")
    return convert_color_space(pixels, "YBR_FULL", "RGB")


def _refuse_cut(element: PixelElement, layout: Layout, elements: Elements) -> None:
    """Raise ReadError if the file ends within the frames or has too few; note if it has more."""
    if element.length is not None:
        raise ReadError("uncompressed pixels, but the transfer syntax is for compressed frames")
    source, position = element.source, element.start
    size = element.start + element.available()
    fragments, offsets = -1, 0
    while True:
        source.seek(position)
        head = source.read(8)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] == _DELIMITER:
            break
        position += 8 + length
        if len(head) < 8 or head[:4] != _ITEM or position > size:
            raise ReadError(f"{_DAMAGED}: truncated compressed frames; copy the file again")
        offsets = length // 4 if fragments < 0 else offsets
        fragments += 1
    if fragments < layout.frames:
        raise ReadError(f"{_DAMAGED}: {fragments} compressed frames, but NumberOfFrames says {layout.frames}")
    if offsets > layout.frames or (layout.syntax == RLELossless and fragments > layout.frames):
        elements.correct("NumberOfFrames: less than the pixel data hold, the others ignored")


def _extended_offsets(elements: Elements) -> tuple[bytes, bytes] | None:
    offsets, lengths = (elements.value(f"ExtendedOffsetTable{name}") for name in ("", "Lengths"))
    whole = isinstance(offsets, bytes) and isinstance(lengths, bytes) and len(offsets) == len(lengths) > 0
    return (offsets, lengths) if whole else None


def _photometric(elements: Elements) -> str:
    if "PhotometricInterpretation" not in elements:
        raise ReadError("DICOM pixel data without PhotometricInterpretation in the header")
    photometric = elements.text("PhotometricInterpretation")
    if photometric not in (*GRAY, *COLOR, PALETTE):
        name = photometric if photometric in _KNOWN else "that is not in the standard"
        raise ReadError(f"photometric interpretation {name} is not supported", "unsupported")
    return photometric


def _high_bit(elements: Elements, allocated: int, stored: int) -> int:
    high = elements.whole("HighBit")
    if high is None or (high >= allocated and stored == allocated):
        elements.correct("HighBit: missing or beyond BitsAllocated, BitsStored - 1 used")
        return stored - 1
    if not stored - 1 <= high < allocated:
        raise ReadError(f"HighBit {high} contradicts BitsStored {stored}, BitsAllocated {allocated}; repair the header")
    return high


def _needed(elements: Elements, keyword: str, low: int, high: int) -> int:
    number = elements.whole(keyword)
    if number is None:
        raise ReadError(f"DICOM pixel data without a readable {keyword} in the header")
    if not low <= number <= high:
        raise ReadError(f"{keyword} {number} in the DICOM header, expected {low} to {high}")
    return number


def _overlaid(dataset: Dataset, tag: Any) -> bool:
    """Return whether an element places an overlay in the bits of the pixels, at a position other than the usual 0."""
    if tag.element != 0x0102:
        return False
    try:
        return int(dataset[tag].value or 0) > 0
    except Exception:  # damaged
        return False


def _named(syntax: UID) -> str:
    return syntax.name if syntax.name != syntax else "that is not in the standard"
