"""Whole slides, addressed in millimeters and micrometers per pixel, never in levels.

OpenSlide reads them if it can. It reads DICOM slides pixel for pixel as wsidicom does, so wsidicom reads only the
series that OpenSlide refuses; tifffile reads OME-TIFF, whose pyramid OpenSlide does not find.
Color profiles are not applied.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from openslide import OpenSlide, OpenSlideError
from PIL import Image

from softfree.data.slide_readers.dicom import DicomPyramid
from softfree.data.slide_readers.openslide import OpenSlidePyramid
from softfree.data.slide_readers.pyramid import Pair, Pyramid, plausible
from softfree.data.slide_readers.tiff import TiffPyramid
from softfree.data.slide_readers.tiff_metadata import MAGIC, PLAIN, TiffFacts, read_facts
from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers import file_head
from softfree_runtime.readers.image import in_one_line

_SIDE = 4096  # maximum side of a region of a level held in memory, pixels
_FINER = 1.5  # maximum upsampling beyond the finest level: scanners differ, but 20x is not 40x
_ROUNDED = 2.0  # tolerance of a level's sides against the slide's proportions: pixels, and relative
_OFF = 0.02
_LONGEST = 500.0  # mm; the largest slides have 200
_SAME = 0.01  # relative tolerance in choosing a level by its resolution


class Slide:
    """A slide open for reading. It can be pickled: the other process reopens the file.

    Args:
        path: The file, for messages and for reopening.
        pyramid: Its levels.
        mpp: Micrometers per pixel of level 0 that override the file's own, or None.

    Attributes:
        mpp: Micrometers per pixel (x, y) of the finest level.
        size: (width, height) of the finest level in pixels.
        corrections: What the reader assumed or corrected because the file contradicts itself or its standard, in words;
            ``softfree check`` lists them. Empty for a sound file.

    Raises:
        ReadError: Status ``no_resolution`` if neither the file nor the caller gives a plausible one.
    """

    def __init__(self, path: Path, pyramid: Pyramid, mpp: Pair | None = None) -> None:
        if mpp is None and pyramid.mpp is None:
            raise ReadError(
                "the file gives no micrometers per pixel, or none plausible for a slide; add a column mpp"
                " with them to the table",
                "no_resolution",
                path=path,
            )
        if not pyramid.sizes or min(pyramid.sizes[0]) < 1:
            raise ReadError("damaged slide: its finest level has no pixels", path=path)
        self.path, self._pyramid, self._mpp = path, pyramid, mpp
        self.mpp: Pair = mpp or pyramid.mpp  # type: ignore[assignment]
        self.size: tuple[int, int] = pyramid.sizes[0]
        if max(self.size_mm) > _LONGEST:
            size = "{:.0f} x {:.0f} mm".format(*self.size_mm)
            origin = "the file's micrometers per pixel" if mpp is None else "the given mpp"
            raise ReadError(
                f"{size} by {origin}, more than any slide has; put the right one into the table's column mpp",
                "no_resolution",
                path=path,
            )
        fitting = {n: down for n, size in enumerate(pyramid.sizes) if (down := _downsample(self.size, size))}
        self._levels = tuple(fitting)
        self._downsamples = tuple(fitting.values())
        skipped = ("levels of other proportions than the slide, skipped",)
        self.corrections = (*pyramid.corrections, *(skipped if len(fitting) < len(pyramid.sizes) else ()))

    @property
    def size_mm(self) -> Pair:
        """Width and height in millimeters."""
        return self.size[0] * self.mpp[0] / 1000, self.size[1] * self.mpp[1] / 1000

    @property
    def levels(self) -> int:
        """Number of resolutions in the file."""
        return len(self._levels)

    def read(self, x_mm: float, y_mm: float, width_px: int, height_px: int, mpp: float) -> np.ndarray:
        """Read a region at any resolution, from the coarsest level that is fine enough.

        Pixels are resampled bilinearly with antialiasing. Pixels outside the slide and transparent pixels are white.

        Args:
            x_mm: Left edge, millimeters from the left edge of the slide.
            y_mm: Upper edge.
            width_px: Columns of the result.
            height_px: Rows of the result.
            mpp: Micrometers per pixel of the result, along both axes.

        Returns:
            uint8 (height_px, width_px, 3).

        Raises:
            ReadError: Pixels cannot be decoded.
        """
        scale = mpp / self.mpp[0], mpp / self.mpp[1]
        level = self._level(scale)
        down = self._downsamples[level]
        step = scale[0] / down[0], scale[1] / down[1]  # pixels of the level for one of the result
        left, top = x_mm * 1000 / self.mpp[0] / down[0], y_mm * 1000 / self.mpp[1] / down[1]
        out = np.empty((height_px, width_px, 3), np.uint8)
        across, along = (max(1, int(_SIDE / size)) for size in step)
        for y in range(0, height_px, along):
            for x in range(0, width_px, across):
                block = out[y : y + along, x : x + across]
                block[:] = np.asarray(
                    self._resample(level, (left + x * step[0], top + y * step[1]), step, block.shape[:2])
                )
        return out

    def refuse_finer(self, mpp: float) -> None:
        """Raise ReadError, status ``too_coarse``, if ``mpp`` requires detail that the slide does not have."""
        finest = max(self.mpp)
        if mpp * _FINER < finest:
            raise ReadError(
                f"its finest level has {finest:.3g} um per pixel, too coarse for {mpp:g} um;"
                f" use --mpp {finest:.2g}, or remove the slide",
                "too_coarse",
                path=self.path,
            )

    def thumbnail(self, mpp: float) -> np.ndarray:
        """Read the whole slide as uint8 (H, W, 3)."""
        width, height = (max(1, math.ceil(side * 1000 / mpp - 1e-6)) for side in self.size_mm)
        return self.read(0, 0, width, height, mpp)

    def fitting_levels(self) -> tuple[Pyramid, tuple[int, ...]]:
        """Return the reader of the file, and the numbers of its levels that belong to the slide, the finest first."""
        return self._pyramid, self._levels

    def close(self) -> None:
        """Close the file."""
        self._pyramid.close()

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, tuple[Path, Pair | None]]:
        return open_slide, (self.path, self._mpp)

    def _level(self, scale: Pair) -> int:
        """Return the index of the coarsest level that is fine enough."""
        fine = [
            n for n, down in enumerate(self._downsamples) if max(down[0] / scale[0], down[1] / scale[1]) <= 1 + _SAME
        ]
        return max(fine, key=lambda n: self._downsamples[n][0], default=0)

    def _resample(self, level: int, corner: Pair, step: Pair, shape: tuple[int, int]) -> Image.Image:
        """Resample a region of a level, from ``corner`` in its pixels, to ``shape`` (rows, columns)."""
        ends = [start + count * size for start, count, size in zip(corner, shape[::-1], step, strict=True)]
        margins = [math.ceil(size) + 2 for size in step]  # reach of the weights of the outermost pixels
        x, y = (math.floor(start) - margin for start, margin in zip(corner, margins, strict=True))
        right, bottom = (math.ceil(end) + margin for end, margin in zip(ends, margins, strict=True))
        pixels, shift = self._window(level, x, y, right - x, bottom - y)
        box = corner[0] - x - shift[0], corner[1] - y - shift[1], ends[0] - x - shift[0], ends[1] - y - shift[1]
        whole = Image.fromarray(pixels)
        if max(abs(size - 1) for size in step) < 1e-6 and max(abs(edge - round(edge)) for edge in box) < 1e-3:
            return whole.crop(tuple(round(edge) for edge in box))  # type: ignore[arg-type]
        return whole.resize(shape[::-1], Image.Resampling.BILINEAR, box=box)

    def _window(self, level: int, x: int, y: int, width: int, height: int) -> tuple[np.ndarray, Pair]:
        """Read (height, width, 3) of a level, white beyond its edges, and the region's shift."""
        number = self._levels[level]
        size = self._pyramid.sizes[number]
        x0, y0, x1, y1 = max(0, x), max(0, y), min(size[0], x + width), min(size[1], y + height)
        out = np.full((height, width, 3), 255, np.uint8)
        if x1 <= x0 or y1 <= y0:
            return out, (0.0, 0.0)
        try:
            inside, shift = self._pyramid.region(number, x0, y0, x1 - x0, y1 - y0)
        except MemoryError as error:
            raise ReadError("does not fit in memory; use a coarser mpp", "too_large", path=self.path) from error
        except Exception as error:  # the libraries raise almost any exception on damaged tiles
            raise ReadError(f"damaged pixels: {in_one_line(error, self.path)}", "corrupt", path=self.path) from error
        out[y0 - y : y1 - y, x0 - x : x1 - x] = inside
        return out, shift


