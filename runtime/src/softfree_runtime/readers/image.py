"""A decoded image as its file holds it, with what is needed to display it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from softfree_runtime.core.errors import ReadError

SQUARE_WITHIN = 1.01  # ratio of pixel sides up to which pixels count as square
LONGEST_PIXEL = 10.0  # ratio beyond which the sides are not plausible
_OBJECT = re.compile(r"\s*<[^<>]* at 0x[0-9a-fA-F]+>")  # as in <_io.BytesIO object at 0x7f0d>
_ENUM = re.compile(r"<(\w+\.\w+): [^<>]*>")
_FILE = re.compile(r"[/\\]\S*\.\w")
_NOT_SUPPORTED = re.compile(r"unsupported (?!marker)|not supported|not implemented", re.IGNORECASE)
_LONGEST = 2000  # characters of a library's message that are examined


@dataclass(frozen=True)
class DecodedImage:
    """One image, and how its values are displayed.

    Attributes:
        pixels: ``(H, W, C)`` with C = 1 (gray) or 3 (RGB), in native byte order; no palette, no alpha.
        low: Value displayed as black.
        high: Value displayed as white, never below ``low``.
        spacing: Millimeters between rows and between columns, if the file says so.
        steps: Operations applied to the stored values, in words and in order.
        stored: Content of the file, such as ``8-bit gray`` or ``12-bit signed MONOCHROME2``. RGB whose channels
            are all equal ends in ``(gray)``.
        corrections: What the reader assumed or corrected because the file contradicts itself or its standard, in words;
            ``softfree check`` lists them. Empty for a sound file.
        aspect: Height of a pixel divided by its width, for a file without ``spacing``.
    """

    pixels: np.ndarray
    low: float
    high: float
    spacing: tuple[float, float] | None
    steps: tuple[str, ...]
    stored: str
    corrections: tuple[str, ...] = ()
    aspect: float = 1.0

    @property
    def growth(self) -> tuple[float, float]:
        """Factors by which rows and columns grow to make pixels square, keeping the finer side.

        (1, 1) for pixels that are square within 1 %, and for implausibly unequal sides.
        """
        ratio = self._ratio
        if not SQUARE_WITHIN < max(ratio, 1 / ratio) <= LONGEST_PIXEL:
            return 1.0, 1.0
        return max(ratio, 1.0), max(1 / ratio, 1.0)

    def with_growth_noted(self) -> DecodedImage:
        """Return the image with a note on pixels that are not square."""
        ratio = self._ratio
        if max(ratio, 1 / ratio) <= SQUARE_WITHIN:
            return self
        note = "pixels of unequal sides resampled to square"
        if self.growth == (1.0, 1.0):
            note = f"pixels more than {LONGEST_PIXEL:g} times as long as wide taken as square"
        return replace(self, steps=(*self.steps, note), corrections=(*self.corrections, note))

    @property
    def _ratio(self) -> float:
        height, width = self.spacing or (self.aspect, 1.0)
        return height / width

    def unit(self) -> np.ndarray:
        """Return float32 ``(H, W, C)`` in [0, 1]: ``low`` and below become 0, ``high`` and above 1."""
        if self.high <= self.low:  # one value only, or a window of width 1 (a threshold)
            return (self.pixels > self.low).astype(np.float32)
        out = np.subtract(self.pixels, self.low, dtype=exact_float(self.pixels.dtype))
        out /= self.high - self.low
        return np.clip(out, 0, 1, out=out).astype(np.float32, copy=False)


def exact_float(dtype: np.dtype) -> type[np.float32 | np.float64]:
    """Return the float type to compute with: float32 holds every integer of up to 24 bits, wider ones lose digits."""
    return np.float64 if dtype.itemsize > 2 and dtype != np.float32 else np.float32


def inverted(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Exchange black and white, as floats."""
    return np.subtract(low + high, pixels, dtype=exact_float(pixels.dtype))


