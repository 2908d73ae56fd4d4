"""JPEG, PNG, BMP, GIF and WebP images."""

from __future__ import annotations

import io
import math
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError, features

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.image import (
    DecodedImage,
    chosen_frame,
    own_range,
    refuse_large,
    undecodable,
    with_gray_noted,
)
from softfree_runtime.readers.quiet import quiet
from softfree_runtime.readers.strict_jpeg import JPEG_LS, UNCHECKED, Space, decode_jpeg, frame_of

# Others are left out on purpose: some start programs (EPS), some silently lose bits (PPM, JPEG 2000).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
_ORIENTATION = 0x0112
_CHECKED = ("JPEG", "MPO", "PNG", "BMP", "WEBP")  # whose bytes are needed, not only Pillow's result
_SPACES: dict[str, Space] = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}
_limit = threading.Lock()


def read_raster(path: Path, frame: int | None = None, *, max_pixels: int = 1 << 28) -> DecodedImage:
    """Read one frame; default: the first.

    Raises:
        ReadError: With status ``corrupt``, ``unsupported`` or ``too_large``.
    """
    with quiet():
        try:
            if size := png_size(path):  # before the file is read
                refuse_large(path, *size, max_pixels)
            with _open(path, without_metadata(path.read_bytes()) if size else None) as image:
                refuse_large(path, *image.size, max_pixels)
                number, steps = chosen_frame(path, frame, getattr(image, "n_frames", 1))
                image.seek(number)
                return _image(path, image, steps)
        except (ReadError, MemoryError):
            raise
        except Exception as error:  # decoders raise almost any exception on damaged files
            raise undecodable(path, "image", error) from error


def oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn ``(H, W, C)`` upright from its EXIF or TIFF orientation, 1 to 8 (TIFF 6.0, tag 274)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _image(path: Path, image: ImageFile.ImageFile, steps: tuple[str, ...]) -> DecodedImage:
    data = _bytes_of(image) if image.format in _CHECKED else b""
    if image.format == "PNG" and is_sixteen_bit(data):
        if image.tell():
            fix = "save its frames as PNG files"
            raise ReadError(f"a 16-bit frame of an animated PNG is not supported; {fix}", "unsupported", path=path)
        pixels, stored, steps = _png16(data, steps)
        low, high, own = own_range(pixels, 16)
        corrections: tuple[str, ...] = ()
    else:
        stored, gray = _described(path, image)
        if image.mode in ("CMYK", "P", "PA"):
            steps += (f"{'CMYK' if image.mode == 'CMYK' else 'palette'} to RGB",)
        if "A" in image.getbands() or "transparency" in image.info:
            steps += ("alpha dropped",)
        pixels, corrections = _decoded(data, image, "L" if gray else "RGB")
        low, high, own = 0.0, 255.0, ()
    orientation, aspect = image.getexif().get(_ORIENTATION, 1), _aspect(image)
    if orientation in range(2, 9):
        pixels = oriented(pixels, orientation)
        aspect = 1 / aspect if orientation >= 5 else aspect
        own = (*own, f"EXIF orientation {orientation} applied")
    steps += own
    return DecodedImage(pixels, low, high, None, steps, with_gray_noted(stored, pixels), corrections, aspect)


def _bytes_of(image: ImageFile.ImageFile) -> bytes:
    """Return all bytes of the file that an image was opened from."""
    assert image.fp is not None
    image.fp.seek(0)
    return bytes(image.fp.read())


