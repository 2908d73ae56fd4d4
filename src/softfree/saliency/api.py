"""Maps for files, folders and tables: one row and one or more files per input."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, cast

import torch

from softfree.core.endings import ending_of
from softfree.core.environment import best_device
from softfree.core.progress import tracked
from softfree.data.inputs import find_inputs
from softfree.inference.ensemble import adaptive_forward
from softfree.inference.predict import outputs
from softfree.saliency.activations import classifier
from softfree.saliency.captions import MapText, describe_maps, described
from softfree.saliency.ensemble import explain_run
from softfree.saliency.geometry import TokenGrid
from softfree.saliency.log_odds import explained_probability
from softfree.saliency.maps import Map
from softfree.saliency.options import ExplainOptions
from softfree.saliency.regions import Region, find_regions
from softfree.saliency.samples import ENDINGS, Part, SampleOpener
from softfree.saliency.samples.case import CaseSample
from softfree.saliency.sanity_checks import rank_correlation
from softfree.saliency.variables import variable_effects
from softfree_runtime.core.errors import ReadError, UserError, unknown_name
from softfree_runtime.core.task import refuse_times
from softfree_runtime.preprocessing.case import variables_of
from softfree_runtime.sources.inputs import NamedSource
from softfree_runtime.sources.sample_source import SampleSource, name_of

if TYPE_CHECKING:
    from softfree.inference.run import Run

_SHOWN = 5  # regions in the JSON
_LONGEST = 180  # bytes of an input's name in those of its files, which may have 255 with all that is added


@dataclass(frozen=True)
class ExplainedImage:
    """The maps of an image: of the sample itself, or of one of the images of a case.

    Attributes:
        path: Its path.
        view: Its view in a case.
        total: Sum of the first map over its tokens: its part of the log odds where the map distributes these.
        token_grid: Positions of the tokens.
        regions: Of the first map.
        files: Files that were written.
        maps: The maps on its tokens.
    """

    path: str
    view: str
    total: float
    token_grid: TokenGrid
    regions: tuple[Region, ...]
    files: tuple[Path, ...]
    maps: tuple[Map, ...] = ()

    def listed_regions(self) -> list[dict[str, object]]:
        """Return the strongest regions for JSON."""
        return [region.to_dict(self.token_grid) for region in self.regions[:_SHOWN]]


@dataclass(frozen=True)
class Explained:
    """The result for one input: maps and their files, or the reason why there are none.

    Attributes:
        path: Name of the input.
        maps: By the requested method; by two methods if none was requested.
        images: Its images, one unless it is a case.
        case: Whether it is a case.
        left_out: Why some images of a case have none; None if all have.
        variables: Of a sample with clinical variables, what each changes in the log odds of the class.
        error: Why there are none.
    """

    path: str
    maps: tuple[Map, ...] = ()
    images: tuple[ExplainedImage, ...] = ()
    case: bool = False
    left_out: ReadError | None = None
    variables: dict[str, float] = field(default_factory=dict)
    error: ReadError | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that were written."""
        return tuple(file for image in self.images for file in image.files)

    def to_dict(self, run: Run) -> dict[str, Any]:
        """For JSON."""
        row: dict[str, Any] = {"path": self.path, "status": "ok", "reason": str(self.left_out or "")}
        if self.error is not None:
            return row | {"status": self.error.status, "reason": str(self.error)}
        first = self.maps[0]
        prediction = outputs(first.logits[None], run.task, run.calibration)
        target = run.task.classes[first.target]
        row |= {"files": [str(file) for file in self.files], "target": target if first.class_specific else None}
        if run.task.numeric:
            row |= {
                "predicted": float(prediction["value"][0]),
                "above_mean": first.log_odds,
                "empty_above_mean": first.empty_log_odds,
            }
        else:
            row |= {
                "predicted": str(prediction["predicted"][0]),
                "probability": explained_probability(run.task, prediction, first.target),
                "log_odds": first.log_odds,
                "empty_log_odds": first.empty_log_odds,
            }
        row |= {
            "method": first.method,
            "description": described(run.task, first),
            "sum": float(first.values.sum()),
        }
        if self.case:
            row["images"] = [
                {"path": image.path, "view": image.view, "sum": image.total, "regions": image.listed_regions()}
                for image in self.images
            ]
        else:
            row["regions"] = self.images[0].listed_regions()
        row |= {"variables": self.variables} if self.variables else {}
        for second in self.maps[1:]:
            row |= {"second_method": second.method, "agreement": rank_correlation(first.values, second.values)}
        return row


