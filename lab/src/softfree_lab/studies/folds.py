"""Cross-validation in a study: the same folds for all variants and seeds, and pooled predictions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from softfree.data.folds import assign_folds, write_folds
from softfree.data.table import read_table
from softfree_lab.studies.trials import Trial, TrialKey


def draw_folds(table: Path, options: Mapping[str, Any], count: int, path: Path) -> None:
    """Assign all rows of a table to folds, whatever their split is, and write them.

    Each fold is held out once, as the validation split of the training on the others.

    Args:
        table: The table.
        options: Options of the recipe, for its label columns.
        count: Number of folds.
        path: The ``folds.json`` to write.

    Raises:
        UserError: As for :func:`~softfree.data.folds.assign_folds`.
    """
    columns = {name: options[name] for name in ("label", "labels", "positive") if options.get(name) is not None}
    rows = read_table(table, **columns, strict_patients=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_folds(path, rows, assign_folds(rows, count, use_test=True))


def pool_folds(trials: Mapping[TrialKey, Trial]) -> dict[TrialKey, Trial]:
    """Pool the predictions of all folds of a variant and seed, so that every image is tested once.

    Times are summed over the folds, and memory is the maximum. A variant and seed with a missing fold is excluded if
    others of its data set have that fold.
    """
    groups: dict[TrialKey, dict[int, Trial]] = defaultdict(dict)
    for key, trial in trials.items():
        groups[key._replace(fold=0)][key.fold] = trial
    folds = {data: {key.fold for key in trials if key.data == data} for data in {key.data for key in trials}}
    return {key: _pooled(key, parts) for key, parts in sorted(groups.items()) if set(parts) == folds[key.data]}


def _pooled(key: TrialKey, parts: dict[int, Trial]) -> Trial:
    trials = [parts[fold] for fold in sorted(parts)]
    if len(trials) == 1:
        return trials[0]
    first = trials[0]
    patients, offset = [], 0
    for trial in trials:  # a patient is in one fold only
        patients += [offset + patient for patient in trial.patients]
        offset += max(trial.patients) + 1
    cost = dict(first.cost)
    for name in ("seconds", "cpu_seconds"):
        cost[name] = sum(trial.cost[name] for trial in trials)
    cost["peak_bytes"] = max(trial.cost["peak_bytes"] for trial in trials)
    cost["resumed"] = any(trial.cost["resumed"] for trial in trials)
    return replace(
        first,
        key=key,
        targets=[target for trial in trials for target in trial.targets],
        patients=patients,
        probabilities={
            scale: [row for trial in trials for row in trial.probabilities[scale]] for scale in first.probabilities
        },
        cost=cost,
        curve=[],
    )
