"""Choice of the image of a TIFF that is the slide, and its resolution."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tifffile import RESUNIT, TiffFile

from softfree.data.slide_readers.pyramid import Pair, plausible
from softfree_runtime.core.errors import ReadError

# Micrometers per unit of OME-XML, after NFKC; "pixel" and "reference frame" are not units of length.
_PREFIXES = {
    **{"Y": 24, "Z": 21, "E": 18, "P": 15, "T": 12, "G": 9, "M": 6, "k": 3, "h": 2, "da": 1, "": 0},
    **{"d": -1, "c": -2, "m": -3, "μ": -6, "u": -6, "n": -9, "p": -12, "f": -15, "a": -18, "z": -21, "y": -24},
}
_MICROMETERS = {f"{prefix}m": 10.0 ** (power + 6) for prefix, power in _PREFIXES.items()} | {
    **{"Å": 1e-4, "thou": 25.4, "li": 25_400 / 12, "in": 25_400.0, "ft": 304_800.0, "yd": 914_400.0},
    **{"mi": 1.609344e9, "pt": 25_400 / 72, "inch": 25_400.0, "micron": 1.0, "micrometer": 1.0, "millimeter": 1e3},
    **{"nanometer": 1e-3, "centimeter": 1e4, "meter": 1e6, "angstrom": 1e-4},
}
_NOT_A_SLIDE = re.compile(r"(?<![a-z])(macro|label|thumb(nail)?|overview|preview|barcode)(image)?(?![a-z])")
_COARSER = 4.0  # pixel size relative to the finest image, beyond which an image is an overview
_RIVAL = 0.25  # number of pixels relative to the largest image, from which an image may also be the slide


@dataclass(frozen=True)
class TiffImage:
    """One image of a file.

    Attributes:
        series: Series of tifffile, with its levels.
        name: Its name in the file, or empty.
        mpp: Micrometers per pixel (x, y) of the finest level, from the file; None if the file does not say.
    """

    series: Any
    name: str
    mpp: Pair | None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the finest level in pixels."""
        page = first_page(self.series.levels[0])
        return page.imagewidth, page.imagelength

    @property
    def pixels(self) -> int:
        """Number of pixels of the finest level."""
        return self.size[0] * self.size[1]


def images_of(path: Path, file: TiffFile) -> list[TiffImage]:
    """Return the images of a file, in order; ReadError if one that may be the slide cannot be read."""
    pages = [first_page(series.levels[0]) for series in file.series]
    if file.is_ome and all(series.kind == "ome" for series in file.series):  # not with damaged XML
        names = [series.name for series in file.series]
        declared = _ome_images(file.ome_metadata or "")
        if _count_slides(name for name, _, _ in declared) > _count_slides(names):
            raise ReadError(
                "not every image of the OME-TIFF can be read, so the slide may be missing; save the slide as"
                " a separate file",
                "unsupported",
                path=path,
            )
        resolutions = _ome_resolutions(declared, [page.index for page in pages])
    else:
        names = [series.name or page.description[:200] for series, page in zip(file.series, pages, strict=True)]
        resolutions = [_tag_mpp(page) for page in pages]
    return [TiffImage(*facts) for facts in zip(file.series, names, resolutions, strict=True)]


def the_slide(path: Path, images: Sequence[TiffImage]) -> tuple[TiffImage, tuple[str, ...]]:
    """Choose the image that is the slide, and return what was assumed.

    It is the largest one that is not named macro, label or thumbnail and is not much coarser than the finest.

    Raises:
        ReadError: Several images may be the slide.
    """
    if not images:
        raise ReadError("a TIFF without an image; copy it again", path=path)
    candidates = [image for image in images if _count_slides([image.name])] or list(images)
    finest = min((image.mpp[0] for image in candidates if image.mpp), default=0.0)
    fine = [image for image in candidates if image.mpp is None or image.mpp[0] <= _COARSER * finest]
    largest = max(fine, key=lambda image: image.pixels)
    rivals = [image for image in fine if image.pixels >= _RIVAL * largest.pixels]
    if len(rivals) > 1:
        sizes = ", ".join("{} x {}".format(*image.size) for image in rivals[:4])
        raise ReadError(
            f"{len(rivals)} images that may be the slide ({sizes}); save each as a separate file",
            "unsupported",
            path=path,
        )
    return largest, ("several images in the file: the largest is used",) if len(candidates) > 1 else ()


def _count_slides(names: Iterable[str]) -> int:
    return sum(not _NOT_A_SLIDE.search(name.lower()) for name in names)


def first_page(level: Any) -> Any:
    """Return the page that contains a level."""
    return level.pages[0].aspage()


def _tag_mpp(page: Any) -> Pair | None:
    """Return the resolution from the tags, or from the description of an SVS."""
    if page.is_svs and (match := re.search(r"\bMPP\s*=\s*([0-9.]+)", page.description)):
        return plausible(match[1], match[1])
    if page.resolutionunit not in (RESUNIT.CENTIMETER, RESUNIT.INCH):
        return None
    try:
        per_um = page.get_resolution(RESUNIT.MICROMETER)
    except (ArithmeticError, TypeError, ValueError):
        return None
    return plausible(1 / per_um[0], 1 / per_um[1]) if all(per_um) else None


def _ome_images(text: str) -> list[tuple[str, set[int], Pair | None]]:
    """Return name, pages and resolution of each image in OME-XML."""
    images = []
    for image in ElementTree.fromstring(text).iterfind("{*}Image"):
        for pixels in image.iterfind("{*}Pixels"):
            pages = {int(data.get("IFD", 0)) for data in pixels.iterfind("{*}TiffData")}
            mpp = plausible(_micrometers(pixels, "X"), _micrometers(pixels, "Y"))
            images.append((image.get("Name", ""), pages, mpp))
    return images


def _ome_resolutions(declared: list[tuple[str, set[int], Pair | None]], first_pages: list[int]) -> list[Pair | None]:
    """Return the resolution of each image by its first page; tifffile skips images that it cannot read."""
    resolutions: list[Pair | None] = []
    for number, page in enumerate(first_pages):
        matching = [mpp for _, pages, mpp in declared if page in pages]
        in_order = declared[number][2] if len(declared) == len(first_pages) else None
        resolutions.append(matching[0] if len(matching) == 1 else in_order)
    return resolutions


def _micrometers(pixels: ElementTree.Element, axis: str) -> float | None:
    unit = unicodedata.normalize("NFKC", pixels.get(f"PhysicalSize{axis}Unit", "μm")).strip()
    factor = _MICROMETERS.get(unit) or _MICROMETERS.get(unit.lower().rstrip("s").replace("metre", "meter"))
    try:
        return float(pixels.get(f"PhysicalSize{axis}", "nan")) * factor if factor else None
    except ValueError:
        return None
