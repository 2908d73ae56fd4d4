"""Slides."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter
from tests.corpus.case import Made, case

_SMOOTH = gaussian_filter(np.random.default_rng(0).normal(size=(200, 300, 3)), (8, 8, 0))
TISSUE = ((_SMOOTH - _SMOOTH.min()) / np.ptp(_SMOOTH) * 255).astype(np.uint8)
MACRO = np.full((60, 90, 3), 9, np.uint8)
SIZE = (300, 200)
SCALE: dict[str, Any] = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
TILED: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
RIGHT = {"size": SIZE, "mpp": np.array([0.5, 0.5]), "pixels": TISSUE}


def tiff(folder: Path, *pages: np.ndarray, name: str = "a.tiff", **options: Any) -> Path:
    with tifffile.TiffWriter(folder / name) as file:
        for number, pixels in enumerate(pages):
            file.write(pixels, **(TILED | SCALE | {"subfiletype": int(number > 0)} | options))
    return folder / name


# --- which image is the slide

Images = list[tuple[np.ndarray, dict[str, Any]]]


def ome(folder: Path, images: Images) -> Path:
    with tifffile.TiffWriter(folder / "a.ome.tiff", ome=True) as file:
        for pixels, metadata in images:
            file.write(pixels, tile=(64, 64), photometric="rgb", metadata={"axes": "YXS"} | metadata)
    return folder / "a.ome.tiff"


def microns(size: float, **more: Any) -> dict[str, Any]:
    return {"PhysicalSizeX": size, "PhysicalSizeY": size} | more


LARGE_LABEL = np.full((400, 400, 3), 9, np.uint8)
SCAN = (TISSUE, microns(0.5))

for name, images in {
    "one image": [SCAN],
    "a first image named macro": [(MACRO, microns(20, Name="macro")), SCAN],
    "a second image named label, with more pixels": [SCAN, (LARGE_LABEL, microns(0.5, Name="Label Image"))],
}.items():

    @case("OME-TIFF", name, "slide", "read")
    def by_name(folder: Path, images: Images = images) -> Made:
        return Made(ome(folder, images), RIGHT)


for name, images in {
    "a smaller first image": [(MACRO, {}), SCAN],
    "a coarser first image with more pixels": [(LARGE_LABEL, microns(20)), SCAN],
}.items():

    @case("OME-TIFF", name, "slide", "corrected", says="the largest is used")
    def by_size(folder: Path, images: Images = images) -> Made:
        return Made(ome(folder, images), RIGHT)


@case("OME-TIFF", "two scans", "slide", "refused", status="unsupported", says="may be the slide")
def two_scans(folder: Path) -> Made:
    return Made(ome(folder, [SCAN, (TISSUE[:, :250], microns(0.5))]))


@case("OME-TIFF", "only the macro is readable", "slide", "refused", status="unsupported", says="not every image")
def only_the_macro(folder: Path) -> Made:
    path = ome(folder, [(MACRO, microns(20, Name="macro")), SCAN])
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        put(content, file.pages[1].tags[256], 299)
    path.write_bytes(content)
    return Made(path)


# --- units

for unit, size in {
    "µm": 0.5, "μm": 0.5, "nm": 500, "pm": 5e5, "Å": 5000, "\u212b": 5000, "mm": 5e-4, "cm": 5e-5, "dm": 5e-6,
    "m": 5e-7, "in": 0.5 / 25_400, "inch": 0.5 / 25_400, "thou": 0.5 / 25.4, "pt": 0.5 * 72 / 25_400,
}.items():  # fmt: skip

    @case("OME-TIFF", f"physical sizes in {unit}", "slide", "read")
    def in_unit(folder: Path, unit: str = unit, size: float = size) -> Made:
        sizes = {"PhysicalSizeX": size, "PhysicalSizeXUnit": unit, "PhysicalSizeY": size, "PhysicalSizeYUnit": unit}
        return Made(ome(folder, [(TISSUE, sizes)]), RIGHT)


@case("OME-TIFF", "a different unit and resolution on each axis", "slide", "read")
def by_axis(folder: Path) -> Made:
    sizes = {"PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 2.5e-4, "PhysicalSizeYUnit": "mm"}
    return Made(ome(folder, [(TISSUE, sizes)]), {"size": SIZE, "mpp": np.array([0.5, 0.25])})


for name, sizes in {
    "sizes in pixels": microns(0.5, PhysicalSizeXUnit="pixel", PhysicalSizeYUnit="pixel"),
    "sizes in a reference frame": microns(0.5, PhysicalSizeXUnit="reference frame"),
    "sizes in an unknown unit": microns(0.5, PhysicalSizeYUnit="furlong"),
    "a physical size for one axis only": {"PhysicalSizeX": 0.5},
    "a physical size of 0": microns(0),
    "implausible physical sizes": microns(350),
    "physical sizes a hundredfold apart": {"PhysicalSizeX": 0.25, "PhysicalSizeY": 25},
}.items():

    @case("OME-TIFF", name, "slide", "refused", status="no_resolution", says="column mpp")
    def without_unit(folder: Path, sizes: dict[str, Any] = sizes) -> Made:
        return Made(ome(folder, [(TISSUE, sizes)]))


# --- codecs and colors

for codec in ("webp", "jpeg2000", "jpegxl", "zstd", "lzma", "zlib"):

    @case("Pyramid TIFF", f"compressed with {codec}", "slide", "read")
    def coded(folder: Path, codec: str = codec) -> Made:
        return Made(tiff(folder, TISSUE, TISSUE[::2, ::2], compression=codec), RIGHT)


@case("Pyramid TIFF", "a first page that is a thumbnail", "slide", "corrected", says="the largest is used")
def thumbnail_first(folder: Path) -> Made:
    return Made(tiff(folder, TISSUE[::4, ::4], TISSUE, subfiletype=0), RIGHT)


for kind in (np.uint16, np.float32):

    @case("Pyramid TIFF", kind.__name__, "slide", "refused", status="unsupported", says="8 bits")
    def deep(folder: Path, kind: type = kind) -> Made:
        return Made(tiff(folder, TISSUE.astype(kind)))


for turned in (2, 6):

    @case("Pyramid TIFF", f"orientation {turned}", "slide", "refused", status="unsupported", says="upper left corner")
    def oriented(folder: Path, turned: int = turned) -> Made:
        return Made(tiff(folder, TISSUE, extratags=[(274, "H", 1, turned, True)]))


def with_alpha(folder: Path, pixels: np.ndarray, meaning: str, tile: tuple[int, int] | None) -> Path:
    opaque = np.full((*SIZE[::-1], 1), 255, np.uint8)
    opaque[:, 100:] = 51
    whole = np.concatenate([np.where(opaque < 255, pixels // 5, pixels), opaque], axis=2).astype(np.uint8)
    return tiff(folder, whole, extrasamples=[meaning], tile=tile)


ON_WHITE = TISSUE.copy()
ON_WHITE[:, 100:] = TISSUE[:, 100:] // 5 + 204

for tile in ((64, 64), None):
    parts = "tiles" if tile else "strips"

    @case("Pyramid TIFF", f"premultiplied alpha, {parts}", "slide", "read")
    def premultiplied(folder: Path, tile: tuple[int, int] | None = tile) -> Made:
        right = {"size": SIZE, "pixels": ON_WHITE}
        return Made(with_alpha(folder, TISSUE, "assocalpha", tile), right, tolerance=2)

    @case("Pyramid TIFF", f"an unspecified fourth channel, {parts}", "slide", "corrected", says="taken as alpha")
    def unsaid(folder: Path, tile: tuple[int, int] | None = tile) -> Made:
        right = {"size": SIZE, "pixels": ON_WHITE}
        return Made(with_alpha(folder, TISSUE, "unspecified", tile), right, tolerance=2)

    @case("Pyramid TIFF", f"YCbCr that is not JPEG, {parts}", "slide", "read")
    def ycbcr(folder: Path, tile: tuple[int, int] | None = tile) -> Made:
        red, green, blue = np.moveaxis(TISSUE.astype(float), -1, 0)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        chroma = (blue - luma) / 1.772 + 128, (red - luma) / 1.402 + 128
        pixels = np.stack([luma, *chroma], axis=-1).round().clip(0, 255).astype(np.uint8)
        return Made(tiff(folder, pixels, photometric="ycbcr", compression="zlib", tile=tile), RIGHT, tolerance=3)


# --- resolution


@case("Pyramid TIFF", "resolution per inch", "slide", "read")
def by_inch(folder: Path) -> Made:
    return Made(tiff(folder, TISSUE, resolution=(50_800, 50_800), resolutionunit="INCH"), RIGHT)


@case("Pyramid TIFF", "pixels that are not square", "slide", "read")
def not_square(folder: Path) -> Made:
    made = tiff(folder, TISSUE, resolution=(20_000, 40_000))
    return Made(made, {"size": SIZE, "mpp": np.array([0.5, 0.25])})


for name, scale in {
    "the resolution of a screen": {"resolution": (72, 72), "resolutionunit": "INCH"},
    "a resolution without a unit": {"resolution": (20_000, 20_000), "resolutionunit": "NONE"},
    "a resolution of 0": {"resolution": (0, 0), "resolutionunit": "CENTIMETER"},
}.items():

    @case("Pyramid TIFF", name, "slide", "refused", status="no_resolution", says="column mpp")
    def no_resolution(folder: Path, scale: dict[str, Any] = scale) -> Made:
        return Made(tiff(folder, TISSUE, **scale))


def svs(folder: Path, magnification: str, mpp: str, **options: Any) -> Path:
    text = f"Aperio Image Library v10.0.51\r\n300x200 (64x64) J2K|AppMag = {magnification}|MPP = {mpp}"
    return tiff(folder, TISSUE, name="a.svs", description=text, resolution=(1, 1), resolutionunit="NONE", **options)


@case("SVS", "magnification and resolution that agree", "slide", "read")
def sound_svs(folder: Path) -> Made:
    return Made(svs(folder, "20", "0.5"), RIGHT)


@case("SVS", "magnification and resolution that contradict each other", "slide", "corrected", says="magnification")
def other_magnification(folder: Path) -> Made:
    return Made(svs(folder, "40", "5"), {"size": SIZE, "mpp": np.array([5.0, 5.0])})


@case("SVS", "a codec that OpenSlide does not support", "slide", "read")
def svs_of_another_codec(folder: Path) -> Made:
    return Made(svs(folder, "20", "0.5", compression="webp"), RIGHT)


for mpp in ("", "unknown", "0", "-0.5", "nan", "5000"):

    @case("SVS", f"a resolution of {mpp or 'nothing'}", "slide", "refused", status="no_resolution", says="column mpp")
    def svs_without_resolution(folder: Path, mpp: str = mpp) -> Made:
        return Made(svs(folder, "20", mpp))


@case("Pyramid TIFF", "an implausible size", "slide", "refused", status="no_resolution", says="more than any slide")
def huge(folder: Path) -> Made:
    def change(content: bytearray, file: tifffile.TiffFile) -> None:
        put(content, file.pages[0].tags[256], 40_000)
        put(content, file.pages[0].tags[322], 40_000 // 5 // 16 * 16)

    return Made(edited(folder, change), arguments={"mpp": 20.0})


@case("Pyramid TIFF", "an unknown compression", "slide", "refused", status="unsupported", says="no decoder")
def unknown_codec(folder: Path) -> Made:
    return Made(edited(folder, lambda content, file: put(content, file.pages[0].tags[259], 12345)))


# --- damage


def edited(folder: Path, change: Callable[[bytearray, tifffile.TiffFile], None], *pages: np.ndarray) -> Path:
    path = tiff(folder, *(pages or (TISSUE, TISSUE[::2, ::2])), compression="zlib")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        change(content, file)
    path.write_bytes(content)
    return path


def put(content: bytearray, tag: Any, value: int, index: int = 0) -> None:
    """Overwrite one number of a tag."""
    code = {3: "<H", 4: "<I"}[tag.dtype]
    struct.pack_into(code, content, tag.valueoffset + index * struct.calcsize(code), value)


for part in (0.1, 0.3, 0.5, 0.7, 0.9, 0.98):

    @case("Pyramid TIFF", f"truncated at {part:.0%}", "slide", "refused", says="cut short")
    def cut(folder: Path, part: float = part) -> Made:
        path = tiff(folder, TISSUE, TISSUE[::2, ::2], TISSUE[::4, ::4], compression="zlib")
        content = path.read_bytes()
        path.write_bytes(content[: int(part * len(content))])
        return Made(path)


@case("Pyramid TIFF", "a tile beyond the end", "slide", "refused", says="cut short")
def tile_beyond(folder: Path) -> Made:
    return Made(edited(folder, lambda content, file: put(content, file.pages[1].tags[324], len(content), 2)))


@case("Pyramid TIFF", "a tile longer than the rest of the file", "slide", "refused", says="cut short")
def tile_too_long(folder: Path) -> Made:
    return Made(edited(folder, lambda content, file: put(content, file.pages[0].tags[325], len(content) - 9, 3)))


@case("Pyramid TIFF", "a tile with offset 0", "slide", "refused", says="tiles inside its header")
def tile_with_offset_zero(folder: Path) -> Made:
    return Made(edited(folder, lambda content, file: put(content, file.pages[0].tags[324], 0, 3)))


@case("Pyramid TIFF", "a next directory beyond the end", "slide", "refused", says="cut short")
def chain_beyond(folder: Path) -> Made:
    def change(content: bytearray, file: tifffile.TiffFile) -> None:
        struct.pack_into("<I", content, file.pages.next_page_offset, len(content) + 1000)

    return Made(edited(folder, change))


@case("Pyramid TIFF", "tiles shorter than their pixels", "slide", "refused", says="shorter than their pixels")
def short_tiles(folder: Path) -> Made:
    return Made(edited(folder, lambda content, file: put(content, file.pages[0].tags[259], 1)))


@case("Pyramid TIFF", "more tiles than the image needs", "slide", "corrected", says="more tiles than the size")
def too_many_tiles(folder: Path) -> Made:
    right = RIGHT | {"size": (300, 190), "pixels": TISSUE[:190]}
    return Made(edited(folder, lambda content, file: put(content, file.pages[0].tags[257], 190), TISSUE), right)


@case("Pyramid TIFF", "without a width", "slide", "refused", says="without a width or a height")
def no_width(folder: Path) -> Made:
    def change(content: bytearray, file: tifffile.TiffFile) -> None:
        struct.pack_into("<H", content, file.pages[0].tags[256].offset, 65_000)

    return Made(edited(folder, change))


@case("Pyramid TIFF", "16-gigabyte tiles", "slide", "refused", says="tiles of")
def huge_tiles(folder: Path) -> Made:
    def change(content: bytearray, file: tifffile.TiffFile) -> None:
        for tag in (322, 323):
            put(content, file.pages[0].tags[tag], 65_520)

    return Made(edited(folder, change, TISSUE))


@case("Pyramid TIFF", "no tile stored", "slide", "refused", says="without any stored tile")
def no_tile(folder: Path) -> Made:
    def change(content: bytearray, file: tifffile.TiffFile) -> None:
        for tag in (324, 325):
            for index in range(len(file.pages[0].dataoffsets)):
                put(content, file.pages[0].tags[tag], 0, index)

    return Made(edited(folder, change))


def _leave_out(content: bytearray, file: tifffile.TiffFile) -> None:
    for tag in (324, 325):
        put(content, file.pages[0].tags[tag], 0, 7)


@case("Pyramid TIFF", "background tiles that are not stored", "slide", "read")
def sparse(folder: Path) -> Made:
    white = TISSUE.copy()
    white[64:128, 128:192] = 255
    path = ome(folder, [(TISSUE, microns(0.5))])
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        _leave_out(content, file)
    path.write_bytes(content)
    return Made(path, RIGHT | {"pixels": white})


@case("Pyramid TIFF", "background strips that are not stored, between others", "slide", "read")
def sparse_strips(folder: Path) -> Made:
    white = TISSUE.copy()
    white[64:128] = 255
    path = tiff(folder, TISSUE, tile=None, rowsperstrip=64)
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        for tag in (273, 279):
            put(content, file.pages[0].tags[tag], 0, 1)  # type: ignore[union-attr]
    path.write_bytes(content)
    return Made(path, RIGHT | {"pixels": white})


for tag, name in ((256, "width"), (257, "height")):

    @case("Pyramid TIFF", f"a {name} of 0", "slide", "refused", says="without a width or a height")
    def no_size(folder: Path, tag: int = tag) -> Made:
        return Made(edited(folder, lambda content, file: put(content, file.pages[0].tags[tag], 0)))

    @case("Pyramid TIFF", f"a level whose {name} is 0", "slide", "refused", says="without a width or a height")
    def no_size_of_level(folder: Path, tag: int = tag) -> Made:
        return Made(edited(folder, lambda content, file: put(content, file.pages[1].tags[tag], 0)))


@case("Pyramid TIFF", "a level with another aspect ratio", "slide", "corrected", says="other proportions")
def other_proportions(folder: Path) -> Made:
    return Made(tiff(folder, TISSUE, TISSUE[::2, ::4], compression="zlib"), RIGHT)