def _downsample(whole: tuple[int, int], level: tuple[int, int]) -> Pair | None:
    """Return the downsampling (x, y) of a level; None for a level that does not belong to the slide."""
    if min(level) < 1:
        return None
    down = whole[0] / level[0], whole[1] / level[1]
    allowed = _OFF + _ROUNDED / min(level)
    return down if max(down) / min(down) <= 1 + allowed and min(down) > 1 - allowed else None


def open_slide(path: str | Path, mpp: float | Pair | None = None) -> Slide:
    """Open a slide: what OpenSlide reads, a DICOM file or the folder of its series, or a pyramidal TIFF.

    Args:
        path: The file or folder.
        mpp: Micrometers per pixel of the finest level, or (x, y), that override the file's own.

    Raises:
        ReadError: Not a slide; status ``no_resolution`` if the size of its pixels is unknown.
    """
    path = Path(path)
    resolution = None if mpp is None else plausible(*(mpp if isinstance(mpp, tuple) else (mpp, mpp)))
    if mpp is not None and resolution is None:
        raise ReadError(
            f"mpp {mpp} is not plausible for a slide; expected micrometers per pixel, such as 0.25",
            "unsupported",
            path=path,
        )
    head = b"" if os.path.isdir(path) else file_head(path)
    try:
        pyramid = _pyramid(path, head)
    except ReadError:
        raise
    except MemoryError as error:
        raise ReadError("does not fit in memory; save it in smaller tiles", "too_large", path=path) from error
    except Exception as error:  # the libraries raise almost any exception on damaged headers
        raise ReadError(f"not readable as a slide: {in_one_line(error, path)}", "corrupt", path=path) from error
    return Slide(path, pyramid, resolution)


