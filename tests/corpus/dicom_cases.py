"""DICOM images."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from openjpeg.utils import encode_array
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from tests.corpus.case import Made, Outcome, case

RNG = np.random.default_rng(0)
VALUES = RNG.integers(0, 4000, (40, 36)).astype(np.uint16)
SMOOTH = np.add.outer(np.arange(40), np.arange(48)).astype(np.uint16) * 20 + RNG.integers(0, 30, (40, 48)).astype(
    np.uint16
)
COLORS = np.stack([SMOOTH >> 4, 200 - (SMOOTH >> 4), SMOOTH >> 5], axis=-1).astype(np.uint8)
Elements = dict[str, object]


def write(
    folder: Path,
    pixels: np.ndarray = VALUES,
    *,
    bits: int | None = None,
    photometric: str | None = None,
    syntax: str = ExplicitVRLittleEndian,
    codes: list[bytes] | None = None,
    content: bytes | None = None,
    change: Callable[[Dataset], object] | None = None,
    bytes_for: dict[bytes, bytes] | None = None,
    name: str = "a.dcm",
    **elements: object,
) -> Path:
    """Write one image, with elements set, the data set changed, or bytes of the file exchanged for others."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "secret-4711"
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = photometric or ("RGB" if pixels.ndim == 3 else "MONOCHROME2")
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    native = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes() if content is None else content
    dataset.PixelData = native + bytes(len(native) % 2) if codes is None else encapsulate(codes)
    dataset["PixelData"].VR = "OB" if codes is not None or dataset.BitsAllocated == 8 else "OW"
    if codes is not None:
        dataset["PixelData"].is_undefined_length = True
    if change:
        change(dataset)
    path = folder / name
    dataset.save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    for old, new in (bytes_for or {}).items():
        assert data.count(old) >= 1, old
        data = data.replace(old, new)
    path.write_bytes(data)
    return path


def items(*datasets: Elements) -> Sequence:
    made = []
    for elements in datasets:
        dataset = Dataset()
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        made.append(dataset)
    return Sequence(made)


def right(pixels: np.ndarray, **others: Any) -> dict[str, Any]:
    return {"pixels": pixels if pixels.ndim == 3 else pixels[..., None], **others}


def run_lengths(pixels: np.ndarray) -> bytes:
    """Encode (PS3.5 G.3): literal runs only, one segment a byte of each sample, the highest byte first."""
    samples = pixels.reshape(pixels.shape[0] * pixels.shape[1], -1)
    words = samples.astype(samples.dtype.newbyteorder(">")).view(np.uint8).reshape(len(samples), -1)
    segments = []
    for column in words.T:
        data = column.tobytes()
        runs = [data[at : at + 128] for at in range(0, len(data), 128)]
        coded = b"".join(bytes([len(run) - 1]) + run for run in runs)
        segments.append(coded + bytes(len(coded) % 2))
    offsets = np.cumsum([64, *map(len, segments[:-1])])
    head = np.zeros(16, "<u4")
    head[: len(segments) + 1] = [len(segments), *offsets]
    return head.tobytes() + b"".join(segments)


def register(
    property: str,
    outcome: Outcome,
    expected: Callable[[], dict[str, Any]] | dict[str, Any] | None = None,
    *,
    says: str = "",
    status: str = "corrupt",
    tolerance: float = 1e-6,
    pixels: np.ndarray = VALUES,
    **options: Any,
) -> None:
    """Register a case of one file that :func:`write` makes."""

    @case("DICOM", property, "image", outcome, says=says, status=status)
    def make(folder: Path) -> Made:
        made = expected() if callable(expected) else expected
        return Made(write(folder, pixels, **options), {} if outcome == "refused" else made or right(pixels), tolerance)


# --- which bits of a word are the value

