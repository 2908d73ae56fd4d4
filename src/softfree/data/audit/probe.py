"""What an audit keeps of one sample once its pixels are released."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from softfree.core.progress import tracked
from softfree.data.audit.near_duplicates import MAX_IMAGES, thumbnail
from softfree.data.table import frame_numbers
from softfree_runtime.core.errors import ReadError
from softfree_runtime.core.extras import missing_library
from softfree_runtime.readers import DecodedImage, read_image
from softfree_runtime.readers.nifti_file import is_nifti_file
from softfree_runtime.sources.sample_source import SampleSource, file_of

BLOCK = 1 << 20
"""Bytes or values that are hashed at once."""
_importing = threading.Lock()  # a module whose import fails in one thread is half a module to another


@dataclass(frozen=True)
class Probe:
    """Facts about one sample; all but the first two are unset if it cannot be read.

    Attributes:
        status: ``ok``, or why it cannot be read (see :class:`softfree_runtime.core.errors.ReadError`).
        reason: The reason, for people.
        file_size: Bytes.
        height: Rows; for tile features the number of tiles.
        width: Columns; for tile features the number of features.
        channels: 1 or 3; any number for volumes.
        stored: Content of the file, such as ``8-bit gray``.
        spacing: Millimeters from (slice to slice,) row to row and column to column, where the file says so.
        blank: Whether all pixels are the same.
        pixel_digest: Digest of the decoded values, for any file format; the same for gray stored as RGB.
        file_digest: Digest of the file.
        corrections: What the reader assumed or corrected, in words.
        thumbnail: Of an image, see :func:`softfree.data.audit.near_duplicates.thumbnail`; None for other kinds.
    """

    status: str
    reason: str
    file_size: int = 0
    height: int = 0
    width: int = 0
    channels: int = 0
    stored: str = ""
    spacing: tuple[float, ...] | None = None
    blank: bool = False
    pixel_digest: bytes = b""
    file_digest: bytes = b""
    corrections: tuple[str, ...] = ()
    thumbnail: np.ndarray | None = field(default=None, compare=False, repr=False)


def digest_file(path: Path) -> tuple[int, bytes]:
    """Return size and digest of a file."""
    digest, size = blake2b(digest_size=16), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
    return size, digest.digest()


def probe_image(file: str, frame: int | None) -> Probe:
    """Read an image and return its facts.

    Raises:
        ReadError: It cannot be read.
    """
    image = read_image(file, frame=frame)
    size, file_digest = digest_file(Path(file))
    height, width, channels = image.pixels.shape
    return Probe(
        "ok",
        "",
        size,
        height,
        width,
        channels,
        image.stored,
        image.spacing,
        _is_blank(image),
        _digest_pixels(image),
        file_digest,
        image.corrections,
        thumbnail(image.pixels, image.low, image.high),
    )


def _is_blank(image: DecodedImage) -> bool:
    """Return whether a model sees one value only, after clipping to black and white."""
    extremes = np.stack([image.pixels.min(keepdims=True), image.pixels.max(keepdims=True)])
    shown = replace(image, pixels=extremes).unit()
    return bool(shown.min() == shown.max())


def _digest_pixels(image: DecodedImage) -> bytes:
    """Hash shape and values, one block of rows at a time."""
    pixels = image.pixels[..., :1] if image.stored.endswith("(gray)") else image.pixels
    kind = _narrowest(pixels)
    digest = blake2b(str(pixels.shape).encode(), digest_size=16)
    step = max(1, BLOCK // max(1, pixels[0].size))
    for start in range(0, len(pixels), step):
        digest.update(pixels[start : start + step].astype(kind).tobytes())
    return digest.digest()


def _narrowest(pixels: np.ndarray) -> str:
    """Choose a type by the values alone, so that equal values have equal bytes regardless of the stored type."""
    whole = pixels.dtype.kind in "ui" or bool((pixels == np.rint(pixels)).all())
    for kind, limit in (("u1", 1 << 8), ("<u2", 1 << 16)):
        if whole and pixels.min() >= 0 and pixels.max() < limit:
            return kind
    return "<f4"


SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".isyntax")
AS_SLIDE = "not to be read as an image, judged as a slide"
# Micrometers per pixel of the thumbnail by which equal slides are found.
COARSE = 64.0


def kind_of_source(source: SampleSource) -> Literal["image", "volume", "slide", "bag"]:
    """Tell what a sample is by its name, and a volume by its content.

    A file for which the table gives a resolution is a slide; any file that is nothing else counts as an image.
    """
    if isinstance(source, tuple):
        return "bag"
    file = file_of(source)
    name = file.path.lower()
    if name.endswith(".h5"):
        return "bag"
    if file.mpp is not None or name.endswith(SLIDES):
        return "slide"
    return "volume" if os.path.isdir(file.path) or is_nifti_file(Path(file.path)) else "image"


def probe_kind(source: SampleSource, frame: int | None) -> Probe | None:
    """Read a volume, a slide or tile features and return its facts; None for any other file.

    Raises:
        ReadError: It cannot be read.
    """
    file, kind = file_of(source), kind_of_source(source)
    if kind == "bag":
        return _bag(Path(file.path), file.mpp)
    if kind == "slide":
        return _slide(Path(file.path), file.mpp)
    return _volume(Path(file.path), frame) if kind == "volume" else None


def probe_other_slide(file: str) -> Probe | None:
    """Try to read a file as a slide, whatever its name; None if it is not a slide with several resolutions."""
    try:
        slide = _slide(Path(file), None, least_levels=2)
    except (ReadError, ModuleNotFoundError):
        return None
    return replace(slide, corrections=(*slide.corrections, AS_SLIDE))


def _volume(path: Path, frame: int | None) -> Probe:
    with _importing:
        from softfree_runtime.sources.volume_files import read_volume

    volume = read_volume(path, frame)
    voxels = volume.voxels
    channels, depth, height, width = voxels.shape
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    sizes, digests = zip(*map(digest_file, files), strict=True)
    return Probe(
        "ok",
        "",
        file_size=sum(sizes),
        height=height,
        width=width,
        channels=channels,
        stored=f"{volume.stored}, {depth} slices",
        spacing=volume.spacing,
        blank=bool(voxels.min() == voxels.max()),
        pixel_digest=_digest(voxels.astype(np.float32)),
        file_digest=_join(digests),
        corrections=volume.corrections,
    )


def _slide(path: Path, mpp: float | None, least_levels: int = 1) -> Probe:
    with _importing:
        from softfree.data.modalities.tissue import find_tissue
        from softfree.data.slide_readers.slide import open_slide

    with open_slide(path, mpp=mpp) as slide:
        if slide.levels < least_levels:
            raise ReadError("a slide of one resolution", "unsupported", path=path)
        find_tissue(slide)  # a slide without tissue is refused
        width, height = slide.size
        small, spacing = slide.thumbnail(COARSE), tuple(side / 1000 for side in slide.mpp)
        corrections = slide.corrections
    size, digest = digest_file(path) if path.is_file() else (0, b"")
    return Probe(
        "ok",
        "",
        file_size=size,
        height=height,
        width=width,
        channels=3,
        stored="whole slide",
        spacing=spacing[::-1],
        pixel_digest=_digest(small),
        file_digest=digest,
        corrections=corrections,
    )


def _bag(path: Path, mpp: float | None) -> Probe:
    with _importing:
        from softfree.data.modalities.feature_files import read_features

    tiles = read_features(path, mpp=mpp)
    number, width = tiles.features.shape
    size, digest = digest_file(path)
    return Probe(
        "ok",
        "",
        file_size=size,
        height=number,
        width=width,
        channels=1,
        stored=f"features of {tiles.encoder or 'an encoder without a name'}, {width} each",
        blank=bool((tiles.features == tiles.features[0]).all()) and number > 1,
        pixel_digest=_digest(np.asarray(tiles.features)),
        file_digest=digest,
        corrections=tiles.corrections,
    )


def _digest(values: np.ndarray) -> bytes:
    digest = blake2b(str(values.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(values).tobytes())
    return digest.digest()


def _join(digests: tuple[bytes, ...]) -> bytes:
    return digests[0] if len(digests) == 1 else blake2b(b"".join(digests), digest_size=16).digest()


__all__ = ["Probe", "probe", "probe_all"]

_CHUNK = 256


def probe(source: SampleSource, frame: int | None) -> Probe:
    """Read one sample of any kind and return its facts."""
    file = file_of(source).path
    try:
        return probe_kind(source, frame) or probe_image(file, frame)
    except ReadError as error:
        slide = probe_other_slide(file) if frame is None and error.status in ("unsupported", "too_large") else None
        return slide or Probe(error.status, str(error))
    except ModuleNotFoundError as error:
        if (reason := missing_library(error)) is None:
            raise
        return Probe("unsupported", f"{file}: {reason}")
    except OSError as error:  # removed since it was read
        return Probe("missing", f"{file}: {error.strerror}")


def probe_all(frame: pd.DataFrame, *, num_workers: int, progress: bool) -> list[Probe]:
    """Probe the sample of every row, with ``num_workers`` additional threads."""
    files, frames = frame["file"].tolist(), frame_numbers(frame)

    def results() -> Iterator[Probe]:
        with ThreadPoolExecutor(num_workers) if num_workers > 0 else nullcontext() as pool:
            apply = map if pool is None else pool.map
            for start in range(0, len(files), _CHUNK):
                for facts in apply(probe, files[start : start + _CHUNK], frames[start : start + _CHUNK]):
                    yield facts if len(files) <= MAX_IMAGES else replace(facts, thumbnail=None)

    shown = tracked(results(), "Reading samples", total=len(files), shown=progress)
    return list(shown)
