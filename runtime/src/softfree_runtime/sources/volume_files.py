"""Volumes from paths of any supported kind, and the volumes below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers import file_head
from softfree_runtime.readers.nifti import read_nifti
from softfree_runtime.readers.nifti_file import ENDINGS, GZIP, is_nifti
from softfree_runtime.readers.series import read_series
from softfree_runtime.readers.series_files import is_dicom, series_in
from softfree_runtime.readers.settings import SETTINGS, tell
from softfree_runtime.readers.volume import Volume
from softfree_runtime.sources.channel_rules import ChannelRules, read_channels
from softfree_runtime.sources.walk import Skipped, folders_below


def read_volume(
    path: str | Path, frame: int | None = None, rules: ChannelRules | None = None, *, max_voxels: int | None = None
) -> Volume:
    """Read one volume: NIfTI, a DICOM series, an enhanced DICOM file, or a study whose series are channels.

    Files are identified by their content, not by their name.

    Args:
        path: A NIfTI file; a folder with one DICOM series, or one file of a series; with ``rules`` a study's folder.
        frame: Which volume of a 4D NIfTI file, counted from 0.
        rules: Which series of a study are the channels.
        max_voxels: Larger volumes are refused by their headers; default: 2**30, unless the program has changed
            :data:`~softfree_runtime.readers.settings.SETTINGS`.

    Raises:
        ReadError: Names the file, the reason and the fix; its status is ``missing``, ``empty``,
            ``no_pixels``, ``corrupt``, ``unsupported``, ``too_large`` or ``not_finite``.
    """
    volume = _read(Path(path), frame, rules, SETTINGS.max_voxels if max_voxels is None else max_voxels)
    tell(path, volume.steps)
    return volume


def _read(path: Path, frame: int | None, rules: ChannelRules | None, max_voxels: int) -> Volume:
    try:
        head = b"" if path.is_dir() else file_head(path)  # refuses missing and empty files
        if rules is not None:
            return read_channels(path, rules, max_voxels=max_voxels)
        if path.is_dir():
            return read_series(path, frame, max_voxels=max_voxels)
        if is_nifti(head) or head.startswith(GZIP):
            return read_nifti(path, frame, max_voxels=max_voxels)
        if is_dicom(path):
            return read_series(path, frame, max_voxels=max_voxels)
        if path.name.lower().endswith((*ENDINGS, ".img", ".img.gz")):  # an .img starts with voxels
            return read_nifti(path, frame, max_voxels=max_voxels)
    except MemoryError as error:
        raise ReadError("does not fit in memory; cut it or reduce it", "too_large", path=path) from error
    except OSError as error:
        raise ReadError(f"cannot be opened ({error.strerror or error})", "missing", path=path) from error
    raise ReadError(
        "not a volume that softfree reads: NIfTI (.nii, .nii.gz, .hdr), a folder or a file of a DICOM series",
        "unsupported",
        path=path,
    )


def volume_of(source: str | Volume, frame: int | None, rules: ChannelRules | None, channels: int) -> Volume:
    """Read a volume, unless it is already decoded; ReadError as :func:`read_volume`, or for wrong channels."""
    volume = source if isinstance(source, Volume) else read_volume(source, frame, rules)
    if (got := len(volume.voxels)) != channels:
        name = "the volume" if source is volume else source
        raise ReadError(f"volume of {got} channels; expected {channels}", "unsupported", path=name)
    return volume


def volumes_in(folder: str | Path, skipped: Skipped | None = None) -> list[str]:
    """List the volumes below a folder, sorted, as :func:`read_volume` takes them.

    These are each NIfTI file; each folder of one DICOM series; for a folder of several series the first file of each;
    and each multi-frame DICOM file. A folder with a damaged DICOM file is listed, so that its row gets the reason.
    ``skipped`` records what was skipped.
    """
    volumes: list[str] = []
    for directory, names in folders_below(Path(folder), skipped):
        volumes += [os.path.join(directory, name) for name in names if _is_volume_file(name, names)]
        volumes += _series_samples(directory)
    return sorted(volumes)


def _is_volume_file(name: str, names: list[str]) -> bool:
    """Return whether a file is named like a NIfTI file, or like the header of a complete pair."""
    stem, hdr, packed = name.rpartition(".hdr")
    voxels = {f"{stem}.img", f"{stem}.img.gz"} if hdr and packed in ("", ".gz") else set()
    return bool(voxels & set(names)) or name.lower().endswith((".nii", ".nii.gz"))


def _series_samples(directory: Path) -> Iterator[str]:
    try:
        series = series_in(directory)
    except ReadError:
        # The series of the damaged file is unknown: the folder is one sample, which will be refused.
        yield str(directory)
        return
    if len(series) == 1 and not series[0].multi_frame:
        yield str(directory)
        return
    for member in series:
        yield from map(str, member.files if member.multi_frame else member.files[:1])