def explain_to_files(folder: str | Path, inputs: list[str], options: ExplainOptions, *, as_json: bool = False) -> int:
    """Explain with a run directory and write maps to ``options.out``.

    Returns:
        The exit status: 0, or 1 if some inputs could not be read.

    Raises:
        UserError: Options that the run does not support, or none of the inputs could be read.
    """
    from softfree.inference.run import Run

    run, options = run_to_explain(Run.load(folder), options)
    explained = explain(run, inputs, options, progress=options.progress and not as_json)
    if as_json:
        print(json.dumps([result.to_dict(run) for result in explained], indent=2, allow_nan=False))
    failed = [result for result in explained if result.error is not None]
    for reason in (result.error or result.left_out for result in explained):
        if reason is not None:
            print(f"softfree: {reason}", file=sys.stderr)
    if len(failed) == len(explained):
        raise UserError(f"none of the {len(explained)} inputs could be read; their reasons are above")
    print(f"{len(explained) - len(failed)} of {len(explained)} explained; written to {options.out}", file=sys.stderr)
    for map_ in next(result.maps for result in explained if result.maps):
        print(described(run.task, map_), file=sys.stderr)
    _print_agreement([result.maps for result in explained if len(result.maps) == 2])
    return 1 if failed else 0


def _print_agreement(pairs: list[tuple[Map, ...]]) -> None:
    """Print how far the two methods agree."""
    if pairs:
        correlations = sorted(rank_correlation(first.values, second.values) for first, second in pairs)
        extent = f"; lowest {correlations[0]:.2f}, highest {correlations[-1]:.2f}" if len(correlations) > 1 else ""
        print(f"Rank correlation of the two maps: {median(correlations):.2f}{extent}", file=sys.stderr)


def explain(run: Run, inputs: list[str], options: ExplainOptions, *, progress: bool = False) -> list[Explained]:
    """Explain files, folders and tables; see :func:`explain_to_files`."""
    run, options = run_to_explain(run, options)
    sources = find_inputs(
        inputs,
        options.frame,
        run.preprocessing.kind,
        image_root=options.image_root,
        variables=variables_of(run.preprocessing),
    )
    return explain_sources(run, sources, options, progress=progress)


def explain_sources(
    run: Run, sources: Sequence[NamedSource], options: ExplainOptions, *, progress: bool = False
) -> list[Explained]:
    """Explain samples that are found already: name, source and frame of each; see :func:`explain_to_files`."""
    explainer, taken = Explainer(run, options, progress=progress), set[str]()
    return [
        explainer(name, cast(SampleSource, source), frame, options.out, lambda part: _free_name(part, taken))
        for name, source, frame in tracked(sources, "Explaining", shown=progress)
    ]


def run_to_explain(run: Run, options: ExplainOptions) -> tuple[Run, ExplainOptions]:
    """Return the run of the target that ``options.target`` names, and options with its class alone.

    Raises:
        UserError: A run of several targets without the name of one.
    """
    if not run.parts:
        return run, options
    name, _, of_class = (options.target or "").partition(".")
    if name not in run.parts:
        if name:
            raise unknown_name("target", name, run.parts)
        raise UserError(f"softfree explain works on one target: add --target with one of {', '.join(run.parts)}, or"
                        " with a class such as TARGET.CLASS")  # fmt: skip
    return run.parts[name], replace(options, target=of_class or None)


