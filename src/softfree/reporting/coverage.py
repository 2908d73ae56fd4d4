"""How the conformal sets of a run work on evaluated rows, as a whole and by group."""

from __future__ import annotations

import numpy as np
import pandas as pd

from softfree.data.table import Table
from softfree.evaluation.conformal import Coverage, measure_coverage
from softfree.evaluation.scores import Scores
from softfree.evaluation.subgroups import groups
from softfree.inference.run import Run
from softfree.reporting.scoring import row_calibrations
from softfree_runtime.core.conformal import ConformalSets


def coverage_of(run: Run, frame: pd.DataFrame, scores: Scores) -> Coverage | None:
    """Measure the sets on all rows; None for a run of an earlier version, which has none.

    The sets of a fold of a cross-validation are chosen on the other folds.

    Args:
        run: The calibrated run.
        frame: Predictions.
        scores: Scores of its readable rows.
    """
    sets = _sets(run, frame)
    return measure_coverage(scores, sets, _unusual(frame)) if sets else None


def coverage_by_group(run: Run, frame: pd.DataFrame, scores: Scores, table: Table, column: str) -> dict[str, Coverage]:
    """Measure the same sets in each group of a column of the table."""
    sets, unusual = _sets(run, frame), _unusual(frame)
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


def _sets(run: Run, frame: pd.DataFrame) -> list[tuple[np.ndarray, ConformalSets]]:
    """Return which readable rows have which sets."""
    readable = (frame["status"] == "ok").to_numpy()
    found = ((rows[readable], calibration.sets) for rows, calibration in row_calibrations(frame, run))
    return [(rows, sets) for rows, sets in found if sets is not None and rows.any()]


def _unusual(frame: pd.DataFrame) -> np.ndarray | None:
    """Return which readable rows are unusual; None if their distances were not stored."""
    if "distance" not in frame:
        return None
    return frame.loc[frame["status"] == "ok", "distance"].to_numpy() > 1
