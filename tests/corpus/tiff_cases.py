"""TIFF."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image
from tests.corpus.case import Made, case
from tests.corpus.flat_cases import _X, _Y, GRAY, RGB, SQUARE, by_pillow, encoded, made, zeroed

PLAIN = {256: (120,), 257: (96,), 258: (8,), 259: (1,), 262: (1,), 273: (0,), 277: (1,), 278: (96,), 279: (96 * 120,)}


def tiff_bytes(data: bytes, **changes: tuple[int, ...] | None) -> bytes:
    """A TIFF of one strip, tag by tag: ``t262=None`` leaves a tag out; a pair of pairs is a rational."""
    tags = PLAIN | {279: (len(data),)} | {int(name[1:]): values for name, values in changes.items()}  # type: ignore[dict-item]
    kept = sorted((code, values) for code, values in tags.items() if values is not None)
    offset = 8 + 2 + 12 * len(kept) + 4
    entries, beside = b"", b""
    for code, values in kept:
        if isinstance(values[0], tuple):
            kind, packed = 5, b"".join(struct.pack("<II", *pair) for pair in values)  # type: ignore[misc]
        else:
            kind, packed = (4, "<I") if code in (256, 257, 273, 278, 279) else (3, "<H")  # type: ignore[assignment]
            packed = b"".join(struct.pack(packed, value) for value in values)  # type: ignore[call-overload]
        if code == 273:
            packed = b"STRP"
        if len(packed) > 4:
            packed, beside = struct.pack("<I", offset + len(beside)), beside + packed
        entries += struct.pack("<HHI", code, kind, len(values)) + packed.ljust(4, b"\0")
    entries = entries.replace(b"STRP", struct.pack("<I", offset + len(beside)))
    return b"II*\0" + struct.pack("<IH", 8, len(kept)) + entries + bytes(4) + beside + data


def tifffile_bytes(pixels: np.ndarray, **options: Any) -> bytes:
    """What tifffile writes."""
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, **{"photometric": "rgb" if pixels.ndim == 3 else "minisblack"} | options)
    return out.getvalue()


def tiff(
    property: str, outcome: Any, make: Callable[[], bytes], pixels: np.ndarray | None = None, says: str = "",
    status: str = "corrupt", tolerance: float = 0, **expected: Any,
) -> None:  # fmt: skip
    """Register a TIFF."""

    @case("TIFF", property, "image", outcome, says=says, status=status)
    def write(folder: Path) -> Made:
        result = made(folder, "a.tif", make(), pixels, **expected)
        return Made(result.path, result.expected, tolerance)


FLAT = GRAY.tobytes()
tiff("8-bit gray", "read", lambda: tiff_bytes(FLAT), GRAY, low=0.0, high=255.0)
tiff("without PhotometricInterpretation", "corrected", lambda: tiff_bytes(FLAT, t262=None), GRAY, "taken as MINISBLACK")
tiff(
    "RGB without PhotometricInterpretation", "corrected",
    lambda: tiff_bytes(RGB.tobytes(), t262=None, t258=(8, 8, 8), t277=(3,)), RGB, "taken as RGB",
)  # fmt: skip
FAX = encoded(Image.fromarray(GRAY > 110), "TIFF", compression="group4")
tiff(
    "fax without PhotometricInterpretation", "corrected",
    lambda: FAX.replace(b"\x06\x01\x03\0", b"\x07\x01\x03\0", 1), (GRAY <= 110).astype(np.float32),
    "taken as MINISWHITE",
)  # fmt: skip
for name, code in (("a width", "t256"), ("a height", "t257")):
    tiff(f"{name} of zero", "refused", lambda code=code: tiff_bytes(FLAT, **{code: (0,)}), says="damaged TIFF")
    tiff(f"without {name}", "refused", lambda code=code: tiff_bytes(FLAT, **{code: None}), says="damaged TIFF")
tiff("without an image", "refused", lambda: b"II*\0\x08\0\0\0\0\0\0\0\0\0", says="damaged TIFF")
tiff(
    "a palette without its colors", "refused", lambda: tiff_bytes(FLAT, t262=(3,)), says="a palette without its colors"
)

for unit, words in ((1, "without a unit"), (2, "in inches"), (3, "in centimeters")):
    tiff(
        f"unequal resolutions across and down, {words}", "corrected",
        lambda unit=unit: tiff_bytes(FLAT, t282=((204, 1),), t283=((102, 1),), t296=(unit,)), GRAY, SQUARE,
        growth=(2.0, 1.0),
    )  # fmt: skip
tiff(
    "an implausible resolution", "corrected", lambda: tiff_bytes(FLAT, t282=((300, 1),), t283=((1, 1),)), GRAY,
    "taken as square", growth=(1.0, 1.0),
)  # fmt: skip
tiff("a resolution of zero", "read", lambda: tiff_bytes(FLAT, t282=((0, 1),), t283=((72, 1),)), GRAY)

ALPHA = np.where(_X < 60, 255, 64).astype(np.uint8)[..., None]
STRAIGHT = np.broadcast_to(np.array([200, 100, 50], np.uint8), RGB.shape)
for kind, white in ((np.uint8, 255), (np.uint16, 65535), (np.float32, 1)):
    for channels, model in ((3, "rgb"), (1, "minisblack")):
        colors = (STRAIGHT[..., :channels] / 255 * white).astype(kind)
        alpha = (ALPHA / 255 * white).astype(kind)
        stored = (colors.astype(float) * (alpha / white)).round(0 if white > 1 else 9).astype(kind)
        tiff(
            f"{np.dtype(kind)} {'RGB' if channels == 3 else 'gray'} with premultiplied alpha", "read",
            lambda stored=stored, alpha=alpha, model=model: tifffile_bytes(
                np.concatenate([stored, alpha], -1), photometric=model, planarconfig="contig",
                extrasamples=["assocalpha"],
            ),
            colors, tolerance=white / 120 if white == 255 else white / 30000,
        )  # fmt: skip
tiff(
    "premultiplied alpha of zero", "read",
    lambda: tifffile_bytes(np.zeros((8, 9, 4), np.uint8), extrasamples=["assocalpha"]), np.zeros((8, 9, 3), np.uint8),
)  # fmt: skip
tiff(
    "straight alpha", "read", lambda: tifffile_bytes(np.concatenate([RGB, ALPHA], -1), extrasamples=["unassalpha"]), RGB
)

SMOOTH = np.stack([GRAY] * 3, axis=-1)  # gray, so that it does not matter where colors are sampled
JPEG_TIFF = {"compression": "jpeg", "compressionargs": {"level": 90}}


def damaged(make: Callable[[], bytes], start: float, count: int) -> Callable[[], bytes]:
    """Zeros over some of the last strip or tile."""

    def change() -> bytes:
        data = make()
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            offset, size = file.pages[0].dataoffsets[-1], file.pages[0].databytecounts[-1]  # type: ignore[union-attr]
        return zeroed(data, offset + int(start * size), min(count, size - int(start * size)))

    return change


def shorter(make: Callable[[], bytes]) -> Callable[[], bytes]:
    """The last strip or tile is cut to half of its bytes."""

    def change() -> bytes:
        out = io.BytesIO(make())
        with tifffile.TiffFile(out, mode="r+b") as file:
            tag = file.pages[0].tags[file.pages[0].is_tiled * 46 + 279]  # type: ignore[union-attr]
            counts = np.atleast_1d(tag.value)
            tag.overwrite([*counts[:-1].tolist(), int(counts[-1]) // 2] if len(counts) > 1 else int(counts[-1]) // 2)
        return out.getvalue()

    return change


for layout, words in (({"rowsperstrip": 32}, "strips"), ({"tile": (48, 48)}, "tiles")):
    for code, name in (
        ("lzw", "LZW"), ("zlib", "deflate"), ("zstd", "zstd"), ("jpeg", "JPEG"), ("jpeg2000", "JPEG 2000"),
        ("webp", "WebP"),
    ):  # fmt: skip

        def write(code: str = code, layout: dict[str, Any] = layout) -> bytes:
            return tifffile_bytes(RGB, compression=code, **layout)

        tiff(f"{name} in {words}, the last one truncated", "refused", shorter(write))
        if code in ("lzw", "zlib", "jpeg"):
            tiff(f"{name} in {words}, zeros in the last one", "refused", damaged(write, 0.3, 400))
        if code in ("lzw", "zlib"):
            tiff(f"{name} in {words}", "read", write, RGB)

YCBCR = np.dstack([GRAY, np.full_like(GRAY, 128), np.full_like(GRAY, 128)])
tiff("JPEG, RGB", "read", lambda: tifffile_bytes(SMOOTH, **JPEG_TIFF), SMOOTH, tolerance=30)
tiff(
    "JPEG, YCbCr", "read", lambda: tifffile_bytes(YCBCR, photometric="ycbcr", subsampling=(2, 2), **JPEG_TIFF), SMOOTH,
    tolerance=30,
)  # fmt: skip
tiff(
    "planar JPEG", "read",
    lambda: tifffile_bytes(np.moveaxis(RGB, -1, 0), planarconfig="separate", compression="jpeg"), RGB, tolerance=60,
)  # fmt: skip
tiff("truncated within a fax strip", "refused", lambda: FAX[:-600])
tiff(
    "lossy WebP, zeros in its data", "refused",
    damaged(lambda: tifffile_bytes(RGB, compression="webp", compressionargs={"level": 80, "lossless": False}), 0.3, 64),
    says="damaged",
)  # fmt: skip


def sparse() -> bytes:
    """A TIFF of three strips of which the second has no data."""
    out = io.BytesIO(tifffile_bytes(GRAY, compression="zlib", rowsperstrip=32))
    with tifffile.TiffFile(out, mode="r+b") as file:
        tag = file.pages[0].tags["StripByteCounts"]  # type: ignore[union-attr]
        tag.overwrite([tag.value[0], 0, tag.value[2]])
    return out.getvalue()


tiff("a strip without data", "corrected", sparse, np.where((_Y >= 32) & (_Y < 64), 0, GRAY), "without data filled")
tiff("no strip with data", "refused", lambda: tiff_bytes(FLAT, t259=(8,), t279=(0,)), says="no strip or tile has data")

for code, name in ((34661, "JBIG"), (34676, "SGILOG"), (12345, "12345"), (65000, "EER_V0")):
    tiff(
        f"compression {name}", "refused", lambda code=code: tiff_bytes(FLAT, t259=(code,)),
        says=f"compression {name} is not supported", status="unsupported",
    )  # fmt: skip
tiff(
    "CIE L*a*b*",
    "refused",
    lambda: tifffile_bytes(RGB, photometric="cielab"),
    says="color model CIELAB",
    status="unsupported",
)


def subsampled(across: int, down: int, compression: int) -> bytes:
    """Uncompressed or LZW YCbCr, one pair of colors for ``across`` x ``down`` pixels (TIFF 6.0, section 21)."""
    values = np.array(Image.fromarray(SMOOTH).convert("YCbCr"))
    height, width = GRAY.shape
    blocks = values.reshape(height // down, down, width // across, across, 3).transpose(0, 2, 1, 3, 4)
    luma = blocks[..., 0].reshape(height // down, width // across, -1)
    data = np.concatenate([luma, blocks[:, :, 0, 0, 1:]], -1).tobytes()
    data = imagecodecs.lzw_encode(data) if compression == 5 else data
    return tiff_bytes(
        data, t258=(8, 8, 8), t259=(compression,), t262=(6,), t277=(3,), t530=(across, down), t531=(2,)
    )  # fmt: skip


for across, down, compression in ((2, 2, 1), (2, 1, 1), (4, 4, 1), (2, 2, 5)):

    @case("TIFF", f"YCbCr {across} x {down}, {'LZW' if compression == 5 else 'uncompressed'}", "image", "read")
    def ycbcr(folder: Path, across: int = across, down: int = down, compression: int = compression) -> Made:
        return Made(made(folder, "a.tif", subsampled(across, down, compression)).path, {"pixels": SMOOTH}, 2)


def old_jpeg(jpeg: bytes, **changes: tuple[int, ...]) -> bytes:
    """A TIFF of compression 6, whose JPEG is found by JPEGInterchangeFormat."""
    data = tiff_bytes(
        jpeg, t258=(8, 8, 8), t259=(6,), t262=(6,), t277=(3,), t513=(0,), t514=(0,), t530=(1, 1), **changes
    )
    for code, value in ((513, data.index(jpeg)), (514, len(jpeg))):
        data = data.replace(struct.pack("<HHII", code, 3, 1, 0), struct.pack("<HHII", code, 4, 1, value))
    return data


@case("TIFF", "old-style JPEG", "image", "corrected", says="old-style JPEG decoded by libtiff")
def old_style_jpeg(folder: Path) -> Made:
    jpeg = encoded(RGB, "JPEG", quality=90, subsampling=0)
    return Made(made(folder, "a.tif", old_jpeg(jpeg)).path, {"pixels": by_pillow(jpeg)}, 1)  # libtiff rounds otherwise


@case("TIFF", "old-style JPEG, upside down", "image", "corrected", says="old-style JPEG decoded by libtiff")
def old_style_jpeg_turned(folder: Path) -> Made:
    jpeg = encoded(RGB, "JPEG", quality=90, subsampling=0)
    return Made(made(folder, "a.tif", old_jpeg(jpeg, t274=(3,))).path, {"pixels": by_pillow(jpeg)[::-1, ::-1]}, 1)
