"""Maps for files, folders and tables: a row and a file for every input."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from softfree.core.environment import best_device
from softfree.core.progress import tracked
from softfree.explain.activations import classifier
from softfree.explain.captions import describe
from softfree.explain.geometry import Places
from softfree.explain.maps import Map
from softfree.explain.options import ExplainOptions
from softfree.explain.regions import Region, find_regions
from softfree.explain.samples import ENDINGS, Opener
from softfree.explain.sanity_checks import rank_correlation
from softfree.explain.streamed import explain_pair
from softfree.inference.predict import find_inputs, outputs
from softfree.streaming.adaptive import AdaptiveForward
from softfree_runtime.core.errors import ReadError, UserError, unknown_name
from softfree_runtime.sources.joined_source import split_source

if TYPE_CHECKING:
    from softfree.inference.run import Run

_SHOWN = 5  # regions in the JSON


@dataclass(frozen=True)
class Explained:
    """What became of one input: maps and their files, or the reason why not.

    Attributes:
        path: as it was given.
        maps: by the method that was asked for; by two, where none was.
        places: where the tokens lie.
        regions: of the first map.
        files: that were written.
        error: the reason why there are none.
    """

    path: str
    maps: tuple[Map, ...] = ()
    places: Places | None = None
    regions: tuple[Region, ...] = ()
    files: tuple[Path, ...] = ()
    error: ReadError | None = None

    def to_dict(self, run: Run) -> dict[str, Any]:
        """For JSON."""
        row: dict[str, Any] = {"path": self.path, "status": "ok", "reason": ""}
        if self.error is not None:
            return row | {"status": self.error.status, "reason": str(self.error)}
        assert self.places is not None
        first = self.maps[0]
        told = outputs(first.logits[None], run.task, run.calibration)
        target = run.task.classes[first.target]
        row |= {
            "files": [str(file) for file in self.files],
            "predicted": str(told["predicted"][0]),
            "target": target if first.of_class else None,
            "probability": float(told[f"p_{target}"][0]),
            "log_odds": first.log_odds,
            "empty_log_odds": first.empty_log_odds,
            "method": first.method,
            "description": first.description,
            "sum": float(first.values.sum()),
            "regions": [region.to_dict(self.places) for region in self.regions[:_SHOWN]],
        }
        for second in self.maps[1:]:
            row |= {"second_method": second.method, "agreement": rank_correlation(first.values, second.values)}
        return row


def explain_to_files(folder: str | Path, inputs: list[str], options: ExplainOptions, *, as_json: bool = False) -> int:
    """Explain with a run directory and write maps to ``options.out``.

    Returns:
        The exit status: 0, or 1 when some inputs could not be read.

    Raises:
        UserError: something that the run does not have, or none of the inputs could be read.
    """
    from softfree.inference.run import Run

    run = Run.load(folder)
    explained = explain(run, inputs, options, progress=options.progress and not as_json)
    if as_json:
        print(json.dumps([one.to_dict(run) for one in explained], indent=2, allow_nan=False))
    failed = [one for one in explained if one.error is not None]
    for one in failed:
        print(f"softfree: {one.error}", file=sys.stderr)
    if len(failed) == len(explained):
        raise UserError(f"none of the {len(explained)} inputs could be read; their reasons are above")
    print(f"{len(explained) - len(failed)} of {len(explained)} explained; written to {options.out}", file=sys.stderr)
    for found in next(one.maps for one in explained if one.maps):
        print(found.description, file=sys.stderr)
    _tell_agreement([one.maps for one in explained if len(one.maps) == 2])
    return 1 if failed else 0


def _tell_agreement(pairs: list[tuple[Map, ...]]) -> None:
    """Say how far the two methods agree."""
    if pairs:
        found = sorted(rank_correlation(one.values, other.values) for one, other in pairs)
        several = f"; lowest {found[0]:.2f}, highest {found[-1]:.2f}" if len(found) > 1 else ""
        print(f"Rank correlation of the two maps: {median(found):.2f}{several}", file=sys.stderr)


def explain(run: Run, inputs: list[str], options: ExplainOptions, *, progress: bool = False) -> list[Explained]:
    """Explain files, folders and tables; see :func:`explain_to_files`."""
    if not 0 <= options.quantile < 1:
        raise UserError(f"--quantile {options.quantile}: expected a part from 0 to below 1, such as 0.9")
    if options.target is not None and options.target not in run.task.classes:
        raise unknown_name("class", options.target, run.task.classes)
    model = classifier(run.model)
    opener = Opener(run.preprocessing, model, options.format, options.dicom_identity)
    found = find_inputs(inputs, options.frame, run.preprocessing.kind, image_root=options.image_root)
    adaptive = AdaptiveForward(run.model.to(best_device()), options, options.precision, progress=progress)
    taken: set[str] = set()
    bar = tracked(found, "Explaining", shown=progress)
    return [
        _explain_one(run, opener, adaptive, name, str(source), frame, options, taken) for name, source, frame in bar
    ]


def _explain_one(
    run: Run,
    opener: Opener,
    adaptive: AdaptiveForward,
    name: str,
    source: str,
    frame: int | None,
    options: ExplainOptions,
    taken: set[str],
) -> Explained:
    asked: dict[str, Any] = {"layer": options.layer, "head": options.head, "at": options.at}
    try:
        sample = opener(source, frame)
        maps = explain_pair(run, sample.tensor, adaptive, options.method, target=options.target, **asked)
        regions = find_regions(maps[0].values, sample.places, options.quantile)
        stem = _free_name(name, taken)
        files = [options.out / f"{stem}_map{ENDINGS[form]}" for form in opener.forms]
        for form, path in zip(opener.forms, files, strict=True):
            sample.write(form, path, maps, regions, describe(run, maps))
    except ReadError as error:
        return Explained(name, error=error.of(split_source(source)[0]))
    except torch.OutOfMemoryError:
        return Explained(name, error=ReadError(f"{name}: does not fit in the device's memory", "too_large"))
    return Explained(name, maps, sample.places, tuple(regions), tuple(files))


def _free_name(name: str, taken: set[str]) -> str:
    """The input's name without folder and ending, with a number where it is taken."""
    whole = Path(split_source(name)[0]).name
    stem = whole.lower().removesuffix(".gz").removesuffix(".nii")
    stem = whole[: len(stem)] if len(stem) < len(whole) else Path(whole).stem
    free, number = stem, 2
    while free in taken:
        free, number = f"{stem}_{number}", number + 1
    taken.add(free)
    return free