OVERLAY = (RNG.integers(0, 2, VALUES.shape)).astype(np.uint16)
SIGNED = VALUES.astype(np.int16) - 2000
HIGH = "HighBit: not BitsStored - 1"
register("12 bits stored, HighBit 11", "read", bits=12)
register(
    "12 bits in the high bits of a word, overlay in the low bits",
    "corrected",
    lambda: right(VALUES),
    says=HIGH,
    pixels=VALUES << 4 | OVERLAY,
    bits=12,
    HighBit=15,
)
register(
    "10 bits in the middle of a word",
    "corrected",
    lambda: right(VALUES & 1023),
    says=HIGH,
    pixels=(VALUES & 1023) << 3 | OVERLAY | OVERLAY << 15,
    bits=10,
    HighBit=12,
)
register(
    "signed, in the high bits of a word",
    "corrected",
    lambda: right(SIGNED),
    says=HIGH,
    pixels=SIGNED << 4,
    bits=12,
    HighBit=15,
)
register(
    "HighBit 15, big-endian",
    "corrected",
    lambda: right(VALUES),
    says=HIGH,
    pixels=VALUES << 4,
    bits=12,
    HighBit=15,
    syntax=ExplicitVRBigEndian,
)
register(
    "HighBit 15, RLE",
    "corrected",
    lambda: right(VALUES),
    says=HIGH,
    pixels=VALUES << 4,
    bits=12,
    HighBit=15,
    syntax=RLELossless,
    codes=[run_lengths(VALUES << 4)],
)
register(
    "HighBit 15, 16-bit lossless JPEG",
    "corrected",
    lambda: right(VALUES),
    says=HIGH,
    pixels=VALUES,
    bits=12,
    HighBit=15,
    syntax=JPEGLosslessSV1,
    codes=[imagecodecs.jpeg_encode(VALUES << 4, lossless=True, bitspersample=16)],
)
register(
    "HighBit 15, but 12-bit lossless JPEG",
    "corrected",
    says="HighBit: contradicts the codestream",
    bits=12,
    HighBit=15,
    syntax=JPEGLosslessSV1,
    codes=[imagecodecs.jpeg_encode(VALUES, lossless=True, bitspersample=12)],
)
register("HighBit below BitsStored - 1", "refused", says="HighBit 7 contradicts BitsStored 12", bits=12, HighBit=7)
register(
    "HighBit beyond BitsAllocated, all bits used",
    "corrected",
    says="HighBit",
    pixels=(VALUES & 255).astype(np.uint8),
    HighBit=11,
)
register("HighBit beyond BitsAllocated, not all bits used", "refused", says="HighBit", bits=12, HighBit=16)
register(
    "BitsStored beyond BitsAllocated",
    "refused",
    says="BitsStored 16",
    pixels=(VALUES & 255).astype(np.uint8),
    BitsStored=16,
)
register(
    "an overlay in the bits above HighBit",
    "read",
    lambda: right(VALUES),
    pixels=VALUES | OVERLAY << 12,
    bits=12,
    change=lambda one: _overlay(one, 12),
)
register(
    "unexplained bits above HighBit",
    "corrected",
    lambda: right(VALUES),
    says="BitsStored: bits beyond it are not empty",
    pixels=VALUES | OVERLAY << 12,
    bits=12,
)
register(
    "32 bits per value",
    "read",
    lambda: right(VALUES.astype(np.uint32) * 70000),
    pixels=VALUES.astype(np.uint32) * 70000,
)
register(
    "32 bits per value, signed",
    "read",
    lambda: right(SIGNED.astype(np.int32) * 70000),
    pixels=SIGNED.astype(np.int32) * 70000,
)
register(
    "12 bits packed without gaps",
    "refused",
    says="BitsAllocated 12 is not supported",
    status="unsupported",
    BitsAllocated=12,
    bits=12,
)
for name in ("BitsAllocated", "BitsStored", "PixelRepresentation", "Rows"):
    register(
        f"no {name}", "refused", says=f"without a readable {name}", change=lambda one, name=name: delattr(one, name)
    )
register("no HighBit", "corrected", says="HighBit: missing", bits=12, change=lambda one: delattr(one, "HighBit"))


def _overlay(dataset: Dataset, position: int) -> None:
    dataset.add_new((0x6000, 0x0100), "US", 16)
    dataset.add_new((0x6000, 0x0102), "US", position)


# --- codestreams against their header

J2K, JLS, LOSSLESS = {"syntax": JPEG2000Lossless}, {"syntax": JPEGLSLossless}, {"syntax": JPEGLosslessSV1}
BELOW = SIGNED % 4096
BELOW_16 = SIGNED.view(np.uint16)


def lossless(pixels: np.ndarray, bits: int) -> bytes:
    options = {"colorspace": "RGB", "outcolorspace": "RGB"} if pixels.ndim == 3 else {}
    return imagecodecs.jpeg_encode(pixels, lossless=True, bitspersample=bits, **options)


for bits in (12, 16):
    for representation, said in ((1, ""), (0, "PixelRepresentation: unsigned, but the codestream is signed")):
        register(
            f"signed {bits}-bit JPEG 2000, {'un' * (not representation)}signed in the header",
            "corrected" if said else "read",
            lambda: right(SIGNED),
            says=said,
            bits=bits,
            PixelRepresentation=representation,
            codes=[encode_array(SIGNED, bits_stored=bits)],
            **J2K,
        )
