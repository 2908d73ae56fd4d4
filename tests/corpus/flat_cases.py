"""PNG, JPEG, BMP, GIF and WebP."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from tests.corpus.case import Made, case

_RNG = np.random.default_rng(0)
# Smooth enough for lossy codecs to spend bits everywhere, and different in every part.
_Y, _X = np.mgrid[:96, :120]
GRAY = (110 + 60 * np.sin(_X / 9) * np.cos(_Y / 7) + _RNG.normal(0, 12, (96, 120))).clip(0, 255).astype(np.uint8)
RGB = np.stack([GRAY, np.roll(GRAY, 5, 0), np.roll(GRAY, 9, 1)], axis=-1)
SQUARE = "pixels of unequal sides resampled to square"


def encoded(pixels: np.ndarray | Image.Image, format: str, **options: Any) -> bytes:
    """The bytes that Pillow writes."""
    out = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(out, format, **options)
    return out.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    """What Pillow reads, ``(H, W, C)``."""
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.array(image.convert("RGB") if image.mode == "CMYK" else image)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def made(folder: Path, name: str, data: bytes, pixels: np.ndarray | None = None, **expected: Any) -> Made:
    """Write a file; ``pixels`` are right."""
    (folder / name).write_bytes(data)
    if pixels is not None:
        expected["pixels"] = pixels if pixels.ndim == 3 else pixels[..., None]
    return Made(folder / name, expected)


# ----------------------------------------------------------------------------------------------------------------- JPEG


def scan_start(data: bytes) -> int:
    """Where the coded data of the first scan begin."""
    start = data.index(b"\xff\xda")
    return start + 2 + int.from_bytes(data[start + 2 : start + 4])


def in_scans(first: bytes, others: bytes, across: int = 1, scans: int = 3) -> bytes:
    """A JPEG of three components made from gray ones, each in a scan of its own, of which ``scans`` are there."""
    frame = first.index(b"\xff\xc0")
    components = bytes([3, 1, across << 4 | 1, 0, 2, 0x11, 0, 3, 0x11, 0])
    data = first[:frame] + b"\xff\xc0" + (17).to_bytes(2) + first[frame + 4 : frame + 9] + components
    data += first[frame + 13 : first.index(b"\xff\xda")]
    for number, one in enumerate((first, others, others)[:scans], 1):
        data += b"\xff\xda\0\x08\1" + bytes([number, 0, 0, 63, 0]) + one[scan_start(one) : -2]
    return data + b"\xff\xd9"


BASELINE = encoded(RGB, "JPEG", quality=90)
GRAY_JPEG = encoded(GRAY, "JPEG")
PROGRESSIVE = encoded(RGB, "JPEG", quality=90, progressive=True)


def jpeg(property: str, outcome: Any, **says: Any) -> Callable[[Callable[[], bytes]], None]:
    """Register a JPEG that is right as Pillow reads it, or refused."""

    def register(make: Callable[[], bytes]) -> None:
        @case("JPEG", property, "image", outcome, **says)
        def write(folder: Path) -> Made:
            data = make()
            return made(folder, "a.jpg", data, None if outcome == "refused" else by_pillow(data))

    return register


jpeg("baseline", "read")(lambda: BASELINE)
jpeg("progressive", "read")(lambda: PROGRESSIVE)
jpeg("gray", "read")(lambda: encoded(GRAY, "JPEG"))
jpeg("CMYK", "read")(lambda: encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"))
jpeg("with restart markers", "read")(lambda: encoded(RGB, "JPEG", restart_marker_rows=1))
jpeg("a scan for each component", "read")(lambda: in_scans(GRAY_JPEG, GRAY_JPEG))
jpeg("bytes after its end, as phones write them", "read")(lambda: BASELINE + b"\0\xff\xd8\xff" + bytes(5000))
jpeg("two zeros before its end", "read")(lambda: BASELINE[:-2] + bytes(2) + BASELINE[-2:])
jpeg("without JFIF, color transform in an Adobe marker", "read")(
    lambda: BASELINE[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\1" + BASELINE[20:]
)

SOUND = {"says": "irregular JPEG"}
jpeg("scan with parameters of another process", "corrected", **SOUND)(
    lambda: BASELINE[: scan_start(BASELINE) - 2] + b"\0" + BASELINE[scan_start(BASELINE) - 1 :]
)
jpeg("JFIF of an unknown version", "corrected", **SOUND)(lambda: BASELINE.replace(b"JFIF\0\1", b"JFIF\0\3"))
jpeg("an Adobe marker with an unknown color transform", "corrected", **SOUND)(
    lambda: BASELINE[:2] + b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\7" + BASELINE[20:]
)
jpeg("zeros between its last scan and its end", "corrected", **SOUND)(
    lambda: BASELINE[:-2] + bytes(300) + BASELINE[-2:]
)
jpeg("zeros between the segments of its header", "corrected", **SOUND)(lambda: BASELINE[:20] + bytes(7) + BASELINE[20:])
jpeg("color sampled at every third column", "corrected", says="unusual subsampling")(
    lambda: in_scans(GRAY_JPEG, encoded(GRAY[:, ::3], "JPEG"), 3)
)


@case("JPEG", "unequal densities across and down", "image", "corrected", says=SQUARE)
def jfif_density(folder: Path) -> Made:
    data = bytearray(BASELINE)
    data[13:18] = b"\0" + struct.pack(">HH", 1, 2)  # no unit: twice as many dots down, pixels half as high
    return made(folder, "a.jpg", bytes(data), by_pillow(BASELINE), aspect=0.5, growth=(1.0, 2.0))


@case("JPEG", "unequal densities, image rotated by EXIF", "image", "corrected", says=SQUARE)
def jfif_density_turned(folder: Path) -> Made:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytearray(encoded(RGB, "JPEG", exif=exif, dpi=(100, 100)))
    data[13:18] = b"\1" + struct.pack(">HH", 100, 200)
    right = np.rot90(by_pillow(bytes(data)), -1)
    return made(folder, "a.jpg", bytes(data), right, aspect=2.0, growth=(2.0, 1.0))


@case("JPEG", "an implausible density", "image", "corrected", says="taken as square")
def jfif_density_impossible(folder: Path) -> Made:
    data = bytearray(BASELINE)
    data[13:18] = b"\1" + struct.pack(">HH", 72, 1)
    return made(folder, "a.jpg", bytes(data), by_pillow(BASELINE), growth=(1.0, 1.0))


@case("JPEG", "two images in one file (MPO)", "image", "read")
def mpo(folder: Path) -> Made:
    first, second = Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())
    data = encoded(first, "MPO", save_all=True, append_images=[second], quality=90)
    with Image.open(io.BytesIO(data)) as image:
        image.seek(1)
        right = np.array(image)
    return Made(made(folder, "a.jpg", data).path, {"pixels": right, "steps": ("frame 2 of 2",)}, arguments={"frame": 1})


def zeroed(data: bytes, start: int, count: int) -> bytes:
    """Zeros over ``count`` bytes."""
    return data[:start] + bytes(count) + data[start + count :]


MIDDLE = scan_start(BASELINE) + (len(BASELINE) - scan_start(BASELINE)) // 2
jpeg("zeros in its scan", "refused", says="Corrupt JPEG data")(lambda: zeroed(BASELINE, MIDDLE, 400))
jpeg("bytes of its scan lost", "refused", says="Corrupt JPEG data")(
    lambda: BASELINE[:MIDDLE] + BASELINE[MIDDLE + 300 :]
)
jpeg("half of its scan, with an end marker", "refused", says="premature end")(lambda: BASELINE[:MIDDLE] + b"\xff\xd9")
jpeg("truncated", "refused", says="premature end")(lambda: BASELINE[:MIDDLE])
jpeg("without its end marker", "refused", says="premature end")(lambda: BASELINE[:-2])
jpeg("zeros over the end of its scan", "refused")(lambda: zeroed(BASELINE, len(BASELINE) - 1002, 1000))
jpeg("a restart interval lost", "refused", says="Corrupt JPEG data")(
    lambda: (lambda data: data[: data.index(b"\xff\xd1")] + data[data.index(b"\xff\xd2") :])(
        encoded(RGB, "JPEG", restart_marker_rows=1)
    )
)
jpeg("progressive, without its last scans", "refused", says="without its last scans")(
    lambda: PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xda")] + b"\xff\xd9"
)
jpeg("progressive, truncated within a scan, with an end marker", "refused")(
    lambda: PROGRESSIVE[: len(PROGRESSIVE) // 2] + b"\xff\xd9"
)
jpeg("progressive, zeros in a scan", "refused")(lambda: zeroed(PROGRESSIVE, len(PROGRESSIVE) // 3, 200))
jpeg("a scan for each component, one lost", "refused", says="all its components")(
    lambda: in_scans(GRAY_JPEG, GRAY_JPEG, scans=2)
)
jpeg("12 bits per sample", "refused", says="12 bits is not supported", status="unsupported")(
    lambda: imagecodecs.jpeg8_encode(GRAY.astype(np.uint16) * 16, bitspersample=12)
)
jpeg("JPEG-LS", "refused", says="JPEG-LS is not supported", status="unsupported")(
    lambda: imagecodecs.jpegls_encode(GRAY)
)


# ------------------------------------------------------------------------------------------------------------------ PNG


def chunk(kind: bytes, body: bytes) -> bytes:
    """A chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def with_chunk(data: bytes, kind: bytes, body: bytes, before: bytes = b"IDAT") -> bytes:
    """Insert a chunk before the first of another kind."""
    at = data.index(before) - 4
    return data[:at] + chunk(kind, body) + data[at:]


