"""DICOM series as volumes: one file per slice in a folder, or one enhanced multi-frame file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from softfree_runtime.core.errors import ReadError, listed
from softfree_runtime.readers.dicom import decode, frame_count
from softfree_runtime.readers.dicom_elements import Elements
from softfree_runtime.readers.dicom_pixels import GRAY
from softfree_runtime.readers.grayscale import to_modality
from softfree_runtime.readers.quiet import quiet
from softfree_runtime.readers.series_files import Series, is_mosaic, make_series, read_header, series_in
from softfree_runtime.readers.series_geometry import MOSAIC, Slice, arrange
from softfree_runtime.readers.volume import Volume, canonical, refuse_large_volume

_SCALING = ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence")


def read_series(path: Path, frame: int | None = None, *, max_voxels: int = 1 << 30) -> Volume:
    """Read a series as one volume; see :class:`Volume` for the order of its axes.

    Args:
        path: A folder with one series; or one file of a series, which stands for all its files in the folder; or an
            enhanced multi-frame file.
        frame: None or 0, since a series is one volume.
        max_voxels: Larger volumes are refused by their headers.

    Raises:
        ReadError: With status ``missing``, ``no_pixels``, ``unsupported``, ``corrupt``, ``too_large`` or
            ``not_finite``; names the faulty files.
    """
    path = Path(path)
    if frame:
        raise ReadError(f"got frame {frame}; a DICOM series is one volume", "unsupported", path=path)
    if path.is_dir():
        return load_series(path, _only(path, series_in(path)), max_voxels=max_voxels)
    header = read_header(path)
    if header is None:
        raise ReadError("DICOM without an image; name a file of a series", "no_pixels", path=path)
    alone = make_series(path.parent, [(path, header)])
    if alone.multi_frame:
        return load_series(path, alone, max_voxels=max_voxels)
    mates = (series for series in series_in(path.parent) if path in series.files)
    return load_series(path, next(mates, alone), max_voxels=max_voxels)


def load_series(path: Path, series: Series, *, max_voxels: int = 1 << 30) -> Volume:
    """Read the pixels of a series; ``path`` is for messages."""
    if len(series.files) > 1 and series.multi_frame:
        message = f"{len(series.files)} files, some with several frames; name one of the files"
        raise ReadError(message, "unsupported", path)
    placed: list[str] = []
    with quiet():
        try:
            slices = _slices(path, series, placed)
            order, affine, corrections = arrange(path, slices)
            if any(map(is_mosaic, series.headers)):
                raise ReadError(f"{MOSAIC}", "unsupported", path=path)
            refuse_large_volume(path, (len(slices), *slices[0].shape), max_voxels)
            if len(series.files) == 1:
                stack = _decoded(series.files[0], max_voxels)
                voxels = stack.voxels[order]
            else:
                stack = _stacked([series.files[number] for number in order], max_voxels)
                voxels = stack.voxels
        except (ReadError, MemoryError):
            raise
        except Exception as error:  # a header element that violates the standard
            raise ReadError(f"DICOM header with a damaged element ({type(error).__name__})", path=path) from error
    corrections = tuple(dict.fromkeys((*placed, *corrections, *stack.corrections)))
    if series.aside:
        corrections += ("localizers or secondary captures in the folder skipped",)
    steps = (*stack.steps, *corrections)
    if series.others:
        steps += (f"other files in the folder skipped: {series.others}",)
    return canonical(path, voxels, affine, steps, stack.stored, corrections=corrections)


@dataclass(frozen=True)
class _Stack:
    """Slices ``(N, H, W)`` in modality units, with steps, stored content and corrections."""

    voxels: np.ndarray
    steps: tuple[str, ...]
    stored: str
    corrections: Sequence[str]


def _only(path: Path, candidates: list[Series]) -> Series:
    if not candidates:
        raise ReadError("a folder without DICOM images; name a folder that holds one series", "no_pixels", path=path)
    if len(candidates) > 1:
        sizes = listed((len(series.files) for series in candidates), 4)
        raise ReadError(
            f"{len(candidates)} series in one folder, of {sizes} files; name one file of the series to read, or give"
            " each its own folder",
            "unsupported",
            path,
            [series.files[0].name for series in candidates],
        )
    return candidates[0]


def _slices(path: Path, series: Series, corrections: list[str]) -> list[Slice]:
    if not series.multi_frame:
        pairs = zip(series.files, series.headers, strict=True)
        return [Slice.parse(path, header, file.name, None, corrections) for file, header in pairs]
    header = series.headers[0]
    count = frame_count(header)
    placed = len(Elements(header).items("PerFrameFunctionalGroupsSequence"))
    if placed != count:
        message = f"{count} frames, but positions of only {placed}; a volume needs all of them"
        raise ReadError(message, "unsupported", path)
    return [Slice.parse(path, header, f"frame {number + 1}", number, corrections) for number in range(count)]


def _decoded(path: Path, max_voxels: int) -> _Stack:
    """Decode a file's frames."""
    stored, header = decode(path, None, max_pixels=max_voxels)
    photometric = header.layout.photometric
    # MONOCHROME1 concerns display; Hounsfield units stay as they are.
    if photometric not in GRAY:
        raise ReadError(f"a volume of {photometric} pixels; expected gray ones", "unsupported", path=path)
    frames = stored.reshape(-1, *stored.shape[-2:])
    wrong: list[list[str]] = [[] for _ in frames]
    scaled = [
        to_modality(frame, header.elements(number, wrong[number]), header.little_endian)
        for number, frame in enumerate(frames)
    ]
    _refuse_partly_rescaled(path, [f"frame {number + 1}" for number in range(len(frames))], wrong)
    corrections = [*header.corrections, *chain.from_iterable(wrong)]
    voxels = np.stack([values for values, _ in scaled])
    return _Stack(voxels, _in_common([steps for _, steps in scaled]), header.describe(stored), corrections)


def _stacked(files: Sequence[Path], max_voxels: int) -> _Stack:
    """Decode one-frame files in the given order."""
    slices = [_decoded(file, max_voxels) for file in files]
    _refuse_partly_rescaled(files[0].parent, [file.name for file in files], [stack.corrections for stack in slices])
    voxels = np.concatenate([stack.voxels for stack in slices])
    corrections = [words for stack in slices for words in stack.corrections]
    return _Stack(voxels, _in_common([stack.steps for stack in slices]), slices[0].stored, corrections)


def _refuse_partly_rescaled(path: Path, names: Sequence[str], corrections: Sequence[Sequence[str]]) -> None:
    """Raise ReadError if rescaling was ignored for some slices only, which would have other units."""
    ignored = [{words for words in each if words.startswith(_SCALING)} for each in corrections]
    for name, words in zip(names, ignored, strict=True):
        if words != ignored[0]:
            elements = ", ".join(sorted({correction.split(":")[0] for correction in words ^ ignored[0]}))
            raise ReadError(
                f"{elements} can be used in one of them only; repair the header", path=path, members=[names[0], name]
            )


def _in_common(each: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return the steps common to all slices."""
    kinds = {tuple(steps) for steps in each}
    return next(iter(kinds)) if len(kinds) == 1 else ("each slice by its own rescale slope and intercept",)
