"""Facts about a run for its report, apart from scores: data, preprocessing, training and cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from softfree.data.audit.checks import class_marks, counted, knows_patients
from softfree.data.follow_up import event_times
from softfree.data.table import SPLITS, Table
from softfree.evaluation.report import Counts
from softfree.inference.run import Run
from softfree_runtime.core.numbers import number_names
from softfree_runtime.core.scale import Scale
from softfree_runtime.core.survival import Survival
from softfree_runtime.core.task import Task


def report_facts(run: Run, table: Table, frame: pd.DataFrame) -> dict[str, Any]:
    """Gather the fields of :class:`~softfree.evaluation.report.Report` that do not depend on the scores.

    Args:
        run: The calibrated run.
        table: The whole table.
        frame: Predictions of the evaluated split.
    """
    return {
        "notice": run.notice,
        "task": run.task,
        "data": count_rows(table, is_study=bool(run.members)),
        "data_notes": _notes(run, table, frame),
        "cost": _describe_cost(run.directory.read_cost()),
        "thresholds": run.calibration.thresholds,
        "history": run.directory.read_history(),
        "command": run.config["command"],
        "versions": run.config["versions"],
    }


def table_facts(table: Table) -> dict[str, Any]:
    """Return what a run keeps of its table: digest, how it was split, and numbers of samples, patients and classes."""
    counts = {}
    for split in SPLITS:
        rows = table.where(split)
        counts[split] = {
            "samples": len(rows.frame),
            "patients": int(rows.frame["patient"].nunique()),
            "classes": dict(zip(table.task.classes, class_marks(rows).sum(axis=0).tolist(), strict=True)),
        }
    return {
        "sha256": table.digest,
        "rows": len(table.frame),
        "split": table.split_made,
        "patients": int(table.frame["patient"].nunique()) if knows_patients(table) else None,
        "counts": counts,
    }


def near_duplicates_in_words(pairs: pd.DataFrame, part: str) -> str:
    """Warn of nearly identical images in different splits or folds.

    Args:
        pairs: With columns row_a, row_b, and split_a, split_b or fold_a, fold_b.
        part: ``split`` or ``fold``.
    """
    prefix = "fold " if part == "fold" else ""
    examples = [
        " and ".join(f"{pair[f'row_{side}']} ({prefix}{pair[f'{part}_{side}']})" for side in "ab")
        for pair in pairs.head(3).to_dict("records")
    ]
    more = f", and {len(pairs) - 3} more" if len(pairs) > 3 else ""
    return (
        f"{counted(len(pairs), 'pair')} of identical or nearly identical images in different {part}s, so that scores"
        f" are optimistic: rows {'; '.join(examples)}{more}; all are in near_duplicates.csv"
    )


def count_rows(table: Table, *, is_study: bool = False) -> list[Counts]:
    """Count samples, patients and classes of each split; of a study, of its folds and its fixed test rows."""
    rows = []
    names = {"val": "cross-validation", "test": "test"} if is_study else {split: split for split in SPLITS}
    for split, heading in names.items():
        split_table = table.where(split)
        if is_study and len(split_table.frame) == 0:
            continue
        frame, targets = split_table.frame, split_table.targets
        classes = {name: _counted(table.task, targets, number) for number, name in enumerate(table.task.classes)}
        rows.append(Counts(heading, len(frame), frame["patient"].nunique(), classes))
    return rows


def _counted(task: Task, targets: np.ndarray, number: int) -> int | str:
    """Count the samples of a class, describe the numbers of a regression, or count events with their median time."""
    if task.timed:
        return times_in_words(targets)
    if task.numeric:
        return f"{targets.mean():.4g} ± {targets.std():.4g}" if len(targets) else ""
    return int((targets == number).sum() if task.exclusive else np.nansum(targets[:, number]))


def times_in_words(targets: np.ndarray) -> str:
    """Count the events among targets ``(n, 2)``, and describe their times."""
    at = event_times(targets)
    if not len(at):
        return "no event" if len(targets) else ""
    return f"{len(at)} events, median {np.median(at):.4g}"


def _notes(run: Run, table: Table, frame: pd.DataFrame) -> list[str]:
    notes = [table.split_made or "The split is the table's own."]
    notes += run.preprocessing.in_words()
    if run.config.get("augmentation"):
        notes.append(f"Training samples are augmented: {run.config['augmentation']}.")
    unreadable = int((frame["status"] != "ok").sum())
    if unreadable:
        reasons = "; ".join(sorted(set(frame.loc[frame["status"] != "ok", "status"])))
        notes.append(f"{unreadable} of {len(frame)} samples of this split were unreadable and left out: {reasons}.")
    left_out = run.config["table"].get("unreadable", 0)
    if left_out:
        notes.append(f"{left_out} training or validation samples were unreadable and left out.")
    if partial := run.config["table"].get("partial", 0):
        notes.append(f"{partial} training or validation cases were used without images that cannot be read.")
    some = int(((frame["status"] == "ok") & frame["reason"].fillna("").ne("")).sum()) if "reason" in frame else 0
    if some:
        notes.append(f"{some} cases of this split were predicted without images that cannot be read.")
    if copies := run.config["table"].get("copies"):
        notes.append(f"{copies[:1].upper()}{copies[1:]}.")
    notes += [f"Audit before training: {sentence}." for sentence in run.config["table"].get("audit", [])]
    if (survival := run.calibration.survival) is not None:
        notes += _notes_on_survival(run.task, survival, is_study=bool(run.members))
    elif run.calibration.scale is not None:
        notes += _notes_on_numbers(run.calibration.scale, 1 / run.calibration.temperature, is_study=bool(run.members))
    elif run.members:
        notes.append("Logits are calibrated with one temperature, fitted to the held-out samples of all folds.")
    else:
        temperature = run.calibration.temperature
        notes.append(f"Probabilities are calibrated on validation with temperature {temperature:.3g}.")
    return notes


def _notes_on_survival(task: Task, survival: Survival, *, is_study: bool) -> list[str]:
    """State what the outputs are, and where survival is predicted."""
    at = ", ".join(number_names(survival.horizons))
    rows = "the held-out samples of all folds" if is_study else "the validation samples"
    if task.cuts:
        cuts = ", ".join(f"{cut:.4g}" for cut in task.cuts)
        model = f"The model gives the hazard of each of {len(task.cuts)} intervals of time, which end at {cuts}."
        scale = f"their logits are multiplied by {survival.slope:.3g}, and {survival.level:+.3g} is added"
        return [model, f"Survival is predicted at {at}, from hazards that are calibrated on {rows}: {scale}."]
    model = "The model gives the logarithm of a hazard ratio, the same at all times (Cox)."
    return [
        model,
        f"Survival is predicted at {at}, with Breslow's baseline hazard of {rows}; there the logarithm is multiplied by"
        f" {survival.slope:.3g} first, so that ratios are neither too large nor too small.",
    ]


def _notes_on_numbers(scale: Scale, std: float, *, is_study: bool) -> list[str]:
    """State the scale of a regression and where its prediction intervals are from."""
    notes = []
    if not is_study:
        notes.append(f"The target is standardized by the training rows: mean {scale.offset:.6g}, standard deviation"
                     f" {std:.4g}.")  # fmt: skip
    rows = "the held-out samples of all folds" if is_study else "the validation samples"
    if scale.half_width is None:
        return [*notes, "There are no prediction intervals: too few patients to choose their width on."]
    return [*notes, f"Prediction intervals of {scale.coverage * 100:g} % reach {scale.half_width:.4g} to either side: a"
                    f" quantile of the absolute errors on {rows}, by patients."]  # fmt: skip


def _describe_cost(cost: dict[str, Any]) -> dict[str, str]:
    if not cost:
        return {}
    products = "unknown" if cost["multiply_adds"] is None else f"{cost['multiply_adds'] / 1e9:.2f} G"
    planned = cost.get("planned", {})
    seconds = f" (planned: {planned['seconds']:.0f} s)" if "seconds" in planned else ""
    memory = f" (planned: {planned['memory_bytes'] / 2**30:.2f} GiB)" if "memory_bytes" in planned else ""
    return {
        "Parameters": f"{cost['parameters']:,}",
        "Multiply-adds per sample": f"{products} at {' x '.join(map(str, cost['shape']))}",
        "Training time": f"{cost['seconds']:.0f} s{' since it was resumed' if cost['resumed'] else ''}{seconds}",
        "Peak memory": f"{cost['peak_bytes'] / 2**30:.2f} GiB{memory}",
        "Machine": cost["machine"],
    }
