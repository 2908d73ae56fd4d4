"""JPEG, PNG, BMP, GIF and WebP pictures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from softfree.data.readers.picture import Picture, chosen_frame, in_one_line, own_range, refuse_large, with_gray_noted
from softfree.data.readers.quiet import quiet
from softfree.errors import ReadError

# Others are left out on purpose: some start programs (EPS), some lose bits without a word (PPM, JPEG 2000).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
_ORIENTATION = 0x0112
_limit = threading.Lock()


def read_raster(path: Path, frame: int | None = None, *, max_pixels: int = 1 << 28) -> Picture:
    """Read one frame, the first by default.

    Raises:
        ReadError: with status ``corrupt``, ``unsupported`` or ``too_large``.
    """
    with quiet():
        try:
            with _open(path) as image:
                refuse_large(path, *image.size, max_pixels)
                number, steps = chosen_frame(path, frame, getattr(image, "n_frames", 1))
                image.seek(number)
                return _png16(path) if _is_png16(path) else _picture(path, image, steps)
        except (ReadError, MemoryError):
            raise
        except Exception as error:  # decoders raise nearly anything on damaged files
            raise ReadError(f"{path}: damaged picture, cannot be decoded ({in_one_line(error)})", "corrupt") from error


def oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn ``(H, W, C)`` upright from its EXIF or TIFF orientation, 1 to 8 (TIFF 6.0, tag 274)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _picture(path: Path, image: Image.Image, steps: tuple[str, ...]) -> Picture:
    stored, gray = _described(path, image)
    wanted = "L" if gray else "RGB"
    if image.mode in ("CMYK", "P", "PA"):
        steps += (f"{'CMYK' if image.mode == 'CMYK' else 'palette'} to RGB",)
    if "A" in image.getbands() or "transparency" in image.info:
        steps += ("alpha dropped",)
    orientation = image.getexif().get(_ORIENTATION, 1)
    pixels = np.array(image if image.mode == wanted else image.convert(wanted))
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    if orientation in range(2, 9):
        pixels = oriented(pixels, orientation)
        steps += (f"EXIF orientation {orientation} applied",)
    return Picture(pixels, 0.0, 255.0, None, steps, with_gray_noted(stored, pixels))


def _described(path: Path, image: Image.Image) -> tuple[str, bool]:
    """Say what the file holds, and whether it is gray."""
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
        raise ReadError(f"{path}: Pillow mode {image.mode} is not supported; save it as PNG", "unsupported")
    return names[image.mode]


def _is_png16(path: Path) -> bool:
    """Whether a PNG has 16 bits a sample, which Pillow reduces to 8 for all but gray."""
    with path.open("rb") as file:
        head = file.read(26)
    return head.startswith(b"\x89PNG") and head[24] == 16


def _png16(path: Path) -> Picture:
    import imagecodecs  # 80 MB that the runtime without torch can do without

    pixels = imagecodecs.png_decode(path.read_bytes())
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]  # (H, W, 1 to 4)
    colour = pixels.shape[-1] >= 3
    alpha = pixels.shape[-1] in (2, 4)
    pixels = np.ascontiguousarray(pixels[..., : 3 if colour else 1])
    low, high, own = own_range(pixels, 16)
    stored = f"16-bit {'RGB' if colour else 'gray'}{' with alpha' if alpha else ''}"
    steps = (*(("alpha dropped",) if alpha else ()), *own)
    return Picture(pixels, low, high, None, steps, with_gray_noted(stored, pixels))


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """Open without Pillow's own limit, which would forbid what the caller allows; only the header is read here."""
    with _limit:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(path, formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = before
    with image:
        yield image