def own_range(pixels: np.ndarray, bits: int, counted: np.ndarray | None = None) -> tuple[float, float, tuple[str, ...]]:
    """Choose the display range of an image whose file names none.

    Unsigned integers of up to 8 bits, and color of any integer width, keep the full range of their bits: stretching
    would change hues, and 8-bit images are stored as they are displayed. So does float color within [0, 1].
    Everything else gets the range of its own values, since a 12-bit film in 16-bit numbers would be almost black.

    Args:
        pixels: ``(H, W, C)``.
        bits: How many bits of each value are used.
        counted: Boolean ``(H, W)``, True for pixels that belong to the image; None for all.

    Returns:
        Low, high, and the step to record, empty for the full range.
    """
    color = pixels.shape[-1] == 3
    if pixels.dtype.kind == "u" and (bits <= 8 or color):
        return 0.0, float(2**bits - 1), ()
    values = pixels if counted is None or not counted.any() else pixels[counted]
    low, high = float(values.min()), float(values.max())
    if pixels.dtype.kind == "f" and color and low >= 0 and high <= 1:
        return 0.0, 1.0, ()
    return low, high, (f"range {low:g} to {high:g}, the image's own",)


def with_gray_noted(stored: str, pixels: np.ndarray) -> str:
    """Return ``stored``, marked if the three channels of ``pixels`` ``(H, W, 3)`` are equal."""
    if pixels.shape[-1] != 3:
        return stored
    first, second, third = np.moveaxis(pixels, -1, 0)
    same = np.array_equal(first, second) and np.array_equal(second, third)
    return f"{stored} (gray)" if same else stored


def refuse_not_finite(path: Path, pixels: np.ndarray) -> None:
    """Raise ReadError if ``pixels`` contains NaN or infinity."""
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ReadError("pixel values that are not finite (NaN or infinite); repair the file", "not_finite", path=path)


def refuse_large(path: Path, width: int, height: int, max_pixels: int) -> None:
    """Raise ReadError if the header declares more than ``max_pixels``."""
    if width * height > max_pixels:
        message = f"{width} x {height} pixels, more than {max_pixels}; cut it into regions or reduce it"
        raise ReadError(message, "too_large", path)


def chosen_frame(path: Path, frame: int | None, count: int) -> tuple[int, tuple[str, ...]]:
    """Return the frame to read, the first by default, and the step to record if there are several."""
    number = 0 if frame is None else frame
    if not 0 <= number < count:
        raise ReadError(f"got frame {number}; the file has frames 0 to {count - 1}", "unsupported", path=path)
    return number, (f"frame {number + 1} of {count}",) if count > 1 else ()


def undecodable(path: Path, what: str, error: Exception) -> ReadError:
    """Return the ReadError for a decoder's exception: missing decoder, unsupported kind or damage."""
    message = in_one_line(error, path)
    if isinstance(error, ImportError):
        name = (error.name or "imagecodecs").split(".")[0]
        return ReadError(
            f"needs {name}, which is not installed; get it with: pip install {name}", "unsupported", path=path
        )
    if _NOT_SUPPORTED.search(message) and not isinstance(error, TypeError):
        return ReadError(f"{message}; save it as PNG, or as TIFF without compression", "unsupported", path=path)
    return ReadError(f"damaged {what}, cannot be decoded ({message})", "corrupt", path=path)


def in_one_line(error: Exception, path: Path) -> str:
    """Return the last line of a library's message about a file, shortened and without addresses of objects.

    A message that names a file, which may be a patient's name, becomes the type of the error.
    """
    kind = type(error).__name__
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.strip().splitlines() or [kind]
    message = _ENUM.sub(r"\1", _OBJECT.sub("", lines[-1].strip()[:_LONGEST]))
    if path.name in message or _FILE.search(message):
        return kind
    return "".join(letter if letter.isprintable() else " " for letter in message[:200]).strip() or kind