def _pyramid(path: Path, head: bytes) -> Pyramid:
    if os.path.isdir(path):
        return DicomPyramid(path)
    vendor = OpenSlide.detect_format(str(path))
    if vendor == "dicom":
        try:
            return OpenSlidePyramid(path)
        except OpenSlideError:
            return DicomPyramid(path)
    if head[128:132] == b"DICM":  # which may start like a TIFF
        return DicomPyramid(path)
    if head.startswith(MAGIC):
        return _tiff(path, vendor)
    if vendor is not None:
        return OpenSlidePyramid(path)
    raise ReadError(
        "not a slide that softfree reads: SVS, NDPI, MRXS, DICOM, tiled TIFF, ...", "unsupported", path=path
    )


def _tiff(path: Path, vendor: str | None) -> Pyramid:
    """Open a TIFF with OpenSlide if that reads it correctly, else with tifffile."""
    facts = read_facts(path, vendor)
    pyramid = _reader_of_tiff(path, vendor, facts)
    if facts is not None and vendor in (None, *PLAIN):
        pyramid.corrections += facts.corrections
    return pyramid


def _reader_of_tiff(path: Path, vendor: str | None, facts: TiffFacts | None) -> Pyramid:
    if vendor is None or (vendor == "generic-tiff" and facts is not None and (facts.is_ome or not facts.plain)):
        return TiffPyramid(path)
    try:
        pyramid = OpenSlidePyramid(path)
    except OpenSlideError:
        if vendor not in PLAIN:
            raise
        return TiffPyramid(path)  # another codec
    if vendor == "generic-tiff" and facts is not None and math.prod(facts.size) > math.prod(pyramid.sizes[0]):
        pyramid.close()
        return TiffPyramid(path)  # the first page is not its finest level, but a thumbnail
    return _checked_jpeg(path, pyramid) if vendor in PLAIN and facts is not None and facts.whole_jpeg else pyramid


def _checked_jpeg(path: Path, pyramid: OpenSlidePyramid) -> Pyramid:
    """Return the same levels with a decoder that reports damaged JPEG, which OpenSlide silently fills with gray."""
    try:
        own = TiffPyramid(path)
    except ReadError:
        return pyramid
    if own.sizes != pyramid.sizes:
        own.close()
        return pyramid
    own.mpp, own.corrections = pyramid.mpp, pyramid.corrections
    pyramid.close()
    return own
