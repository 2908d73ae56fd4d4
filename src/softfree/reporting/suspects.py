"""Labels that are probably wrong, by the probabilities of models that were not trained on the samples."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pandas as pd

from softfree.data.audit.checks import counted
from softfree.evaluation.scores import Scores


def find_suspects(scores: Scores, rows: np.ndarray, folds: np.ndarray) -> pd.DataFrame | None:
    """Find labels that are probably wrong, by confident learning (Northcutt et al., JAIR 70, 2021).

    With 5 % of the labels changed at random, 69 to 91 % of these were found among 640 blood cells of eight classes and
    75 to 92 % among 240 chest radiographs, by logistic regressions with accuracies of 0.84 and 0.90; 37 to 53 % of the
    suspects had been changed.

    Args:
        scores: Out-of-fold probabilities.
        rows: Numbers of the table's rows ``(n,)``.
        folds: Fold in which each row was held out ``(n,)``.

    Returns:
        ``row``, ``fold``, ``label``, ``suggested`` and their probabilities, the least probable label first; ``finding``
        for tasks of several. None if cleanlab is not installed.
    """
    if find_spec("cleanlab") is None:
        return None
    parts = [_suspects(*part) for part in _decisions(scores, rows, folds)]
    suspects = pd.concat(parts, ignore_index=True)
    if scores.task.exclusive:
        suspects = suspects.drop(columns="finding")
    return suspects.sort_values(["p_label", "row"], kind="stable", ignore_index=True)


def suspects_in_words(suspects: pd.DataFrame | None, scores: Scores) -> str:
    """Say how many labels are suspect and what that means, or why none were searched for."""
    if suspects is None:
        return "Labels were not examined: this needs cleanlab (pip install 'softfree[audit]')."
    labels = int((~np.isnan(scores.targets.astype(float))).sum())
    return (
        f"{len(suspects)} of {counted(labels, 'label')} are improbable for the models that were not trained on these"
        " samples (confident learning, cleanlab). Some may be wrong, others are correct labels of difficult samples:"
        " look at the samples, the first ones first, before changing anything."
    )


def _decisions(
    scores: Scores, rows: np.ndarray, folds: np.ndarray
) -> Iterator[tuple[str, tuple[str, ...], np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Yield finding, names of the classes, labels, probabilities, rows and folds of each exclusive decision."""
    classes = scores.task.classes
    if scores.task.exclusive:
        yield "", classes, scores.targets.astype(int), scores.probabilities, rows, folds
        return
    for number, name in enumerate(classes):
        known = ~np.isnan(scores.targets[:, number])
        p = scores.probabilities[known, number]
        labels = scores.targets[known, number].astype(int)
        yield name, ("absent", "present"), labels, np.stack([1 - p, p], axis=1), rows[known], folds[known]


def _suspects(
    finding: str, classes: tuple[str, ...], labels: np.ndarray, p: np.ndarray, rows: np.ndarray, folds: np.ndarray
) -> pd.DataFrame:
    from cleanlab.filter import find_label_issues

    found = np.empty(0, int)
    if len(np.unique(labels)) > 1:
        options = {"return_indices_ranked_by": "self_confidence", "filter_by": "both", "n_jobs": 1}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes with very few examples, whose labels are not judged
            found = find_label_issues(labels, p, **options)
    suggested = p[found].argmax(axis=1)
    names = np.array(classes, dtype=object)
    return pd.DataFrame(
        {
            "row": rows[found],
            "fold": folds[found],
            "finding": finding,
            "label": names[labels[found]],
            "suggested": names[suggested],
            "p_label": p[found, labels[found]].round(4),
            "p_suggested": p[found, suggested].round(4),
        }
    )