class Explainer:
    """Explains samples with a run, which is prepared once.

    Args:
        run: The run.
        options: All settings but ``out``.
        progress: Show a progress bar for streamed samples.

    Raises:
        UserError: Options that the run does not support.
    """

    def __init__(self, run: Run, options: ExplainOptions, *, progress: bool = False) -> None:
        self.run, self.options = check_explain(run, options)
        run, options = self.run, self.options
        model = classifier((run.members or (run,))[0].model)
        self._opener = SampleOpener(run.preprocessing, model, options.format, options.dicom_identity)
        self._adaptive = adaptive_forward(run.model.to(best_device()), options, options.precision, progress=progress)

    def __call__(
        self, name: str, source: SampleSource, frame: int | None, out: Path, stem: Callable[[str], str]
    ) -> Explained:
        """Explain a sample and write its maps.

        Args:
            name: Name of the sample.
            source: The sample.
            frame: Frame of a multi-frame file.
            out: Folder for the files.
            stem: Gives the beginning of the file names of a sample, or of an image of a case, from its name.
        """
        run, options, opener = self.run, self.options, self._opener
        parameters: dict[str, Any] = {"layer": options.layer, "head": options.head, "at": options.at}
        try:
            sample = opener(source, frame)
            maps = explain_run(run, sample.tensor, self._adaptive, options.method, target=options.target, **parameters)
            words = describe_maps(run, maps)
            effects = variable_effects(run, self._adaptive, sample.tensor, maps[0].target)
            if not isinstance(sample, CaseSample):
                whole = Part(name, "", sample, maps, opener.forms)
                return Explained(name, maps, (self._write(whole, words, out, stem),), variables=effects)
            images = tuple(self._write(part, _of_part(words, part, maps[0]), out, stem) for part in sample.parts(maps))
            return Explained(name, maps, images, case=True, left_out=sample.left_out, variables=effects)
        except ReadError as error:
            return Explained(name, error=error.of(name_of(source)))
        except torch.OutOfMemoryError:
            return Explained(name, error=ReadError("does not fit in the device's memory", "too_large", path=name))

    def _write(self, part: Part, words: MapText, out: Path, stem: Callable[[str], str]) -> ExplainedImage:
        values = part.maps[0].values
        regions = find_regions(values, part.sample.token_grid, self.options.quantile)
        first = stem(part.name)
        files = [out / f"{first}_map{ENDINGS[form]}" for form in part.forms]
        for form, path in zip(part.forms, files, strict=True):
            part.sample.write(form, path, part.maps, regions, words)
        total = float(values.sum())
        return ExplainedImage(
            part.name, part.view, total, part.sample.token_grid, tuple(regions), tuple(files), part.maps
        )


def check_explain(run: Run, options: ExplainOptions) -> tuple[Run, ExplainOptions]:
    """Return run and options for one target; see :func:`run_to_explain`.

    Raises:
        UserError: Options that the run does not support.
    """
    run, options = run_to_explain(run, options)
    if not 0 <= options.quantile < 1:
        raise UserError(f"--quantile {options.quantile}: expected a number from 0 to below 1, such as 0.9")
    refuse_times(run.task, "softfree explain")
    if options.target is not None and options.target not in run.task.classes:
        raise unknown_name("class", options.target, run.task.classes)
    return run, options


def _of_part(words: MapText, part: Part, whole: Map) -> MapText:
    """Add the part of the log odds that belongs to an image of a case."""
    view = f" ({part.view})" if part.view else ""
    share = f"this image{view} {part.maps[0].values.sum():+.1f} of {whole.values.sum():+.1f}"
    return replace(words, title=f"{words.title}; {share}")


def _free_name(name: str, taken: set[str]) -> str:
    """Beginning of an input's file names, with a number if it is taken."""
    stem = stem_of(name)
    free, number = stem, 2
    while free in taken:
        free, number = f"{stem}_{number}", number + 1
    taken.add(free)
    return free


def stem_of(name: str) -> str:
    """File name of an input without folder and known ending; of a long one the beginning and a hash."""
    whole = Path(name).name
    stem = whole[: len(whole) - len(ending_of(whole))] or whole
    content = stem.encode("utf-8", "surrogateescape")
    if len(content) <= _LONGEST:
        return stem
    return f"{content[:_LONGEST].decode('utf-8', 'ignore')}_{blake2b(content, digest_size=4).hexdigest()}"
