"""Images of the maps of volumes and slides; runs in a worker, since it reads them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from softfree.saliency.geometry import TokenGrid
from softfree.saliency.overlay import as_rgb, max_magnitude, paint
from softfree.serving.hospital.map_arrays import StoredMap
from softfree.serving.records import RenderResult
from softfree_runtime.sources.channel_rules import ChannelRules
from softfree_runtime.sources.volume_files import read_volume

_OVERVIEW = 2048  # longest side of the overview of a slide, pixels


def strongest_slice(
    paths: Sequence[Path],
    *,
    folder: Path,
    number: int,
    max_voxels: int,
    rules: Sequence[str] | None = None,
    beside_others: bool = False,
) -> RenderResult:
    """Draw the axial slice in which a map has its strongest values: plain, and with the map over it.

    Seen from the feet, with the front at the top and the patient's right on the left, as radiologists do.

    Args:
        paths: The files of the volume.
        folder: Of :func:`softfree.serving.explaining.write_maps`.
        number: Of the image of the sample, counted from 0.
        max_voxels: Larger volumes are refused.
        rules: Which series of a study are the channels.
        beside_others: Whether other series lie in the same folder, as of a case.

    Returns:
        A PNG; its header ``note`` says which slice it is, such as ``slice 31 of 155 from the feet``.

    Raises:
        ReadError: The volume cannot be read.
    """
    channels = None if rules is None else ChannelRules.parse(rules)
    whole = len(paths) == 1 or beside_others
    volume = read_volume(paths[0] if whole else paths[0].parent, None, channels, max_voxels=max_voxels)
    stored = StoredMap.read(folder, number)
    values, grid = stored.values, stored.grid
    layer = int(np.abs(values).sum(axis=(1, 2)).argmax())
    count = volume.voxels.shape[1]
    at = min(int((grid.edges(0, layer) + grid.edges(0, layer + 1)) / 2), count - 1)
    voxels = volume.voxels[0, at].astype(np.float32)
    low, high = np.percentile(voxels, (0.5, 99.5))
    shown = np.clip((voxels - low) / max(high - low, 1e-6), 0, 1)
    flat = TokenGrid(grid.start[1:], grid.step[1:], grid.visible[1:], grid.shape[1:])
    painted = paint(shown, flat.spread(values[layer]), max_magnitude(values), stored.signed)
    pair = np.concatenate([as_rgb(shown)[::-1, ::-1], painted[::-1, ::-1]], axis=1)
    return _as_png(pair, f"slice {at + 1} of {count} from the feet")


def overview(paths: Sequence[Path], *, folder: Path, number: int) -> RenderResult:
    """Draw a whole slide, at most 2048 pixels a side, with its map over it.

    Args:
        paths: The files of the slide, the finest level first, in a folder of their own.
        folder: Of :func:`softfree.serving.explaining.write_maps`.
        number: Of the image of the sample, counted from 0.

    Returns:
        A PNG; its header ``note`` says what it shows.

    Raises:
        ReadError: The slide cannot be read.
    """
    from softfree.data.slide_readers.slide import open_slide
    from softfree.saliency.slide_files import render_slide

    stored = StoredMap.read(folder, number)
    with open_slide(paths[0]) as slide:
        pixels, grid = render_slide(slide, stored.grid, _OVERVIEW)
    shown = pixels / np.float32(255)
    painted = paint(shown, grid.spread(stored.values), max_magnitude(stored.values), stored.signed)
    return _as_png(painted, "overview of the slide")


def _as_png(pixels: np.ndarray, note: str) -> RenderResult:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "png")
    return RenderResult(file.getvalue(), "image/png", {"note": note})
