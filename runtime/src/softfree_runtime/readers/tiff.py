"""TIFF images: 1 to 32 bits, float, pages, planes, tiles and every compression that imagecodecs knows."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from softfree_runtime.core.errors import ReadError, shortened
from softfree_runtime.readers.image import (
    DecodedImage,
    chosen_frame,
    inverted,
    own_range,
    refuse_large,
    refuse_not_finite,
    undecodable,
    with_gray_noted,
)
from softfree_runtime.readers.quiet import quiet
from softfree_runtime.readers.raster import oriented
from softfree_runtime.readers.tiff_segments import OLD_JPEG, by_libtiff, decoded, is_old_jpeg

_SLIDES = ("is_svs", "is_ndpi", "is_scn", "is_bif", "is_philips", "is_qpi")
# Supported color models and their channels; Pillow converts the last two to RGB.
_CHANNELS = {"MINISBLACK": 1, "MINISWHITE": 1, "PALETTE": 1, "RGB": 3, "SEPARATED": 4, "YCBCR": 3}
_FAX = (2, 3, 4)  # compressions for fax, where white is zero by default
_ELECTRONS = (65000, 65001, 65002)  # electron counts of a microscope
_BY_PILLOW = {"SEPARATED": "CMYK", "YCBCR": "YCbCr"}


def read_tiff(path: Path, frame: int | None = None, *, max_pixels: int = 1 << 28) -> DecodedImage:
    """Read one page; default: the first.

    Raises:
        ReadError: With status ``corrupt``, ``unsupported``, ``too_large`` or ``not_finite``.
    """
    with quiet():
        try:
            with tifffile.TiffFile(path) as file:
                if any(getattr(file, name) for name in _SLIDES):
                    raise ReadError(
                        "a whole-slide image, not an image; use a model of slides, or export regions",
                        "unsupported",
                        path=path,
                    )
                if not len(file.pages):
                    raise ReadError("damaged TIFF without an image", "corrupt", path=path)
                count = len(file.pages)
                if frame is None:
                    page, number, assumed = whole_image(file)
                    steps = () if number is None else chosen_frame(path, number, count)[1]
                else:
                    number, steps = chosen_frame(path, frame, count)
                    page, assumed = file.pages[number].aspage(), ()
                return _image(path, page, steps, assumed, max_pixels)
        except (ReadError, MemoryError):
            raise
        except Exception as error:  # decoders raise almost any exception on damaged files
            raise undecodable(path, "TIFF", error) from error


def _image(
    path: Path, page: tifffile.TiffPage, steps: tuple[str, ...], assumed: tuple[str, ...], max_pixels: int
) -> DecodedImage:
    # int: a damaged tag may be text, which * would repeat.
    width, height = int(page.imagewidth), int(page.imagelength)
    if width < 1 or height < 1:
        raise ReadError(f"damaged TIFF: an image of {width} x {height} pixels", "corrupt", path=path)
    refuse_large(path, width, height, max_pixels)
    kind, more = _color_model(page)
    corrections = (*assumed, *more)
    if reason := _unsupported(page, kind):
        fix = "save it as gray or RGB, uncompressed or with LZW"
        raise ReadError(f"TIFF with {reason} is not supported; {fix}", "unsupported", path=path)
    expected, present = math.prod(page.chunked), len(page.dataoffsets)
    if expected > present and not page.is_contiguous:
        # tifffile would place tiles one after the other despite the gaps.
        raise ReadError(f"damaged TIFF: {expected} tiles or strips expected, {present} present", "corrupt", path=path)
    if old := is_old_jpeg(page):
        corrections += (OLD_JPEG,)
    changes: tuple[str, ...]
    if old or (page.is_subsampled and _converted(page, kind)):
        pixels, bits, changes = by_libtiff(path, page), 8, ("YCbCr to RGB",)
    else:
        values, repairs = _decoded(page)
        pixels, bits, changes = _gray_or_rgb(values, page, kind)
        corrections += repairs
    refuse_not_finite(path, pixels)
    low, high, own = own_range(pixels, bits)
    steps += (*corrections, *changes, *own)
    if kind == "MINISWHITE":
        pixels = inverted(pixels, low, high)
        steps += ("MINISWHITE inverted",)
    spacing, aspect = _spacing(page), _aspect(page)
    orientation = page.tags.valueof("Orientation", 1)
    if orientation in range(2, 9):
        pixels = oriented(pixels, orientation)
        if orientation >= 5:
            spacing, aspect = spacing and spacing[::-1], 1 / aspect
        steps += (f"TIFF orientation {orientation} applied",)
    stored = with_gray_noted(_described(page, kind), pixels)
    return DecodedImage(pixels, low, high, spacing, steps, stored, corrections, aspect)


def _color_model(page: tifffile.TiffPage) -> tuple[str, tuple[str, ...]]:
    """Return the name of the color model; if missing, what libtiff assumes."""
    if not isinstance(page.photometric, int) or not isinstance(page.compression, int):
        raise ValueError("its color model or compression is not one number")
    if "PhotometricInterpretation" in page.tags:
        return getattr(page.photometric, "name", str(page.photometric)), ()
    model = "RGB" if page.samplesperpixel >= 3 else "MINISWHITE" if page.compression in _FAX else "MINISBLACK"
    return model, (f"no photometric interpretation, taken as {model}",)


def _unsupported(page: tifffile.TiffPage, kind: str) -> str | None:
    """Return what is not supported about a page, before anything is decoded."""
    compression = f"the compression {getattr(page.compression, 'name', page.compression)}"
    try:
        tifffile.TIFF.DECOMPRESSORS[page.compression]
    except KeyError as error:
        if "requires" in str(error):
            raise ModuleNotFoundError(str(error.args[0]), name="imagecodecs") from None
        return compression
    if page.compression in _ELECTRONS and not page.parent.is_eer:
        return compression
    if page.imagedepth != 1:
        return f"a volume of {page.imagedepth} slices in one page"
    if page.dtype is None:
        return f"BitsPerSample {shortened(page.bitspersample)}"
    if page.dtype.kind not in "buif":
        return f"values of type {page.dtype}"
    if kind not in _CHANNELS or (_converted(page, kind) and page.dtype != np.uint8):
        return f"the color model {kind} in {page.dtype}"
    alpha = [getattr(extra, "name", "") in ("ASSOCALPHA", "UNASSALPHA") for extra in page.extrasamples]
    if page.samplesperpixel - _CHANNELS[kind] not in (0, 1) or alpha not in ([], [True]):
        return f"{page.samplesperpixel} channels"
    return None


def _decoded(page: tifffile.TiffPage) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the stored values as ``(H, W, S)`` in native byte order, floats as float32; and corrections."""
    pixels, corrections = decoded(page)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif page.axes.startswith("S"):  # planes one after the other
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.dtype.kind in "bf":
        return pixels.astype(np.uint8 if pixels.dtype.kind == "b" else np.float32), corrections
    return np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("="), copy=False)), corrections


