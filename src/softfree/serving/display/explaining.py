"""From the maps of a sample to stored ones; needs torch, and runs in a worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from softfree.saliency.captions import describe_maps, described, method_title
from softfree.saliency.log_odds import explained_in_words
from softfree.saliency.samples.case import CaseSample
from softfree.serving.display.map_file import StoredMap

if TYPE_CHECKING:
    from softfree.inference.run import Run
    from softfree.saliency.maps import Map
    from softfree.saliency.samples import Sample


def store_maps(
    run: Run, sample: Sample | CaseSample, maps: Sequence[Map], folder: Path, paths: Sequence[Path | str] = ()
) -> dict[str, Path]:
    """Write the first map of a sample for each of its images.

    Args:
        run: The run that made them.
        sample: What they explain.
        maps: By one or more methods, the most important first.
        folder: Where the files go.
        paths: Of a case, its files in the order in which they are shown.

    Returns:
        Files by name: ``map_0.npz`` of the first image, ``map_1.npz`` of the second one of a case and so on. Images
        that have none, because they could not be read, are left out.
    """
    first, words = maps[0], describe_maps(run, maps)
    facts = {
        "method": method_title(first),
        "description": described(run.task, first),
        "caption": words.caption,
        "subject": explained_in_words(run.task, first.target) if first.class_specific else None,
    }
    if isinstance(sample, CaseSample):
        parts = [(part.name, part.maps[0], part.sample.token_grid) for part in sample.parts(maps)]
        numbers = {str(name): number for number, name in enumerate(paths or sample.names)}
    else:
        parts, numbers = [("", first, sample.token_grid)], {"": 0}
    files = {}
    for name, map_, grid in parts:
        total = {"total": float(map_.values.sum()), "whole": float(first.values.sum())}
        stored = StoredMap(map_.values, replace(grid), map_.signed, facts | total)
        key = f"map_{numbers[name]}.npz"
        stored.save(folder / key)
        files[key] = folder / key
    return files
