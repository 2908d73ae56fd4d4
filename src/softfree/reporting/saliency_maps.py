"""Saliency maps for the report: the most informative samples, each next to an overlay of its maps."""

from __future__ import annotations

import pandas as pd
import torch

from softfree.core.environment import best_device
from softfree.data.table import Table
from softfree.evaluation.examples import SORTS, Case, telling_cases
from softfree.evaluation.report import Thumbnail
from softfree.evaluation.scores import Scores
from softfree.inference.ensemble import AdaptiveEnsemble, adaptive_forward
from softfree.inference.run import Run
from softfree.reporting.options import EvaluateOptions
from softfree.saliency.activations import classifier
from softfree.saliency.captions import agreement_sentences, method_title, prediction_text
from softfree.saliency.ensemble import explain_run
from softfree.saliency.log_odds import explained_in_words
from softfree.saliency.maps import Map
from softfree.saliency.samples import SampleOpener
from softfree.streaming.adaptive import AdaptiveForward
from softfree_runtime.core.errors import ReadError, UserError

_SIDE = 384  # pixels of the longer side on the page
_RENDER_SIDE = 2 * _SIDE  # the same before reduction


def report_maps(
    run: Run, table: Table, frame: pd.DataFrame, scores: Scores, options: EvaluateOptions
) -> tuple[list[Thumbnail], list[str]]:
    """Draw maps of the first ``options.maps`` samples of :func:`~softfree.evaluation.examples.telling_cases`.

    The images contain pixels of the samples and nothing that identifies them. A sample that can no longer be read, or
    does not fit in memory, is skipped.

    Args:
        run: The run.
        table: The table with the files.
        frame: Predictions, as in ``predictions.csv``.
        scores: Scores of the readable rows of ``frame``.
        options: Number of maps, and how to stream samples that do not fit.

    Returns:
        The images, and sentences on their meaning; or none, and one sentence with the reason.

    Raises:
        UserError: The number of maps is negative.
    """
    if options.maps < 0:
        raise UserError(f"--maps {options.maps}: expected a number of samples, or 0 for a report without pixels")
    if not options.maps:
        return [], []
    try:
        opener = SampleOpener(run.preprocessing, classifier((run.members or (run,))[0].model))
    except UserError as error:
        return [], [f"No maps: {error}."]
    adaptive = adaptive_forward(run.model.to(best_device()), options, options.precision)
    examples: list[tuple[Case, Thumbnail, tuple[Map, ...]]] = []
    for case in telling_cases(scores, run.calibration.thresholds or None):
        try:
            examples.append((case, *_explain(run, opener, adaptive, table, frame, case)))
        except (ReadError, torch.OutOfMemoryError):
            continue
        if len(examples) == options.maps:
            break
    examples.sort(key=lambda example: SORTS.index(example[0].sort))
    return [thumbnail for _, thumbnail, _ in examples], _notes([maps for _, _, maps in examples])


def _explain(
    run: Run,
    opener: SampleOpener,
    adaptive: AdaptiveForward | AdaptiveEnsemble,
    table: Table,
    frame: pd.DataFrame,
    case: Case,
) -> tuple[Thumbnail, tuple[Map, ...]]:
    row = int(frame.loc[frame["status"] == "ok", "row"].iloc[case.index])
    sample = opener(*table.sources_by_row()[row])
    maps = explain_run(run, sample.tensor, adaptive, target=case.k)
    rendered = sample.render(maps, _RENDER_SIDE)
    labels = [f"{method_title(map_)}. {prediction_text(run, map_)}" for map_ in maps]
    plain, overlay, *others = rendered.thumbnails([map_.signed for map_ in maps], labels, _SIDE)
    meaning = f"Red is evidence for {explained_in_words(run.task, case.k)}."
    caption = " ".join([f"{case.sort}: {case.words}. {meaning}", *agreement_sentences(maps)])
    if len(sample.tensor.shape) == 4 or run.preprocessing.kind == "case":  # one slice or image is shown
        caption += f" {rendered.note.capitalize()}."
    return Thumbnail(overlay, caption, plain, tuple(others)), maps


def _notes(map_pairs: list[tuple[Map, ...]]) -> list[str]:
    if not map_pairs:
        return ["No maps: none of the samples could be read."]
    return [
        "A map shows what the model used, not what is diseased. The samples were selected by the confidence of the "
        "model, not by how their maps look. On the left is the sample, next to it the sample with its maps: red is "
        "evidence for the class, blue against it; each color scale ends at the largest value of its map; parts that "
        "the model did not see are darkened.",
        *dict.fromkeys(map_.description for maps in map_pairs for map_ in maps),
        "Trust a position where both maps agree.",
    ]
