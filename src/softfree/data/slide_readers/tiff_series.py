"""Which image of a TIFF is the slide, and how large its pixels are."""

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

# Micrometers in the units of OME-XML, after NFKC. "pixel" and "reference frame" are none.
_PREFIXES = {
    **{"Y": 24, "Z": 21, "E": 18, "P": 15, "T": 12, "G": 9, "M": 6, "k": 3, "h": 2, "da": 1, "": 0},
    **{"d": -1, "c": -2, "m": -3, "μ": -6, "u": -6, "n": -9, "p": -12, "f": -15, "a": -18, "z": -21, "y": -24},
}
_MICROMETERS = {f"{prefix}m": 10.0 ** (power + 6) for prefix, power in _PREFIXES.items()} | {
    **{"Å": 1e-4, "thou": 25.4, "li": 25_400 / 12, "in": 25_400.0, "ft": 304_800.0, "yd": 914_400.0},
    **{"mi": 1.609344e9, "pt": 25_400 / 72, "inch": 25_400.0, "micron": 1.0, "micrometer": 1.0, "millimeter": 1e3},
    **{"nanometer": 1e-3, "centimeter": 1e4, "meter": 1e6, "angstrom": 1e-4},
}
_BESIDE = re.compile(r"(?<![a-z])(macro|label|thumb(nail)?|overview|preview|barcode)(image)?(?![a-z])")
_COARSER = 4.0  # times the finest resolution of a file: an overview
_LIKE = 0.25  # of the pixels of the largest image: no label or overview, but as much a slide as that one


@dataclass(frozen=True)
class TiffImage:
    """One image of a file.

    Attributes:
        series: Of tifffile, with its levels.
        name: As the file says it, or empty.
        mpp: Micrometers per pixel (x, y) of the finest level, as the file says; None where it does not.
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
        """Their number."""
        return self.size[0] * self.size[1]


def images_of(path: Path, file: TiffFile) -> list[TiffImage]:
    """Return the images of a file, in its order; ReadError when one that may be the slide cannot be read."""
    pages = [first_page(series.levels[0]) for series in file.series]
    if file.is_ome and all(series.kind == "ome" for series in file.series):  # not with damaged XML
        names = [series.name for series in file.series]
        told = _ome_images(file.ome_metadata or "")
        if _count_slides(name for name, _, _ in told) > _count_slides(names):
            raise ReadError(
                f"{path}: an OME-TIFF of which not every image can be read, so that the slide may be missing; save it"
                " as a file of its own",
                "unsupported",
            )
        resolutions = _ome_resolutions(told, [page.index for page in pages])
    else:
        names = [series.name or page.description[:200] for series, page in zip(file.series, pages, strict=True)]
        resolutions = [_tag_mpp(page) for page in pages]
    return [TiffImage(*one) for one in zip(file.series, names, resolutions, strict=True)]


def the_slide(path: Path, images: Sequence[TiffImage]) -> tuple[TiffImage, tuple[str, ...]]:
    """Choose the image that is the slide, and say what was assumed.

    That is the largest one that is not named a macro, label or thumbnail and is not much coarser than the finest.

    Raises:
        ReadError: Several may be it.
    """
    if not images:
        raise ReadError(f"{path}: a TIFF without an image; fetch it again")
    left = [image for image in images if _count_slides([image.name])] or list(images)
    finest = min((image.mpp[0] for image in left if image.mpp), default=0.0)
    fine = [image for image in left if image.mpp is None or image.mpp[0] <= _COARSER * finest]
    largest = max(fine, key=lambda image: image.pixels)
    rivals = [image for image in fine if image.pixels >= _LIKE * largest.pixels]
    if len(rivals) > 1:
        sizes = ", ".join("{} x {}".format(*image.size) for image in rivals[:4])
        raise ReadError(
            f"{path}: {len(rivals)} images that may each be the slide ({sizes}); save each as a file of its own",
            "unsupported",
        )
    return largest, ("several images in the file: the largest is taken",) if len(left) > 1 else ()


def _count_slides(names: Iterable[str]) -> int:
    return sum(not _BESIDE.search(name.lower()) for name in names)


def first_page(level: Any) -> Any:
    """Return the page that holds a level."""
    return level.pages[0].aspage()


def _tag_mpp(page: Any) -> Pair | None:
    """Return the resolution of the tags, or of the description in an SVS."""
    if page.is_svs and (found := re.search(r"\bMPP\s*=\s*([0-9.]+)", page.description)):
        return plausible(found[1], found[1])
    if page.resolutionunit not in (RESUNIT.CENTIMETER, RESUNIT.INCH):
        return None
    try:
        per_um = page.get_resolution(RESUNIT.MICROMETER)
    except (ArithmeticError, TypeError, ValueError):
        return None
    return plausible(1 / per_um[0], 1 / per_um[1]) if all(per_um) else None


def _ome_images(text: str) -> list[tuple[str, set[int], Pair | None]]:
    """Return of each image of OME-XML its name, the pages that it names, and its resolution."""
    found = []
    for image in ElementTree.fromstring(text).iterfind("{*}Image"):
        for pixels in image.iterfind("{*}Pixels"):
            pages = {int(data.get("IFD", 0)) for data in pixels.iterfind("{*}TiffData")}
            mpp = plausible(_micrometers(pixels, "X"), _micrometers(pixels, "Y"))
            found.append((image.get("Name", ""), pages, mpp))
    return found


def _ome_resolutions(told: list[tuple[str, set[int], Pair | None]], first_pages: list[int]) -> list[Pair | None]:
    """Return the resolution of each image by its first page; tifffile leaves out images that it cannot read."""
    found: list[Pair | None] = []
    for number, page in enumerate(first_pages):
        matching = [mpp for _, pages, mpp in told if page in pages]
        in_order = told[number][2] if len(told) == len(first_pages) else None
        found.append(matching[0] if len(matching) == 1 else in_order)
    return found


def _micrometers(pixels: ElementTree.Element, axis: str) -> float | None:
    unit = unicodedata.normalize("NFKC", pixels.get(f"PhysicalSize{axis}Unit", "μm")).strip()
    factor = _MICROMETERS.get(unit) or _MICROMETERS.get(unit.lower().rstrip("s").replace("metre", "meter"))
    try:
        return float(pixels.get(f"PhysicalSize{axis}", "nan")) * factor if factor else None
    except ValueError:
        return None
