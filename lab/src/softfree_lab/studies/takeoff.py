"""When a training begins to log the classes apart: the steps until its validation AUROC reaches a level.

Where a finding is small, a training either takes off or stays near chance, and the AUROC at the end only says which.
The steps until it does say more, and a training that has not by its end is censored there, not lost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import CensoredData, ecdf, logrank

from softfree.inference.run_directory import RunDirectory
from softfree_lab.studies.trials import Trial

LEVEL = 0.9


def read_curve(folder: Path) -> list[tuple[int, float]]:
    """Read the steps and validation AUROC after each epoch of a run; none where it has no log."""
    history = RunDirectory(folder).read_history()
    if history is None or not {"step", "val_auroc"} <= set(history):
        return []
    known = history.dropna(subset=["val_auroc"])
    return [(int(step) + 1, float(area)) for step, area in zip(known["step"], known["val_auroc"], strict=True)]


def steps_until(trial: Trial, level: float = LEVEL) -> tuple[int, bool] | None:
    """Count the steps until the validation AUROC is at ``level``, or all of them; and say whether it has been.

    None for a trial without a curve, such as a baseline.
    """
    if not trial.curve:
        return None
    reached = [step for step, area in trial.curve if area >= level]
    return (int(reached[0]), True) if reached else (int(trial.curve[-1][0]), False)


def median_steps(trials: Sequence[Trial]) -> float:
    """Estimate the median (Kaplan and Meier): infinite where fewer than half reached the level, NaN without any."""
    known = [found for trial in trials if (found := steps_until(trial)) is not None]
    if not known:
        return math.nan
    survival = ecdf(_censored(known)).sf
    below = survival.quantiles[survival.probabilities <= 0.5 + 1e-12]
    return float(below[0]) if len(below) else math.inf


def log_rank(own: Mapping[int, Trial], peer: Mapping[int, Trial]) -> float:
    """Test whether one takes off at other times than its peer, by the seeds that both have; NaN if nothing can be said.

    The log-rank test takes the two as independent groups. The same seed gives the same images in the same order to
    both, which makes them alike if anything, so that the test is on the careful side.
    """
    pairs = [(steps_until(own[seed]), steps_until(peer[seed])) for seed in own if seed in peer]
    known = [(one, other) for one, other in pairs if one is not None and other is not None]
    if len(known) < 2 or not any(reached for pair in known for _, reached in pair):
        return math.nan
    first, second = zip(*known, strict=True)
    return float(logrank(_censored(first), _censored(second)).pvalue)


def _censored(found: Sequence[tuple[int, bool]]) -> CensoredData:
    steps, reached = np.array([step for step, _ in found]), np.array([at for _, at in found])
    return CensoredData.right_censored(steps, ~reached)
