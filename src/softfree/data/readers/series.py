"""DICOM series as volumes: one file a slice in a folder, or one enhanced file of many frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from softfree.data.readers.dicom import decode, describe, frame_count, frame_elements, used_bits
from softfree.data.readers.grayscale import to_modality
from softfree.data.readers.quiet import quiet
from softfree.data.readers.series_files import Series, make_series, read_header, series_in
from softfree.data.readers.series_geometry import Slice, arrange
from softfree.data.readers.volume import Volume, canonical, refuse_large_volume
from softfree.errors import ReadError


def read_series(path: Path, frame: int | None = None, *, max_voxels: int = 1 << 30) -> Volume:
    """Read a series as one volume; see :class:`Volume` for the order of its axes.

    Args:
        path: a folder that holds one series; or one file of a series, which stands for all files of its series in its
            folder; or an enhanced multi-frame file, which stands for itself.
        frame: None or 0: a series is one volume.
        max_voxels: larger volumes are refused from their headers.

    Raises:
        ReadError: with status ``missing``, ``no_pixels``, ``unsupported``, ``corrupt``, ``too_large`` or
            ``not_finite``; names the files at fault.
    """
    path = Path(path)
    if frame:
        raise ReadError(f"{path}: frame {frame} was asked for; a DICOM series is one volume", "unsupported")
    if path.is_dir():
        return load_series(path, _only(path, series_in(path)), max_voxels=max_voxels)
    header = read_header(path)
    if header is None:
        raise ReadError(f"{path}: DICOM without an image; name a file of a series", "no_pixels")
    alone = make_series(path.parent, [(path, header)])
    if alone.multi_frame:
        return load_series(path, alone, max_voxels=max_voxels)
    mates = (series for series in series_in(path.parent) if path in series.files)
    return load_series(path, next(mates, alone), max_voxels=max_voxels)


def load_series(path: Path, series: Series, *, max_voxels: int = 1 << 30) -> Volume:
    """Read the pixels of a series that was found; ``path`` is what messages name."""
    if len(series.files) > 1 and series.multi_frame:
        message = f"{path}: {len(series.files)} files of which some hold many frames; name one of the files"
        raise ReadError(message, "unsupported")
    with quiet():
        try:
            slices = _slices(path, series)
            order, affine = arrange(path, slices)
            refuse_large_volume(path, (len(slices), *slices[0].shape), max_voxels)
            if len(series.files) == 1:
                voxels, steps, stored = _decoded(series.files[0], max_voxels)
                voxels = voxels[order]
            else:
                voxels, steps, stored = _stacked([series.files[number] for number in order], max_voxels)
        except (ReadError, MemoryError):
            raise
        except Exception as error:  # a header element that is not what the standard says
            raise ReadError(f"{path}: DICOM header with a damaged element ({type(error).__name__})") from error
    if series.others:
        steps += (f"other files in the folder left out: {series.others}",)
    return canonical(path, voxels, affine, steps, stored)


def _only(path: Path, found: list[Series]) -> Series:
    if not found:
        raise ReadError(f"{path}: a folder without DICOM images; name a folder that holds one series", "no_pixels")
    if len(found) > 1:
        sizes = [f"{len(series.files)} with {series.files[0].name}" for series in found[:4]]
        raise ReadError(
            f"{path}: {len(found)} series in one folder (files: {', '.join(sizes)}{', ...' * (len(found) > 4)}); "
            "name one file of the wanted series, or give each its own folder",
            "unsupported",
        )
    return found[0]


def _slices(path: Path, series: Series) -> list[Slice]:
    if not series.multi_frame:
        pairs = zip(series.files, series.headers, strict=True)
        return [Slice.parse(path, header, file.name, 0) for file, header in pairs]
    header = series.headers[0]
    count = frame_count(header)
    placed = len(header.get("PerFrameFunctionalGroupsSequence") or [])
    if placed != count:
        message = f"{path}: {count} frames, of which {placed} say where they lie; a volume needs the place of each"
        raise ReadError(message, "unsupported")
    return [Slice.parse(path, header, f"frame {number + 1}", number) for number in range(count)]


def _decoded(path: Path, max_voxels: int) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Decode a file's frames ``(N, H, W)`` in the modality's own units; say what was done and what was stored."""
    stored, dataset = decode(path, None, max_pixels=max_voxels)
    photometric = dataset.PhotometricInterpretation
    # MONOCHROME1 says how values are shown; Hounsfield units stay what they are.
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ReadError(f"{path}: a volume of {photometric} pixels; expected gray ones", "unsupported")
    frames = stored.reshape(-1, *stored.shape[-2:])
    little = bool(dataset.original_encoding[1])
    scaled = [to_modality(one, frame_elements(dataset, number), little) for number, one in enumerate(frames)]
    voxels = np.stack([one for one, _ in scaled])
    return voxels, _in_common([steps for _, steps in scaled]), describe(stored, used_bits(stored, dataset), photometric)


def _stacked(files: Sequence[Path], max_voxels: int) -> tuple[np.ndarray, tuple[str, ...], str]:
    """Decode one-frame files in the given order into ``(N, H, W)``."""
    slices = [_decoded(file, max_voxels) for file in files]
    voxels = np.concatenate([one for one, _, _ in slices])
    return voxels, _in_common([steps for _, steps, _ in slices]), slices[0][2]


def _in_common(each: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Say once what was done to every slice alike."""
    kinds = {tuple(steps) for steps in each}
    return next(iter(kinds)) if len(kinds) == 1 else ("each slice by its own rescale slope and intercept",)