register(
    "unsigned 12-bit JPEG 2000, signed in the header",
    "corrected",
    lambda: right(SIGNED),
    says="PixelRepresentation: signed, but the codestream is not",
    bits=12,
    PixelRepresentation=1,
    codes=[encode_array(BELOW.astype(np.uint16), bits_stored=12)],
    **J2K,
)
register(
    "unsigned 16-bit JPEG 2000, signed in the header",
    "corrected",
    lambda: right(SIGNED),
    says="PixelRepresentation: signed, but the codestream is not",
    PixelRepresentation=1,
    codes=[encode_array(BELOW_16, bits_stored=16)],
    **J2K,
)
register(
    "signed JPEG 2000 of positive values, unsigned in the header",
    "read",
    bits=12,
    codes=[encode_array(VALUES.astype(np.int16) // 2, bits_stored=12)],
    expected=lambda: right(VALUES // 2),
    **J2K,
)
register(
    "signed 8-bit JPEG 2000, unsigned in the header",
    "corrected",
    lambda: right((SIGNED >> 5).astype(np.int8)),
    says="PixelRepresentation",
    pixels=np.zeros(VALUES.shape, np.uint8),
    codes=[encode_array((SIGNED >> 5).astype(np.int8), bits_stored=8)],
    **J2K,
)
register(
    "signed 12-bit JPEG-LS",
    "read",
    lambda: right(SIGNED),
    bits=12,
    PixelRepresentation=1,
    codes=[imagecodecs.jpegls_encode(BELOW.astype(np.uint16))],
    **JLS,
)
register(
    "signed 16-bit JPEG-LS, 12 bits stored",
    "read",
    lambda: right(SIGNED),
    bits=12,
    PixelRepresentation=1,
    codes=[imagecodecs.jpegls_encode(BELOW_16)],
    **JLS,
)
register(
    "signed 16-bit lossless JPEG, 12 bits stored, sign-extended",
    "read",
    lambda: right(SIGNED),
    bits=12,
    PixelRepresentation=1,
    codes=[lossless(BELOW_16, 16)],
    **LOSSLESS,
)
register(
    "signed 12-bit lossless JPEG",
    "read",
    lambda: right(SIGNED),
    bits=12,
    PixelRepresentation=1,
    codes=[lossless(BELOW.astype(np.uint16), 12)],
    **LOSSLESS,
)
WIDE = VALUES * 16 + 5
for name, syntax, code in (
    ("JPEG 2000", J2K, encode_array(WIDE, bits_stored=16)),
    ("JPEG-LS", JLS, imagecodecs.jpegls_encode(WIDE)),
    ("lossless JPEG", LOSSLESS, lossless(WIDE, 16)),
):
    register(
        f"16-bit {name}, but 12 bits in the header",
        "corrected",
        lambda: right(WIDE),
        says="BitsStored: less than the codestream's values use",
        bits=12,
        codes=[code],
        **syntax,
    )
    register(
        f"{name} whose size differs from the header",
        "refused",
        says="codestream of 40 x 36",
        Rows=36,
        Columns=40,
        codes=[code],
        **syntax,
    )
register(
    "12-bit lossless JPEG, 8 bits allocated",
    "corrected",
    says="BitsAllocated: less than the codestream",
    bits=8,
    BitsAllocated=8,
    codes=[lossless(VALUES, 12)],
    **LOSSLESS,
)
register(
    "color JPEG, gray in the header",
    "refused",
    says="codestream of 40 x 48 x 3",
    pixels=COLORS,
    photometric="MONOCHROME2",
    SamplesPerPixel=1,
    codes=[lossless(COLORS, 8)],
    **LOSSLESS,
)
register(
    "8-bit lossless color, 16 bits in the header",
    "corrected",
    lambda: right(COLORS, high=255.0),
    says="BitsStored: more than",
    pixels=COLORS.astype(np.uint16),
    codes=[lossless(COLORS, 8)],
    **LOSSLESS,
)
register(
    "JPEG-LS frames under a JPEG 2000 transfer syntax",
    "read",
    bits=12,
    codes=[imagecodecs.jpegls_encode(VALUES)],
    **J2K,
)


# --- colors


def jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def adobe(code: bytes, transform: int) -> bytes:
    """Give a stream an Adobe marker instead of its JFIF marker."""
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64" + bytes(4) + bytes([transform])
    end = 4 + int.from_bytes(code[4:6])
    assert code[2:4] == b"\xff\xe0"
    return code[:2] + marker + code[end:]


def renamed(code: bytes, names: bytes) -> bytes:
    """Rename the components of a stream of three."""
    code = code.replace(b"\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01", _named(b"\x22", names))
    return code.replace(b"\x03\x01\x11\x00\x02\x11\x01\x03\x11\x01", _named(b"\x11", names))


def _named(first: bytes, names: bytes) -> bytes:
    a, b, c = (names[at : at + 1] for at in range(3))
    return b"\x03" + a + first + b"\x00" + b + b"\x11\x01" + c + b"\x11\x01"


BASELINE = {"syntax": JPEGBaseline8Bit, "pixels": COLORS, "tolerance": 6}
YCC = jpeg(COLORS, subsampling=0)
RGB = jpeg(COLORS, subsampling=0, keep_rgb=True)
USED = "is {}, which is used"
register(
    "JPEG with a JFIF marker, YBR_FULL_422",
    "read",
    lambda: right(COLORS),
    photometric="YBR_FULL_422",
    codes=[YCC],
    **BASELINE,
)
register(
    "JPEG with a JFIF marker, RGB in the header",
    "corrected",
    lambda: right(COLORS),
    says="PhotometricInterpretation: RGB, but the codestream is YBR",
    photometric="RGB",
    codes=[YCC],
    **BASELINE,
)
register(
    "YCbCr JPEG with an Adobe marker",
    "read",
    lambda: right(COLORS),
    photometric="YBR_FULL_422",
    codes=[adobe(YCC, 1)],
    **BASELINE,
)
register(
    "YCbCr JPEG with an Adobe marker, RGB in the header",
    "corrected",
    lambda: right(COLORS),
    says="PhotometricInterpretation: RGB, but",
    photometric="RGB",
    codes=[adobe(YCC, 1)],
    **BASELINE,
)
register(
    "JPEG with components named R, G and B", "read", lambda: right(COLORS), photometric="RGB", codes=[RGB], **BASELINE
)
register(
    "JPEG with components named R, G and B, YBR in the header",
    "corrected",
    lambda: right(COLORS),
    says="PhotometricInterpretation: YBR, but the codestream is RGB",
    photometric="YBR_FULL_422",
    codes=[RGB],
    **BASELINE,
)
register(
    "uncompressed YBR_FULL",
    "read",
    lambda: right(COLORS),
    pixels=np.array(Image.fromarray(COLORS).convert("YCbCr")),
    photometric="YBR_FULL",
    tolerance=2,
)
register(
    "uncompressed YBR_FULL_422 that is not subsampled",
    "corrected",
    lambda: right(COLORS),
    says="PhotometricInterpretation: YBR_FULL_422",
    pixels=np.array(Image.fromarray(COLORS).convert("YCbCr")),
    photometric="YBR_FULL_422",
    tolerance=2,
)
register(
    "JPEG 2000 with a color transform, YBR_RCT",
    "read",
    lambda: right(COLORS),
    pixels=COLORS,
    photometric="YBR_RCT",
    codes=[encode_array(COLORS, photometric_interpretation=1, use_mct=True)],
    **J2K,
)
register(
    "JPEG 2000 with a color transform, YBR_FULL in the header",
    "corrected",
    lambda: right(COLORS),
    says="PhotometricInterpretation: YBR, but",
    pixels=COLORS,
    photometric="YBR_FULL",
    codes=[encode_array(COLORS, photometric_interpretation=1, use_mct=True)],
    **J2K,
)
register(
    "gray pixels, 3 samples in the header",
    "corrected",
    says="SamplesPerPixel",
    SamplesPerPixel=3,
    PlanarConfiguration=0,
)
register(
    "RGB pixels, 1 sample in the header",
    "corrected",
    lambda: right(COLORS),
    says="SamplesPerPixel",
    pixels=COLORS,
    SamplesPerPixel=1,
)
register("RGB pixels, gray in the header", "refused", says="bytes", pixels=COLORS, photometric="MONOCHROME2")
register("gray pixels, RGB in the header", "refused", says="bytes", photometric="RGB")
register(
    "no PlanarConfiguration",
    "corrected",
    lambda: right(COLORS),
    says="PlanarConfiguration",
    pixels=COLORS,
    change=lambda one: delattr(one, "PlanarConfiguration"),
)
register(
    "planar color",
    "read",
    lambda: right(COLORS),
    pixels=COLORS,
    content=COLORS.transpose(2, 0, 1).tobytes(),
    PlanarConfiguration=1,
)
register(
    "unknown photometric interpretation",
    "refused",
    says="that is not in the standard",
    status="unsupported",
    photometric="DOE^JANE",
)
register("CMYK", "refused", says="CMYK is not supported", status="unsupported", photometric="CMYK")


# --- how much pixel data there is

for cut in (1, 2, 300):
    register(
        f"{cut} byte{'s' * (cut > 1)} missing",
        "refused",
        says="PixelData of",
        content=VALUES.tobytes()[:-cut] if cut > 1 else VALUES.tobytes()[:-2],
    )
register("padded with zeros", "corrected", says="PixelData: padded", content=VALUES.tobytes() + bytes(128))
register("twice the pixel data of one frame", "refused", says="NumberOfFrames is wrong", content=VALUES.tobytes() * 2)
register(
    "more frames than NumberOfFrames",
    "corrected",
    says="NumberOfFrames: less than",
    NumberOfFrames=2,
    content=VALUES.tobytes() * 3,
)
register(
    "fewer frames than NumberOfFrames", "refused", says="PixelData of", NumberOfFrames=3, content=VALUES.tobytes() * 2
)
register("NumberOfFrames 0", "corrected", says="NumberOfFrames: 0", NumberOfFrames=0)
register(
    "NumberOfFrames that is not a number",
    "refused",
    says="NumberOfFrames",
    NumberOfFrames=1,
    bytes_for={b"(\x00\x08\x00IS\x02\x001 ": b"(\x00\x08\x00IS\x02\x00xy"},
)
register(
    "fewer compressed frames than NumberOfFrames",
    "refused",
    says="NumberOfFrames says 3",
    NumberOfFrames=3,
    bits=12,
    codes=[imagecodecs.jpegls_encode(VALUES)] * 2,
    **JLS,
)
register(
    "compressed frames under an uncompressed transfer syntax",
    "refused",
    says="transfer syntax",
    codes=[imagecodecs.jpegls_encode(VALUES)],
    bytes_for={JPEGLSLossless.encode(): ExplicitVRLittleEndian.encode() + bytes(3)},
    **JLS,
)
for name, syntax in (
    ("implicit", ImplicitVRLittleEndian),
    ("big-endian", ExplicitVRBigEndian),
    ("deflated", DeflatedExplicitVRLittleEndian),
):
    register(f"{name}", "read", syntax=syntax)


def cut_file(property: str, keep: float, **options: Any) -> None:
    @case("DICOM", property, "image", "refused", says="")
    def make(folder: Path) -> Made:
        path = write(folder, **options)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep)])
        return Made(path)


