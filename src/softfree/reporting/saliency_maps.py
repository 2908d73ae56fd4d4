"""Maps for the report: the samples that tell most, each beside itself under its map."""

from __future__ import annotations

import pandas as pd
import torch

from softfree.core.environment import best_device
from softfree.data.table import Table
from softfree.evaluation.examples import SORTS, Case, telling_cases
from softfree.evaluation.report import Thumbnail
from softfree.evaluation.scores import Scores
from softfree.explain.activations import classifier
from softfree.explain.captions import answer as told
from softfree.explain.captions import comparison, name_of
from softfree.explain.maps import Map
from softfree.explain.samples import Opener
from softfree.explain.streamed import explain_pair
from softfree.inference.run import Run
from softfree.reporting.options import EvaluateOptions
from softfree.streaming.adaptive import AdaptiveForward
from softfree_runtime.core.errors import ReadError, UserError

_SIDE = 384  # pixels of the longer side on the page
_READ = 2 * _SIDE  # of what these are made from


def report_maps(
    run: Run, table: Table, frame: pd.DataFrame, scores: Scores, options: EvaluateOptions
) -> tuple[list[Thumbnail], list[str]]:
    """Make ``options.maps`` maps of the samples that :func:`~softfree.evaluation.examples.telling_cases` names.

    The images hold pixels of the samples and nothing that names them. A sample that cannot be read any more, or does
    not fit in memory, makes room for the next.

    Args:
        run: whose predictions they are.
        table: with their files.
        frame: predictions, as ``predictions.csv`` has them.
        scores: of the readable rows of ``frame``.
        options: how many, and how what does not fit is streamed.

    Returns:
        The images, and what they mean in sentences; or none, and one sentence that says why.

    Raises:
        UserError: a number below 0.
    """
    if options.maps < 0:
        raise UserError(f"--maps {options.maps}: expected a number of samples, or 0 for a report without pixels")
    if not options.maps:
        return [], []
    try:
        opener = Opener(run.preprocessing, classifier(run.model))
    except UserError as error:
        return [], [f"No maps: {error}."]
    adaptive = AdaptiveForward(run.model.to(best_device()), options, options.precision)
    made: list[tuple[Case, Thumbnail, tuple[Map, ...]]] = []
    for case in telling_cases(scores, run.calibration.thresholds or None):
        try:
            made.append((case, *_map_of(run, opener, adaptive, table, frame, case)))
        except (ReadError, torch.OutOfMemoryError):
            continue
        if len(made) == options.maps:
            break
    made.sort(key=lambda one: SORTS.index(one[0].sort))
    return [thumbnail for _, thumbnail, _ in made], _notes([maps for _, _, maps in made])


def _map_of(
    run: Run, opener: Opener, adaptive: AdaptiveForward, table: Table, frame: pd.DataFrame, case: Case
) -> tuple[Thumbnail, tuple[Map, ...]]:
    row = int(frame.loc[frame["status"] == "ok", "row"].iloc[case.index])
    sample = opener(*table.sources_by_row()[row])
    maps = explain_pair(run, sample.tensor, adaptive, target=case.k)
    view = sample.view(maps, _READ)
    labels = [f"{name_of(one)}. {told(run, one)}" for one in maps]
    plain, painted, *others = view.miniatures([one.signed for one in maps], labels, _SIDE)
    caption = " ".join([f"{case.sort}: {case.words}. Red speaks for {run.task.classes[case.k]}.", *comparison(maps)])
    if len(sample.tensor.shape) == 4:  # one slice is shown
        caption += f" {view.note.capitalize()}."
    return Thumbnail(painted, caption, plain, tuple(others)), maps


def _notes(found: list[tuple[Map, ...]]) -> list[str]:
    if not found:
        return ["No maps: none of the samples could be read."]
    return [
        "A map shows what the model used, not what is ill. The samples were chosen by how sure the model was, not by "
        "how their maps look. Left the sample, right of it the same under its maps: red speaks for the class, blue "
        "against it; the colors end at the greatest value of each map; darkened is what the model did not see.",
        *dict.fromkeys(one.description for maps in found for one in maps),
        "Believe a place where both maps agree.",
    ]
