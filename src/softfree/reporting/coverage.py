"""How the conformal sets of a run work on evaluated rows, as a whole and by group."""

from __future__ import annotations

import numpy as np
import pandas as pd

from softfree.data.table import Table
from softfree.evaluation.conformal import Coverage, fit_sets, measure_coverage
from softfree.evaluation.scores import Scores
from softfree.evaluation.subgroups import groups
from softfree.inference.run import Run
from softfree.reporting.scoring import FOLD
from softfree_runtime.core.conformal import ConformalSets


def coverage_of(run: Run, frame: pd.DataFrame, scores: Scores) -> Coverage | None:
    """Measure the sets on all rows; None for a run of an earlier version, which has none.

    The sets of a fold of a cross-validation are chosen on the other folds.

    Args:
        run: The calibrated run.
        frame: Predictions.
        scores: Scores of its readable rows.
    """
    sets = _sets(run, frame, scores)
    return measure_coverage(scores, sets, _unusual(frame)) if sets else None


def coverage_by_group(run: Run, frame: pd.DataFrame, scores: Scores, table: Table, column: str) -> dict[str, Coverage]:
    """Measure the same sets in each group of a column of the table."""
    sets, unusual = _sets(run, frame, scores), _unusual(frame)
    rows = frame.loc[frame["status"] == "ok", "row"]
    values = table.frame.set_index("row")[column].reindex(rows).reset_index(drop=True)
    return {
        name: measure_coverage(
            scores.subset(inside),
            [(chosen[inside], own) for chosen, own in sets],
            None if unusual is None else unusual[inside],
        )
        for name, inside in (groups(values) if sets else ())
    }


def _sets(run: Run, frame: pd.DataFrame, scores: Scores) -> list[tuple[np.ndarray, ConformalSets]]:
    """Return rows and the sets to use for them."""
    sets = run.calibration.sets
    if sets is None:
        return []
    if FOLD not in frame:
        return [(np.ones(len(scores), dtype=bool), sets)]
    folds = frame.loc[frame["status"] == "ok", FOLD].to_numpy()
    return [(folds == fold, fit_sets(scores.subset(folds != fold), sets.coverage)) for fold in pd.unique(folds)]


def _unusual(frame: pd.DataFrame) -> np.ndarray | None:
    """Return which readable rows are unusual; None if their distances were not stored."""
    if "distance" not in frame:
        return None
    return frame.loc[frame["status"] == "ok", "distance"].to_numpy() > 1