def _gray_or_rgb(pixels: np.ndarray, page: tifffile.TiffPage, kind: str) -> tuple[np.ndarray, int, tuple[str, ...]]:
    """Convert ``(H, W, S)`` to ``(H, W, 1)`` or ``(H, W, 3)``; return it with its number of bits and the steps."""
    channels = _CHANNELS[kind]
    steps: tuple[str, ...] = ()
    if pixels.shape[-1] > channels:
        associated = tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples
        steps = ("premultiplied alpha divided out",) if associated else ("alpha dropped",)
        alpha, pixels = pixels[..., channels:], np.ascontiguousarray(pixels[..., :channels])
        pixels = _divided(pixels, alpha, page.bitspersample) if associated else pixels
    if kind == "PALETTE":
        if page.colormap is None:
            raise ValueError("a palette without its colors")
        colors = np.asarray(page.colormap)  # (3, 2^bits)
        rgb = np.ascontiguousarray(np.moveaxis(colors[:, pixels[..., 0]], 0, -1))
        return rgb, 8 if colors.max() < 256 else 16, (*steps, "palette to RGB")
    if _converted(page, kind):
        mode = _BY_PILLOW[kind]
        image = Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())
        return np.array(image.convert("RGB")), 8, (*steps, f"{mode} to RGB")
    return pixels, page.bitspersample, steps


