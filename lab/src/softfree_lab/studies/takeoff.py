"""The steps until the validation AUROC of a training run reaches a level.

If a finding is small, training either takes off or stays near chance, and the final AUROC only shows which. The
number of steps says more; a run that never takes off is censored at its end instead of excluded.
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
    """Read the steps and validation AUROC after each epoch of a run; empty if it has no log."""
    history = RunDirectory(folder).read_history()
    if history is None or not {"step", "val_auroc"} <= set(history):
        return []
    known = history.dropna(subset=["val_auroc"])
    return [(int(step) + 1, float(area)) for step, area in zip(known["step"], known["val_auroc"], strict=True)]


def steps_until(trial: Trial, level: float = LEVEL) -> tuple[int, bool] | None:
    """Return the steps until the validation AUROC reached ``level``, or else all steps; and whether it did.

    None for a trial without a curve, such as a baseline.
    """
    if not trial.curve:
        return None
    reached = [step for step, area in trial.curve if area >= level]
    return (int(reached[0]), True) if reached else (int(trial.curve[-1][0]), False)


def median_steps(trials: Sequence[Trial]) -> float:
    """Estimate the median (Kaplan and Meier): infinite if fewer than half reached the level, NaN without curves."""
    known = [result for trial in trials if (result := steps_until(trial)) is not None]
    if not known:
        return math.nan
    survival = ecdf(_censored(known)).sf
    below = survival.quantiles[survival.probabilities <= 0.5 + 1e-12]
    return float(below[0]) if len(below) else math.inf


def log_rank(own: Mapping[int, Trial], reference: Mapping[int, Trial]) -> float:
    """Test whether a variant takes off at other times than the reference, on shared seeds; NaN without enough data.

    The log-rank test assumes independent groups. The same seed gives both the same images in the same order, which can
    only make them more similar, so the test is conservative.
    """
    pairs = [(steps_until(own[seed]), steps_until(reference[seed])) for seed in own if seed in reference]
    known = [(first, second) for first, second in pairs if first is not None and second is not None]
    if len(known) < 2 or not any(reached for pair in known for _, reached in pair):
        return math.nan
    own_steps, reference_steps = zip(*known, strict=True)
    return float(logrank(_censored(own_steps), _censored(reference_steps)).pvalue)


def _censored(results: Sequence[tuple[int, bool]]) -> CensoredData:
    steps, reached = np.array([step for step, _ in results]), np.array([done for _, done in results])
    return CensoredData.right_censored(steps, ~reached)