PNG = encoded(RGB, "PNG")
LARGE = bytes(3 << 20)
TURNED = b"MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + bytes(4)


@case("PNG", "8-bit gray", "image", "read")
def gray_png(folder: Path) -> Made:
    return made(folder, "a.png", encoded(GRAY, "PNG"), GRAY, low=0.0, high=255.0)


for name, kind, body in (
    ("a color profile", b"iCCP", b"scanner\0\0" + zlib.compress(LARGE)),
    ("compressed text", b"zTXt", b"Comment\0\0" + zlib.compress(LARGE)),
    ("international text", b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(LARGE)),
    ("XMP", b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LARGE)),
    ("text", b"tEXt", b"Comment\0" + LARGE.replace(b"\0", b"a")),
):
    for anchor in (b"IDAT", b"IEND"):

        @case(
            "PNG", f"{name} of more than 1 MB {'before' if anchor == b'IDAT' else 'after'} its pixels", "image", "read"
        )
        def large_metadata(folder: Path, kind: bytes = kind, body: bytes = body, anchor: bytes = anchor) -> Made:
            return made(folder, "a.png", with_chunk(PNG, kind, body, anchor), RGB)


@case("PNG", "16 bits, a color profile of more than 1 MB", "image", "read")
def large_profile_sixteen(folder: Path) -> Made:
    data = imagecodecs.png_encode(RGB.astype(np.uint16) * 257)
    return made(
        folder, "a.png", with_chunk(data, b"iCCP", b"a\0\0" + zlib.compress(LARGE)), RGB.astype(np.uint16) * 257
    )