def _decoded(data: bytes, image: ImageFile.ImageFile, wanted: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return pixels ``(H, W, C)`` of mode ``wanted``, and what was corrected."""
    corrections: tuple[str, ...] = ()
    if image.format in ("JPEG", "MPO"):
        try:
            pixels, corrections = decode_jpeg(data[image.tile[0].offset :], _SPACES[image.mode])
        except ValueError as error:
            if "subsampling" not in str(error):
                raise
            corrections = (UNCHECKED,)
        else:
            if image.mode == wanted:
                return pixels, corrections
            # As in Pillow and Photoshop, ink is stored inverted.
            inverted = Image.frombytes(image.mode, image.size, np.invert(pixels).tobytes())
            return np.array(inverted.convert(wanted)), corrections
    elif image.format == "BMP":
        _refuse_cut_bmp(data, image)
    elif image.format == "WEBP":
        refuse_damaged_webp(data)
    pixels = np.array(image if image.mode == wanted else image.convert(wanted))
    return pixels if pixels.ndim == 3 else pixels[..., None], corrections


def _refuse_cut_bmp(data: bytes, image: ImageFile.ImageFile) -> None:
    """Raise ValueError for a file shorter than both its size fields; Pillow tolerates missing bytes."""
    codec, _, offset, arguments = image.tile[0]
    promised = int.from_bytes(data[2:6], "little")
    row = arguments[1] if codec == "raw" and isinstance(arguments, tuple) else 0
    if row and len(data) < min(promised, offset + row * image.height):
        raise ValueError(f"the BMP is cut short: {len(data)} of {promised} bytes")


def _aspect(image: ImageFile.ImageFile) -> float:
    """Return the height of a pixel divided by its width, from densities across and down in any unit."""
    pairs = (image.info.get(name) for name in ("jfif_density", "aspect", "dpi"))
    pair = next((pair for pair in pairs if pair), (1, 1))
    across, down = map(float, pair)  # those of EXIF are fractions, sometimes zero over zero
    return across / down if 0 < across < math.inf and 0 < down < math.inf else 1.0


def _described(path: Path, image: ImageFile.ImageFile) -> tuple[str, bool]:
    """Return the content of the file in words, and whether it is gray."""
    names = {
        "1": ("1-bit gray", True),
        "L": ("8-bit gray", True),
        "LA": ("8-bit gray with alpha", True),
        "P": ("8-bit palette", False),
        "PA": ("8-bit palette with alpha", False),
        "RGB": ("8-bit RGB", False),
        "RGBA": ("8-bit RGB with alpha", False),
        "CMYK": ("8-bit CMYK", False),
        "YCbCr": ("8-bit YCbCr", False),
    }
    if image.mode not in names:
        raise ReadError(f"Pillow mode {image.mode} is not supported; save it as PNG", "unsupported", path=path)
    return names[image.mode]


def _png16(data: bytes, steps: tuple[str, ...]) -> tuple[np.ndarray, str, tuple[str, ...]]:
    """Return pixels ``(H, W, 1 or 3)``, the content in words, and the steps."""
    import imagecodecs  # 80 MB that the torch-free runtime does not need

    pixels = imagecodecs.png_decode(data)
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]  # (H, W, 1 to 4)
    color, alpha = pixels.shape[-1] >= 3, pixels.shape[-1] in (2, 4)
    pixels = np.ascontiguousarray(pixels[..., : 3 if color else 1])
    stored = f"16-bit {'RGB' if color else 'gray'}{' with alpha' if alpha else ''}"
    return pixels, stored, (*steps, "alpha dropped") if alpha else steps


@contextmanager
def _open(path: Path, data: bytes | None) -> Iterator[ImageFile.ImageFile]:
    """Open ``data`` or the file, without Pillow's own limit, which would forbid what the caller allows.

    Only the header is read here.
    """
    with _limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path if data is None else io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            if kind := _unsupported(path.read_bytes()):
                raise ReadError(f"{kind}", "unsupported", path=path) from None
            raise ValueError("its header is damaged") from None
        finally:
            Image.MAX_IMAGE_PIXELS = before
    with image:
        yield image


def _unsupported(data: bytes) -> str | None:
    """Return what a file is that Pillow does not identify as a supported format, unless it is damaged."""
    if data.startswith(b"RIFF") and not features.check("webp"):
        return "this Pillow has no WebP decoder; get one with: pip install --upgrade pillow"
    if not data.startswith(b"\xff\xd8"):
        return None
    frame = frame_of(data)
    if frame is None or not 2 <= frame.bits <= 16:
        return None
    kind = "JPEG-LS" if frame.marker == JPEG_LS else f"JPEG of {frame.bits} bits" if frame.bits != 8 else ""
    kind = kind or ("JPEG of 2 components" if len(frame.components) == 2 else "")
    return f"{kind} is not supported; save it as PNG or TIFF" if kind else None


_TEXT = 1 << 20  # bytes; Pillow refuses to decompress more
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTING = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # texts that may hold an orientation


def without_metadata(data: bytes) -> bytes:
    """Verify the chunks of a PNG, and drop all but those for its pixels and their orientation.

    Pillow verifies neither all checksums nor the end. Color profiles and texts may be larger than decoders accept.

    Raises:
        ValueError: The PNG is truncated or a checksum is wrong.
    """
    before: list[bytes] = [data[:8]]
    after: list[bytes] = []
    position, kind = 8, b""
    while kind != b"IEND":
        kind = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(data[position : position + 4])
        if len(kind) < 4 or end > len(data):
            raise ValueError("the PNG is cut short: it has no end")
        if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            raise ValueError(f"the checksum of the PNG's chunk {kind.decode('ascii', 'replace')} is wrong")
        if kind == b"eXIf" or (kind in _TEXTS and _may_orient(kind, data[position + 8 : end - 4])):
            before.append(data[position:end])
        elif kind != b"iCCP" and kind not in _TEXTS:
            (after if after or kind == b"IDAT" else before).append(data[position:end])
        position = end
    return b"".join(before + after)


def png_size(path: Path) -> tuple[int, int] | None:
    """Return width and height from the header of a PNG; None for another kind of file."""
    with path.open("rb") as file:
        head = file.read(24)
    if not head.startswith(b"\x89PNG"):
        return None
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


def is_sixteen_bit(data: bytes) -> bool:
    """Return whether samples have 16 bits, which Pillow reduces to 8 except for gray."""
    return data[24] == 16


def _may_orient(kind: bytes, body: bytes) -> bool:
    keyword, _, text = body.partition(b"\0")
    if keyword not in _ORIENTING or len(body) > _TEXT:
        return False
    if kind == b"tEXt" or (kind == b"iTXt" and text[:1] != b"\1"):
        return True
    inflate = zlib.decompressobj()
    try:
        inflate.decompress(text[1:] if kind == b"zTXt" else text[2:].split(b"\0", 2)[-1], _TEXT)
    except zlib.error:
        return False
    return not inflate.unconsumed_tail


_SPARE = 16  # bytes; an intact image needs all but its last three bytes, a damaged one leaves hundreds


def refuse_damaged_webp(data: bytes) -> None:
    """Raise ValueError for a lossy WebP that can be decoded without its last bytes; WebP has no checksum.

    An arithmetic decoder ends where the data end unless damage made it lose track. Ending too late raises; ending too
    early does not. Animations and lossless images are not checked.
    """
    coded = _lossy(data)
    if not coded[-_SPARE:].strip(b"\0"):
        return  # not lossy, or padding, which is no evidence
    try:
        with Image.open(io.BytesIO(_riff(coded[:-_SPARE])), formats=("WEBP",)) as image:
            image.load()
    except Exception:  # as expected
        return
    raise ValueError("damaged WebP: data that its image does not need")


def _lossy(data: bytes) -> bytes:
    """Return the coded data of a single lossy image, else nothing."""
    position = 12  # after RIFF, a size and WEBP
    while position + 8 <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        if data[position : position + 4] == b"VP8 ":
            return data[position + 8 : position + 8 + length]
        if data[position : position + 4] == b"ANIM":
            break
        position += 8 + length + length % 2
    return b""


def _riff(coded: bytes) -> bytes:
    chunk = b"WEBPVP8 " + len(coded).to_bytes(4, "little") + coded + b"\0" * (len(coded) % 2)
    return b"RIFF" + len(chunk).to_bytes(4, "little") + chunk