def _divided(pixels: np.ndarray, alpha: np.ndarray, bits: int) -> np.ndarray:
    """Undo the multiplication of ``(H, W, C)`` by ``alpha`` ``(H, W, 1)``; black where that is 0."""
    white = 1.0 if pixels.dtype.kind == "f" else float(2**bits - 1)
    out = np.divide(pixels * white, alpha, out=np.zeros(pixels.shape), where=alpha > 0)
    if pixels.dtype.kind != "f":
        out = np.rint(np.minimum(out, white))
    return out.astype(pixels.dtype)


def _converted(page: tifffile.TiffPage, kind: str) -> bool:
    """Return whether Pillow converts the decoded values to RGB; JPEG is decoded to RGB."""
    jpeg = getattr(page.compression, "name", "").endswith("JPEG")
    return kind == "SEPARATED" or (kind == "YCBCR" and not jpeg)


def _described(page: tifffile.TiffPage, kind: str) -> str:
    names = {"MINISBLACK": "gray", "MINISWHITE": "gray", "PALETTE": "palette", "SEPARATED": "CMYK", "YCBCR": "YCbCr"}
    number = {"i": "signed ", "f": "float "}.get(np.dtype(page.dtype).kind, "")
    return f"{page.bitspersample}-bit {number}{names.get(kind, kind)}"


def _aspect(page: tifffile.TiffPage) -> float:
    """Return the height of a pixel divided by its width, from the resolution across and down in any unit."""
    across, down = (page.tags.valueof(name) for name in ("XResolution", "YResolution"))
    if not across or not down or not all((*across, *down)):
        return 1.0
    return (across[0] / across[1]) / (down[0] / down[1])


def _spacing(page: tifffile.TiffPage) -> tuple[float, float] | None:
    """Return millimeters per pixel if the resolution is per centimeter; inches refer to printing."""
    unit = page.tags.valueof("ResolutionUnit")
    columns, rows = (page.tags.valueof(name) for name in ("XResolution", "YResolution"))
    if unit != tifffile.RESUNIT.CENTIMETER or not columns or not rows or not all((*columns, *rows)):
        return None
    return 10 * rows[1] / rows[0], 10 * columns[1] / columns[0]


REDUCED = "the first image is a reduced copy of another, which is used"
PYRAMID = "an image in several resolutions, as slides have, read at the finest"
LARGER = "several images, the first of which is not the largest, read as the first"

_PAGES = 16  # number of pages examined


def whole_image(file: tifffile.TiffFile) -> tuple[tifffile.TiffPage, int | None, tuple[str, ...]]:
    """Choose the first image, or the image that it is a reduced copy of.

    Returns:
        The image; its page number, None if it is below the first page; and what was assumed.
    """
    first = file.pages.first
    others = _others(file, first)
    if first.is_reduced and (whole := [page for page in others if not page.is_reduced]):
        largest = max(whole, key=_pixels)
        return largest, largest.index if len(largest.treeindex) == 1 else None, (REDUCED,)
    if first.is_tiled and any(page.is_tiled and _is_copy(page, first) for page in others):
        return first, 0, (PYRAMID,)
    if any(_pixels(page) > _pixels(first) and not page.is_reduced for page in others):
        return first, 0, (LARGER,)
    return first, 0, ()


def _others(file: tifffile.TiffFile, first: tifffile.TiffPage) -> list[tifffile.TiffPage]:
    """Return the images after the first, none for a stack of equal sizes; damaged images are skipped."""
    others: list[tifffile.TiffPage] = []
    with suppress(Exception):
        if first.subifds:
            others += [page.aspage() for page in (first.pages or ())[:_PAGES]]
    with suppress(Exception):
        for frame in file.pages[1:_PAGES]:
            page = frame.aspage()
            if not others and not first.is_reduced and page.shape == first.shape:
                break
            others.append(page)
    return others


def _is_copy(page: tifffile.TiffPage, first: tifffile.TiffPage) -> bool:
    """Return whether an image is smaller than the first, in the same proportions."""
    if not 0 < _pixels(page) < _pixels(first):
        return False
    across, down = first.imagewidth / page.imagewidth, first.imagelength / page.imagelength
    return max(across, down) <= 1.1 * min(across, down)


def _pixels(page: tifffile.TiffPage) -> int:
    return int(page.imagewidth) * int(page.imagelength)
