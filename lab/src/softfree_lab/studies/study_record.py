"""What a study records of its trainings, and the tables and plots that it writes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from softfree.core.environment import describe_machine
from softfree.core.options import Split
from softfree.evaluation.scores import Scores
from softfree.inference.run import Run
from softfree.inference.run_directory import Calibration
from softfree.reporting.scoring import open_table, predict_rows, scores_of
from softfree_lab.records import write_csv, write_machine
from softfree_lab.studies.folds import pool_folds
from softfree_lab.studies.plots import plot_scales, plot_tokens, plot_variants
from softfree_lab.studies.summary import summarize, to_markdown, trials_table
from softfree_lab.studies.takeoff import read_curve
from softfree_lab.studies.trials import Trial, TrialKey
from softfree_runtime.core.files import write_atomically
from softfree_runtime.core.task import Task


def trained_trial(key: TrialKey, run: Run, settings: dict[str, Any], scales: Sequence[float] = (1.0,)) -> Trial:
    """Record a finished training, tested at some sides relative to that of training."""
    scores = {f"{scale:g}": _scores(run, scale) for scale in scales}
    trial = fitted_trial(key, run.task, scores, run.directory.read_cost(), settings)
    return replace(trial, curve=read_curve(run.folder))


def fitted_trial(
    key: TrialKey, task: Task, scores: dict[str, Scores], cost: dict[str, Any], settings: dict[str, Any]
) -> Trial:
    """Record scores by side, such as those of a baseline."""
    first = scores["1"]
    return Trial(
        key=key,
        options=settings,
        kind=task.kind,
        classes=list(task.classes),
        targets=first.targets.tolist(),
        patients=first.patients.tolist(),
        probabilities={name: np.round(score.probabilities, 6).tolist() for name, score in scores.items()},
        cost={name: value for name, value in cost.items() if name != "machine"},
        machine=describe_machine(),
    )


def _scores(run: Run, scale: float) -> Scores:
    """Return scores on the test images, or on the held-out fold, at another side with unchanged weights.

    Those of a fold are not calibrated: the temperature and thresholds of its run were chosen on the fold itself.
    """
    split: Split = "test" if run.config["options"]["fold"] is None else "val"
    if split == "val":
        run = replace(run, calibration=Calibration())
    if scale == 1.0:
        frame = run.directory.read_predictions()
        return scores_of(frame[frame["split"] == split], run)
    side = max(16, round(run.image_preprocessing.size * scale))
    other = replace(run, config=run.config | {"preprocessing": run.config["preprocessing"] | {"size": side}})
    return scores_of(predict_rows(other, open_table(run).where(split)), run)


def write_tables(
    out: Path,
    trials: Mapping[TrialKey, Trial],
    variants: Sequence[str],
    scales: Sequence[float] = (1.0,),
    *,
    margin: float,
    num_bootstrap: int,
) -> str:
    """Write ``cells.csv``, ``summary.csv``, ``summary.md``, ``machine.json`` and plots; return the summary."""
    pooled = pool_folds(trials)
    summary = summarize(pooled, variants, scales, margin=margin, num_bootstrap=num_bootstrap)
    write_csv(out / "cells.csv", trials_table(trials))
    write_csv(out / "summary.csv", summary)
    text = to_markdown(summary, margin=margin)
    machines = sorted({trial.machine for trial in trials.values()})
    write_atomically(out / "summary.md", text + "\n" + "".join(f"{machine}\n" for machine in machines))
    write_machine(out, machines=machines)
    plot_variants(out / "summary.png", summary[summary["scale"] == 1.0], pooled)
    if len(scales) > 1:
        plot_scales(out / "scales.png", summary)
    plot_tokens(out / "tokens.png", trials)
    return text
