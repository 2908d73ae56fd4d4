"""An image of the map of a volume; runs in a worker, since it reads the volume."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from softfree.saliency.geometry import TokenGrid
from softfree.saliency.overlay import as_rgb, max_magnitude, paint
from softfree.serving.records import RenderResult
from softfree_runtime.sources.channel_rules import ChannelRules
from softfree_runtime.sources.volume_files import read_volume


def strongest_slice(
    paths: Sequence[Path], *, map_path: Path, max_voxels: int, rules: Sequence[str] | None = None
) -> RenderResult:
    """Draw the axial slice in which a map has its strongest values: plain, and with the map over it.

    Seen from the feet, with the front at the top and the patient's right on the left, as radiologists do.

    Args:
        paths: The files of the volume, in a folder of their own.
        map_path: ``map_0.npz`` of :func:`softfree.serving.explaining.write_maps`.
        max_voxels: Larger volumes are refused.
        rules: Which series of a study are the channels.

    Returns:
        A PNG; its header ``slice`` says which slice it is, such as ``31 of 155 from the feet``.

    Raises:
        ReadError: The volume cannot be read.
    """
    channels = None if rules is None else ChannelRules.parse(rules)
    volume = read_volume(paths[0] if len(paths) == 1 else paths[0].parent, None, channels, max_voxels=max_voxels)
    values, grid = _read_map(map_path)
    signed = bool(json.loads(map_path.with_name("explained.json").read_text(encoding="utf-8"))["maps"][0]["signed"])
    layer = int(np.abs(values).sum(axis=(1, 2)).argmax())
    count = volume.voxels.shape[1]
    number = min(int((grid.edges(0, layer) + grid.edges(0, layer + 1)) / 2), count - 1)
    voxels = volume.voxels[0, number].astype(np.float32)
    low, high = np.percentile(voxels, (0.5, 99.5))
    shown = np.clip((voxels - low) / max(high - low, 1e-6), 0, 1)
    flat = TokenGrid(grid.start[1:], grid.step[1:], grid.visible[1:], grid.shape[1:])
    painted = paint(shown, flat.spread(values[layer]), max_magnitude(values), signed)
    pair = np.concatenate([as_rgb(shown)[::-1, ::-1], painted[::-1, ::-1]], axis=1)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pair)).save(file, "png")
    return RenderResult(file.getvalue(), "image/png", {"slice": f"{number + 1} of {count} from the feet"})


def _read_map(path: Path) -> tuple[np.ndarray, TokenGrid]:
    with np.load(path, allow_pickle=False) as file:
        start, step, shape = (tuple(file[name].tolist()) for name in ("start", "step", "shape"))
        visible = tuple((low, high) for low, high in file["visible"].tolist())
        return file["values_0"].astype(np.float32), TokenGrid(start, step, visible, shape)
