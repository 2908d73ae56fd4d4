"""What an audit keeps of a volume, a whole slide or a file of tile features."""

from __future__ import annotations

import os
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from softfree.data.audit.probes.probe import Probe, digest_file
from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.nifti_file import is_nifti_file
from softfree_runtime.sources.joined_source import split_source

SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".isyntax")
AS_SLIDE = "not to be read as an image, judged as a slide"
# Micrometers per pixel of the small image by which two slides are told to be the same.
COARSE = 64.0


def probe_kind(source: str, frame: int | None) -> Probe | None:
    """Read a volume, a slide or tile features and keep their facts; None for a file that is none of them.

    A source with a resolution, as :func:`softfree_runtime.sources.joined_source.join_source` writes it, is a slide.

    Raises:
        ReadError: it cannot be read.
    """
    file, mpp = split_source(source)
    path, name = Path(file), file.lower()
    if name.endswith(".h5"):
        return _bag(path, mpp)
    if mpp is not None or name.endswith(SLIDES):
        return _slide(path, mpp)
    return _volume(path, frame) if os.path.isdir(path) or is_nifti_file(path) else None


def probe_other_slide(file: str) -> Probe | None:
    """Read what is no image as a slide, whatever its name; None for what is neither, or of one resolution only."""
    try:
        found = _slide(Path(file), None, least_levels=2)
    except (ReadError, ModuleNotFoundError):
        return None
    return replace(found, corrections=(*found.corrections, AS_SLIDE))


def _volume(path: Path, frame: int | None) -> Probe:
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
    from softfree.data.modalities.tissue import find_tissue
    from softfree.data.slide_readers.slide import open_slide

    with open_slide(path, mpp=mpp) as slide:
        if slide.levels < least_levels:
            raise ReadError(f"{path}: a slide of one resolution", "unsupported")
        find_tissue(slide)  # a slide without any is refused
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