for bits in (8, 16):
    for anchor in (b"IDAT", b"IEND"):

        @case(
            "PNG",
            f"{bits} bits, EXIF orientation {'before' if anchor == b'IDAT' else 'after'} its pixels",
            "image",
            "read",
        )
        def png_orientation(folder: Path, bits: int = bits, anchor: bytes = anchor) -> Made:
            pixels = GRAY if bits == 8 else GRAY.astype(np.uint16) * 16
            data = with_chunk(imagecodecs.png_encode(pixels), b"eXIf", TURNED, anchor)
            return made(folder, "a.png", data, np.rot90(pixels, -1))


@case("PNG", "EXIF orientation in ImageMagick's text chunk", "image", "read")
def png_orientation_in_text(folder: Path) -> Made:
    exif = b"Exif\0\0" + TURNED
    text = f"\nexif\n{len(exif):8}\n{exif.hex()}\n".encode()
    data = with_chunk(PNG, b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
    return made(folder, "a.png", data, np.rot90(RGB, -1))


for unit in (0, 1):

    @case(
        "PNG",
        f"unequal densities across and down, {'in meters' if unit else 'as a ratio'}",
        "image",
        "corrected",
        says=SQUARE,
    )
    def png_aspect(folder: Path, unit: int = unit) -> Made:
        data = with_chunk(PNG, b"pHYs", struct.pack(">IIB", 3000, 2000, unit))
        return made(folder, "a.png", data, RGB, growth=(pytest.approx(1.5), 1.0))


def png(property: str, make: Callable[[], bytes], says: str) -> None:
    """Register a PNG that is refused as damaged."""

    @case("PNG", property, "image", "refused", says=says)
    def write(folder: Path) -> Made:
        return made(folder, "a.png", make())


def wrong_checksum(data: bytes, kind: bytes) -> bytes:
    """One bit of the checksum of a chunk changed."""
    start = data.index(kind)
    end = start + 4 + int.from_bytes(data[start - 4 : start])
    return data[:end] + bytes([data[end] ^ 1]) + data[end + 1 :]


png("without its end", lambda: PNG[:-12], "cut short")
png("truncated within its end", lambda: PNG[:-3], "cut short")
png("truncated within its pixels", lambda: PNG[: len(PNG) // 2], "cut short")
png("a wrong checksum of its pixels", lambda: wrong_checksum(PNG, b"IDAT"), "checksum of the PNG's chunk IDAT")
png("a wrong checksum of its header", lambda: wrong_checksum(PNG, b"IHDR"), "checksum of the PNG's chunk IHDR")
png(
    "a wrong checksum of its metadata",
    lambda: wrong_checksum(with_chunk(PNG, b"pHYs", struct.pack(">IIB", 3, 3, 0)), b"pHYs"),
    "checksum of the PNG's chunk pHYs",
)
png("16 bits, without its end", lambda: imagecodecs.png_encode(RGB.astype(np.uint16))[:-12], "cut short")


# ------------------------------------------------------------------------------------------------------- GIF, BMP, WebP


def small(format: str, property: str, make: Callable[[], bytes], says: str = "") -> None:
    """Register a file that is refused as damaged."""

    @case(format, property, "image", "refused", says=says)
    def write(folder: Path) -> Made:
        return made(folder, "a.bin", make())


GIF = encoded(Image.fromarray(RGB).quantize(64), "GIF")
small("GIF", "truncated", lambda: GIF[: len(GIF) * 2 // 3])
small("GIF", "without its last bytes", lambda: GIF[:-20])
BMP = encoded(RGB[:, :119], "BMP")
small("BMP", "truncated", lambda: BMP[: len(BMP) // 2])
small("BMP", "one byte lost", lambda: BMP[:3000] + BMP[3001:], "cut short")


@case("BMP", "unequal densities across and down", "image", "corrected", says=SQUARE)
def bmp_aspect(folder: Path) -> Made:
    data = BMP[:38] + struct.pack("<ii", 4000, 2000) + BMP[46:]
    return made(folder, "a.bmp", data, RGB[:, :119], growth=(2.0, 1.0))


@case("BMP", "its last row without padding", "image", "read")
def bmp_without_padding(folder: Path) -> Made:
    data = BMP[:2] + struct.pack("<I", len(BMP) - 3) + BMP[6:-3]
    return made(folder, "a.bmp", data, RGB[:, :119])


@case("BMP", "compressed as JPEG", "image", "refused", says="unsupported", status="unsupported")
def bmp_jpeg(folder: Path) -> Made:
    return made(folder, "a.bmp", BMP[:30] + struct.pack("<I", 4) + BMP[34:])


WEBP = encoded(RGB, "WEBP", quality=80)
LOSSLESS_WEBP = encoded(RGB, "WEBP", lossless=True)


@case("WebP", "lossy", "image", "read")
def lossy_webp(folder: Path) -> Made:
    return made(folder, "a.webp", WEBP, by_pillow(WEBP))


@case("WebP", "lossy with alpha and metadata", "image", "read")
def extended_webp(folder: Path) -> Made:
    alpha = Image.fromarray(np.dstack([RGB, GRAY]))
    data = encoded(alpha, "WEBP", quality=80, icc_profile=bytes(3000), exif=b"Exif\0\0" + TURNED)
    return made(folder, "a.webp", data, np.rot90(by_pillow(data)[..., :3], -1))


@case("WebP", "lossless", "image", "read")
def lossless_webp(folder: Path) -> Made:
    return made(folder, "a.webp", LOSSLESS_WEBP, RGB)


def shortened(data: bytes) -> bytes:
    """A WebP whose sizes agree with the half of it that is left."""
    start = data.index(b"VP8 ")
    half = (int.from_bytes(data[start + 4 : start + 8], "little") // 4) * 2
    body = data[8:start] + b"VP8 " + half.to_bytes(4, "little") + data[start + 8 : start + 8 + half]
    return b"RIFF" + len(body).to_bytes(4, "little") + body


small("WebP", "lossy, zeros in its data", lambda: zeroed(WEBP, len(WEBP) // 3, 64), "damaged")
small("WebP", "lossy, truncated", lambda: WEBP[: len(WEBP) // 2])
small("WebP", "lossy, half of its data, with matching sizes", lambda: shortened(WEBP))
small("WebP", "lossless, truncated", lambda: LOSSLESS_WEBP[: len(LOSSLESS_WEBP) // 2])


@case("JPEG", "EXIF resolution of zero over zero, no JFIF density", "image", "read")
def jpeg_exif_resolution(folder: Path) -> Made:
    exif = Image.Exif()
    exif[0x011A], exif[0x011B], exif[0x0128] = IFDRational(0, 0), IFDRational(0, 0), 2
    pixels = np.full((16, 24), 99, np.uint8)
    Image.fromarray(pixels).save(folder / "a.jpg", exif=exif, dpi=(0, 0), quality=95)
    content = (folder / "a.jpg").read_bytes()
    start = content.index(b"\xff\xe0")  # without the JFIF segment, Pillow asks EXIF
    end = start + 2 + int.from_bytes(content[start + 2 : start + 4])
    (folder / "a.jpg").write_bytes(content[:start] + content[end:])
    return Made(folder / "a.jpg", {"pixels": pixels[..., None], "aspect": 1.0}, tolerance=1)


@case("JPEG", "EXIF resolution as fractions, no JFIF density", "image", "read")
def jpeg_exif_fractions(folder: Path) -> Made:
    exif = Image.Exif()
    exif[0x011A], exif[0x011B], exif[0x0128] = IFDRational(720000, 10000), IFDRational(720000, 10000), 2
    pixels = np.full((16, 24), 99, np.uint8)
    Image.fromarray(pixels).save(folder / "a.jpg", exif=exif, quality=95)
    content = (folder / "a.jpg").read_bytes()
    start = content.index(b"\xff\xe0")
    end = start + 2 + int.from_bytes(content[start + 2 : start + 4])
    (folder / "a.jpg").write_bytes(content[:start] + content[end:])
    return Made(folder / "a.jpg", {"pixels": pixels[..., None], "aspect": 1.0}, tolerance=1)