GRAY8 = (SMOOTH >> 4).astype(np.uint8)
RUNS = run_lengths(SMOOTH)
CODES: dict[str, dict[str, Any]] = {
    "baseline JPEG": {"pixels": GRAY8, "codes": [jpeg(GRAY8)], "syntax": JPEGBaseline8Bit},
    "baseline color JPEG": {
        "pixels": COLORS,
        "codes": [YCC],
        "syntax": JPEGBaseline8Bit,
        "photometric": "YBR_FULL_422",
    },
    "12-bit extended JPEG": {
        "pixels": SMOOTH,
        "bits": 12,
        "codes": [imagecodecs.jpeg_encode(SMOOTH, level=95, bitspersample=12)],
        "syntax": JPEGExtended12Bit,
    },
    "lossless JPEG": {"pixels": SMOOTH, "codes": [lossless(SMOOTH, 16)], **LOSSLESS},
    "lossless color JPEG": {"pixels": COLORS, "codes": [lossless(COLORS, 8)], **LOSSLESS},
    "JPEG-LS": {"pixels": SMOOTH, "codes": [imagecodecs.jpegls_encode(SMOOTH)], **JLS},
    "JPEG 2000": {"pixels": SMOOTH, "codes": [encode_array(SMOOTH)], **J2K},
    "RLE": {"pixels": SMOOTH, "codes": [RUNS], "syntax": RLELossless},
}
END = b"\xff\xd9"
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda code: code[: 6 * len(code) // 10],
    "truncated, with an end marker": lambda code: code[: 6 * len(code) // 10] + END,
    "bytes missing": lambda code: code[: len(code) // 2] + code[5 * len(code) // 8 :],
}
for name, options in CODES.items():
    lossy = 40 if "baseline" in name or "extended" in name else 0
    register(f"{name}", "read", lambda options=options: right(options["pixels"]), tolerance=lossy, **options)
    for damage, apply in DAMAGES.items():
        if name == "JPEG 2000" and damage == "bytes missing":
            continue
        register(f"{name}, {damage}", "refused", **{**options, "codes": [apply(options["codes"][0])]})
    cut_file(f"{name}, the file truncated", 0.8, **options)
cut_file("the file truncated", 0.8)
cut_file("deflated, the file truncated", 0.8, syntax=DeflatedExplicitVRLittleEndian)
register(
    "RLE that decodes to too many bytes",
    "refused",
    pixels=SMOOTH,
    codes=[RUNS[:-2] + b"\x81\x07" + RUNS[-2:]],
    syntax=RLELossless,
)


# --- modality and window

register("RescaleSlope 0", "corrected", says="RescaleSlope: 0, not rescaled", RescaleSlope=0, RescaleIntercept=0)
register(
    "RescaleSlope 0 with an intercept",
    "corrected",
    says="RescaleSlope: 0, not rescaled",
    RescaleSlope=0,
    RescaleIntercept=-1024,
)
register("RescaleSlope empty", "corrected", says="RescaleSlope: none", RescaleSlope=None, RescaleIntercept=-1024)
register(
    "RescaleSlope not a number",
    "corrected",
    says="RescaleSlope: not finite",
    RescaleSlope="7.77",
    RescaleIntercept=-1024,
    bytes_for={b"7.77": b"nan "},
)
register(
    "RescaleSlope with text",
    "corrected",
    says="RescaleSlope: not a number, ignored",
    RescaleSlope="7.77",
    RescaleIntercept=-1024,
    bytes_for={b"7.77": b"Jane"},
)
register(
    "RescaleSlope with a decimal comma",
    "corrected",
    lambda: right(VALUES * 0.5 - 10),
    says="RescaleSlope: decimal comma",
    RescaleSlope="0.50",
    RescaleIntercept=-10,
    bytes_for={b"0.50": b"0,50"},
)
register("rescaling", "read", lambda: right(VALUES * 2.0 - 1024), RescaleSlope=2, RescaleIntercept=-1024)
register("a negative RescaleSlope", "read", lambda: right(VALUES * -1.0), RescaleSlope=-1, RescaleIntercept=0)
OWN = lambda: right(VALUES, low=float(VALUES.min()), high=float(VALUES.max()))  # noqa: E731
register(
    "a window above all values",
    "corrected",
    OWN,
    says="WindowCenter: a window beyond all values",
    WindowCenter=60000,
    WindowWidth=100,
)
register(
    "a window below all values",
    "corrected",
    OWN,
    says="WindowCenter: a window beyond all values",
    WindowCenter=-6000,
    WindowWidth=100,
)
register(
    "a sigmoid window above all values",
    "corrected",
    OWN,
    says="WindowCenter",
    WindowCenter=60000,
    WindowWidth=100,
    VOILUTFunction="SIGMOID",
)
register("a window of width 0", "corrected", OWN, says="WindowWidth: not valid", WindowCenter=2000, WindowWidth=0)
register(
    "a window of negative width", "corrected", OWN, says="WindowWidth: not valid", WindowCenter=2000, WindowWidth=-5
)
register(
    "a window whose width is not a number",
    "corrected",
    OWN,
    says="WindowWidth: not finite",
    WindowCenter=2000,
    WindowWidth="7.77",
    bytes_for={b"7.77": b"nan "},
)
register(
    "a window with decimal commas",
    "corrected",
    lambda: right(VALUES, low=1799.75, high=2199.75),
    says="WindowCenter: decimal comma",
    WindowCenter="2000.25",
    WindowWidth="401.00",
    bytes_for={b"2000.25": b"2000,25", b"401.00": b"401,00"},
)
register(
    "a window of an unknown function",
    "corrected",
    lambda: right(VALUES, low=1800.0, high=2200.0),
    says="VOILUTFunction: not in the standard",
    WindowCenter=2000.5,
    WindowWidth=401,
    VOILUTFunction="DOE^JANE",
)
register(
    "the first of two windows",
    "read",
    lambda: right(VALUES, low=1800.0, high=2200.0),
    WindowCenter=[2000.5, 1],
    WindowWidth=[401, 1],
)
PADDED = np.where(RNG.random(VALUES.shape) < 0.2, -2000, VALUES).astype(np.int16)
SHOWN = lambda: right(PADDED, low=float(VALUES.min()), high=float(VALUES.max()))  # noqa: E731


def padding(value: int, kind: str) -> Callable[[Dataset], object]:
    return lambda dataset: dataset.add_new("PixelPaddingValue", kind, value)


register("padding", "read", SHOWN, pixels=PADDED, change=padding(-2000, "SS"))
register(
    "negative padding value stored as unsigned",
    "corrected",
    SHOWN,
    says="PixelPaddingValue",
    pixels=PADDED,
    change=padding(63536, "US"),
)
register(
    "signed padding value, unsigned pixels",
    "corrected",
    lambda: right(PADDED.view(np.uint16), low=float(VALUES.min()), high=float(VALUES.max())),
    says="PixelPaddingValue",
    pixels=PADDED.view(np.uint16),
    change=padding(-2000, "SS"),
)
register(
    "negative padding range stored as unsigned",
    "corrected",
    lambda: right(np.where(PADDED < 0, PADDED + OVERLAY, PADDED), low=float(VALUES.min()), high=float(VALUES.max())),
    says="PixelPaddingRangeLimit",
    pixels=np.where(PADDED < 0, PADDED + OVERLAY, PADDED).astype(np.int16),
    change=lambda one: (padding(63536, "US")(one), one.add_new("PixelPaddingRangeLimit", "US", 63537)),
)


# --- look-up tables

TABLE = (np.arange(4096) * 15 + 7).astype("<u2")
BYTES = (np.arange(4096) // 16).astype(np.uint8)


def voi(descriptor: list[int], data: bytes, **others: object) -> Elements:
    return {"VOILUTSequence": items({"LUTDescriptor": descriptor, "LUTData": data}), **others}


def looked(table: np.ndarray, high: float = 65535.0) -> Callable[[], dict[str, Any]]:
    return lambda: right(table[np.minimum(VALUES, len(table) - 1)].astype(np.uint16), low=0.0, high=high)


register("16-bit VOI LUT", "read", looked(TABLE), bits=12, **voi([4096, 0, 16], TABLE.tobytes()))
register(
    "16-bit VOI LUT, one entry short",
    "corrected",
    looked(TABLE[:-1]),
    says="VOILUTSequence: shorter",
    bits=12,
    **voi([4096, 0, 16], TABLE.tobytes()[:-2]),
)
register(
    "16-bit VOI LUT, one entry long",
    "read",
    looked(TABLE),
    bits=12,
    **voi([4096, 0, 16], TABLE.tobytes() + b"\1\2"),
)
register(
    "16-bit VOI LUT, half of it",
    "corrected",
    OWN,
    says="VOILUTSequence: much shorter",
    bits=12,
    **voi([4096, 0, 16], TABLE.tobytes()[:4096]),
)
register("12-bit VOI LUT", "read", looked(TABLE >> 4, 4095.0), bits=12, **voi([4096, 0, 12], (TABLE >> 4).tobytes()))
register("10-bit VOI LUT", "read", looked(TABLE >> 6, 1023.0), bits=12, **voi([4096, 0, 10], (TABLE >> 6).tobytes()))
register("8-bit VOI LUT, packed", "read", looked(BYTES, 255.0), bits=12, **voi([4096, 0, 8], BYTES.tobytes()))
register(
    "8-bit VOI LUT, packed, one entry short",
    "corrected",
    looked(BYTES[:-1], 255.0),
    says="VOILUTSequence: shorter",
    bits=12,
    **voi([4096, 0, 8], BYTES.tobytes()[:-2]),
)
register(
    "8-bit VOI LUT in 16-bit words",
    "read",
    looked(BYTES, 255.0),
    bits=12,
    **voi([4096, 0, 8], BYTES.astype("<u2").tobytes()),
)
register(
    "8-bit VOI LUT in 16-bit words, one entry short",
    "corrected",
    looked(BYTES[:-1], 255.0),
    says="VOILUTSequence: shorter",
    bits=12,
    **voi([4096, 0, 8], BYTES.astype("<u2").tobytes()[:-2]),
)
register(
    "8-bit VOI LUT with larger values",
    "corrected",
    looked(TABLE >> 4, float(TABLE[-1] >> 4)),
    says="LUTDescriptor",
    bits=12,
    **voi([4096, 0, 8], (TABLE >> 4).tobytes()),
)
register(
    "16-bit VOI LUT with 8-bit values",
    "corrected",
    looked(BYTES, 255.0),
    says="LUTDescriptor",
    bits=12,
    **voi([4096, 0, 16], BYTES.astype("<u2").tobytes()),
)
register(
    "0-bit VOI LUT",
    "corrected",
    looked(TABLE, float(TABLE[-1])),
    says="LUTDescriptor",
    bits=12,
    **voi([4096, 0, 0], TABLE.tobytes()),
)
register(
    "VOI LUT with 65536 entries",
    "read",
    lambda: right(VALUES),
    **voi([0, 0, 16], np.arange(65536, dtype="<u2").tobytes()),
)
register(
    "VOI LUT, big-endian",
    "read",
    looked(TABLE),
    bits=12,
    syntax=ExplicitVRBigEndian,
    **voi([4096, 0, 16], TABLE.astype(">u2").tobytes()),
)
register(
    "8-bit VOI LUT, packed into big-endian words",
    "read",
    looked(BYTES, 255.0),
    bits=12,
    syntax=ExplicitVRBigEndian,
    **voi([4096, 0, 8], BYTES.reshape(-1, 2)[:, ::-1].tobytes()),
)
register(
    "constant VOI LUT",
    "corrected",
    OWN,
    says="VOILUTSequence: one value",
    bits=12,
    **voi([4096, 0, 16], bytes(8192)),
)
register(
    "an empty VOI LUT", "corrected", OWN, says="VOILUTSequence: no LUTDescriptor, ignored", VOILUTSequence=items({})
)
register(
    "an empty VOI LUT before another",
    "corrected",
    looked(TABLE),
    says="VOILUTSequence: no LUTDescriptor",
    bits=12,
    VOILUTSequence=items({}, {"LUTDescriptor": [4096, 0, 16], "LUTData": TABLE.tobytes()}),
)
register(
    "a VOI LUT without data",
    "corrected",
    OWN,
    says="VOILUTSequence: no LUTData",
    VOILUTSequence=items({"LUTDescriptor": [4096, 0, 16]}),
)
register(
    "an empty modality LUT", "corrected", says="ModalityLUTSequence: no LUTDescriptor", ModalityLUTSequence=items({})
)
register(
    "an empty modality LUT beside a rescaling",
    "corrected",
    lambda: right(VALUES * 2.0),
    says="ModalityLUTSequence",
    ModalityLUTSequence=items({}),
    RescaleSlope=2,
    RescaleIntercept=0,
)
register(
    "16-bit modality LUT",
    "read",
    lambda: right(TABLE[VALUES]),
    bits=12,
    ModalityLUTSequence=items({"LUTDescriptor": [4096, 0, 16], "LUTData": TABLE.tobytes(), "ModalityLUTType": "US"}),
)
register(
    "a LUT for negative values, first value unsigned",
    "read",
    lambda: right(TABLE[SIGNED + 2048], low=0.0, high=65535.0),
    pixels=SIGNED,
    bits=12,
    change=lambda one: _first_value(one, 65536 - 2048, "US"),
)
register(
    "a LUT for negative values, first value signed",
    "read",
    lambda: right(TABLE[SIGNED + 2048], low=0.0, high=65535.0),
    pixels=SIGNED,
    bits=12,
    change=lambda one: _first_value(one, -2048, "SS"),
)
register(
    "a LUT for high values, first value signed",
    "read",
    lambda: right(TABLE[VALUES], low=0.0, high=65535.0),
    pixels=VALUES + 40000,
    change=lambda one: _first_value(one, 40000 - 65536, "SS"),
)


def _first_value(dataset: Dataset, first: int, kind: str) -> None:
    table = Dataset()
    table.add_new("LUTDescriptor", kind, [4096, first, 16])
    table.LUTData = TABLE.tobytes()
    dataset.VOILUTSequence = Sequence([table])


PALETTE = RNG.integers(0, 256, (200, 3)).astype(np.uint8)
INDEX = RNG.integers(0, 200, (12, 9)).astype(np.uint8)


def palette(dtype: str, bits: int, count: int = 200, left: int = 200, scale: int = 1) -> Elements:
    results: Elements = {}
    for name, channel in zip(("Red", "Green", "Blue"), PALETTE.T, strict=True):
        data = (channel[:left].astype(dtype) * scale).tobytes()
        results[f"{name}PaletteColorLookupTableDescriptor"] = [count, 0, bits]
        results[f"{name}PaletteColorLookupTableData"] = data + bytes(len(data) % 2)
    return results


INDEXED: dict[str, Any] = {"pixels": INDEX, "photometric": "PALETTE COLOR"}
register("8-bit palette", "read", lambda: right(PALETTE[INDEX], high=255.0), **INDEXED, **palette("u1", 8))
register(
    "8-bit palette in 16-bit words",
    "read",
    lambda: right(PALETTE[INDEX], high=255.0),
    **INDEXED,
    **palette("<u2", 8),
)
register(
    "16-bit palette",
    "read",
    lambda: right(PALETTE[INDEX] * 257.0, high=65535.0),
    **INDEXED,
    **palette("<u2", 16, scale=257),
)
register(
    "16-bit palette, only dark entries used",
    "read",
    lambda: right(np.repeat(PALETTE[:1] * 0.0, 9, 0)[None] + PALETTE[7] * 257.0, high=65535.0),
    pixels=np.full((1, 9), 7, np.uint8),
    photometric="PALETTE COLOR",
    **palette("<u2", 16, scale=257),
)
register(
    "palette with fewer entries than declared, none missing",
    "read",
    lambda: right(PALETTE[INDEX % 100], high=255.0),
    pixels=INDEX % 100,
    photometric="PALETTE COLOR",
    **palette("u1", 8, left=198),
)
register(
    "palette with fewer entries than the pixels need",
    "refused",
    says="palette with fewer entries",
    **INDEXED,
    **palette("u1", 8, left=150),
)
register(
    "no palette for green",
    "refused",
    says="GreenPaletteColorLookupTableData",
    **INDEXED,
    **palette("u1", 8),
    change=lambda one: delattr(one, "GreenPaletteColorLookupTableData"),
)


# --- elements that no pixel needs

register(
    "PixelSpacing with decimal commas",
    "corrected",
    lambda: right(VALUES, spacing=(0.143, 0.25)),
    says="PixelSpacing: decimal comma",
    PixelSpacing=["0.143", "0.250"],
    bytes_for={b"0.143": b"0,143", b"0.250": b"0,250"},
)
register(
    "PixelSpacing with text",
    "corrected",
    lambda: right(VALUES, spacing=None),
    says="PixelSpacing: not a number, ignored",
    PixelSpacing=["0.143", "0.250"],
    bytes_for={b"0.143": b"Doe^J"},
)
register(
    "PixelSpacing with one value",
    "corrected",
    lambda: right(VALUES, spacing=None),
    says="PixelSpacing: not 2 finite numbers",
    PixelSpacing=0.5,
)
register(
    "PixelSpacing with more digits than allowed",
    "read",
    lambda: right(VALUES, spacing=(0.12345678901234568, 0.12345678901234568)),
    change=lambda one: one.add_new("PixelSpacing", "LO", ["0.12345678901234567890"] * 2),
)
register(
    "PixelSpacing with another value representation",
    "read",
    lambda: right(VALUES, spacing=(0.25, 0.25)),
    change=lambda one: one.add_new("PixelSpacing", "FD", [0.25, 0.25]),
)
register(
    "PixelAspectRatio",
    "corrected",
    lambda: right(VALUES, aspect=0.5, spacing=None),
    says="unequal sides",
    PixelAspectRatio=[1, 2],
)
register(
    "PixelAspectRatio beside PixelSpacing",
    "read",
    lambda: right(VALUES, aspect=1.0, spacing=(0.5, 0.5)),
    PixelAspectRatio=[1, 2],
    PixelSpacing=[0.5, 0.5],
)
register(
    "unequal PixelSpacing",
    "corrected",
    lambda: right(VALUES, spacing=(1.0, 2.0)),
    says="unequal sides",
    PixelSpacing=[1, 2],
)
register(
    "an unknown character set",
    "read",
    SpecificCharacterSet="ISO_IR 100",
    bytes_for={b"ISO_IR 100": b"ISO_XX 999"},
)
register(
    "a name that is invalid in its character set",
    "read",
    SpecificCharacterSet="ISO_IR 192",
    bytes_for={b"Doe^Jane": b"D\xff\xfe^J\x80ne"},
)
register("an invalid date", "read", StudyDate="20200101", bytes_for={b"20200101": b"not^date"})
register(
    "a private element of unknown type",
    "read",
    change=lambda one: one.add_new((0x0009, 0x1001), "UN", b"\xff\xfe\x00\xe0" * 5),
)
register(
    "an invalid private sequence",
    "read",
    change=lambda one: one.add_new((0x0009, 0x1001), "OB", bytes(range(64))),
    bytes_for={b"\x09\x00\x01\x10OB": b"\x09\x00\x01\x10SQ"},
)

DAMAGED = "elements before the Image Pixel module: damaged"


def private(kind: str, content: bytes) -> Callable[[Dataset], object]:
    return lambda dataset: dataset.add_new((0x0009, 0x1001), kind, content)


for name, syntax in (
    ("explicit", ExplicitVRLittleEndian),
    ("implicit", ImplicitVRLittleEndian),
    ("big-endian", ExplicitVRBigEndian),
):
    tag, order = (b"\x00\x09\x10\x01", "big") if name == "big-endian" else (b"\x09\x00\x01\x10", "little")
    kind = b"" if name == "implicit" else b"UN\0\0"
    for what, length in (("too long", 200), ("beyond the file", 1 << 24), ("too short", 10)):
        register(
            f"{name}, a private element whose length is {what}",
            "corrected",
            says=DAMAGED,
            syntax=syntax,
            change=private("UN", bytes(range(64))),
            bytes_for={tag + kind + (64).to_bytes(4, order): tag + kind + length.to_bytes(4, order)},
        )
register(
    "an unterminated private sequence",
    "corrected",
    says=DAMAGED,
    change=private("UN", bytes(range(64))),
    bytes_for={b"\x09\x00\x01\x10UN\0\0\x40\0\0\0": b"\x09\x00\x01\x10SQ\0\0\xff\xff\xff\xff"},
)


@case("DICOM", "truncated elements after the pixels", "image", "read")
def cut_after_the_pixels(folder: Path) -> Made:
    path = write(folder)
    path.write_bytes(path.read_bytes() + b"\xfc\xff\xfc\xffOB\0\0\xff\xff\xff\xff\x01\x02\x03")
    return Made(path, right(VALUES))


@case("DICOM", "a truncated sequence after the pixels", "image", "read")
def sequence_after_the_pixels(folder: Path) -> Made:
    path = write(folder)
    path.write_bytes(path.read_bytes() + b"\xfa\xff\xfa\xffSQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff")
    return Made(path, right(VALUES))
