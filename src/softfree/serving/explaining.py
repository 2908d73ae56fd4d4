"""Maps of one sample as files, for the page and for downloads; imports torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from softfree.inference.run import Run
from softfree.saliency.api import Explained, explain_sources
from softfree.saliency.options import ExplainOptions
from softfree_runtime.sources.inputs import NamedSource


def write_maps(run: Run, source: NamedSource, out: Path, order: Sequence[str] = ()) -> dict[str, Any]:
    """Explain a sample and write its maps: of several targets those of :func:`target_of_maps`.

    The folder gets the files of ``softfree explain`` (PNG for images, NIfTI for volumes, GeoJSON and TIFF for slides),
    and for each image ``map_<i>.npz``: ``values_<m>`` of each map on the grid of tokens, float64, and the grid, see
    :class:`softfree.saliency.geometry.TokenGrid` (``start``, ``step``, ``visible``, ``shape``; ``spacing`` and
    ``affine`` if they are known). ``explained.json`` says what they mean.

    Args:
        run: The run.
        source: The sample.
        out: The folder.
        order: Paths of the images of a case, by which they are numbered: its model may take them in another order, and
            leaves out images that cannot be read. Otherwise they are numbered as they are explained.

    Returns:
        The content of ``explained.json``: that of ``softfree explain --json``, with names of files instead of paths,
        and the method and description of each map in ``maps``.

    Raises:
        ReadError: The sample gives none.
        UserError: The run makes no maps.
    """
    out.mkdir(parents=True, exist_ok=True)
    name = target_of_maps(run)
    (explained,) = explain_sources(run, [source], ExplainOptions(out=out, progress=False, target=name))
    if explained.error is not None:
        raise explained.error
    numbers = [order.index(image.path) if image.path in order else at for at, image in enumerate(explained.images)]
    told = _told(run.parts[name] if name else run, explained, numbers)
    if name and told["target"] is not None:
        told["target"] = f"{name}: {told['target']}"
    for number, image in zip(numbers, explained.images, strict=True):
        arrays: dict[str, Any] = {f"values_{index}": map_.values for index, map_ in enumerate(image.maps)}
        arrays |= {name: value for name, value in asdict(image.token_grid).items() if value is not None}
        np.savez(out / f"map_{number}.npz", **arrays)
    (out / "explained.json").write_text(json.dumps(told, allow_nan=False), encoding="utf-8")
    return told


def target_of_maps(run: Run) -> str | None:
    """Return which of several targets the maps are about: the first that has maps; None for a run of one target."""
    return next((name for name, part in run.parts.items() if not part.task.timed), None)


def _told(run: Run, explained: Explained, numbers: Sequence[int]) -> dict[str, Any]:
    told = explained.to_dict(run)
    told.pop("path")
    told["files"] = []
    for number, image in zip(numbers, explained.images, strict=True):
        for file in image.files:  # whose name may be that of an image in an allowed folder
            ending = "".join(file.suffixes[-2:]) if file.name.endswith(".nii.gz") else file.suffix
            told["files"].append(file.rename(file.with_name(f"map_{number}{ending}")).name)
    for number, image in zip(numbers, told.get("images", ()), strict=False):
        image["path"] = f"image {number + 1}"
    told["maps"] = [
        {"method": map_.method, "description": map_.description, "signed": map_.signed} for map_ in explained.maps
    ]
    return told
