"""The quantities that are measured for a task, with their values and their statistics over resamples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from softfree.evaluation import vectorized_metrics as weighted
from softfree.evaluation.bootstrap import Statistic
from softfree.evaluation.calibration import DEFAULT_THRESHOLD, ece, ece_by_chance
from softfree.evaluation.scores import Scores, missing_reason, undefined_reason
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.outputs import chosen_classes
from softfree_runtime.core.task import Task

Family = Literal["auroc", "proportion", "ece", "other"]
BALANCED = {"binary": ("sensitivity", "specificity"), "multiclass": ("sensitivity",), "ordinal": ("sensitivity",)}
"""The metrics of each class that balanced accuracy averages; a finding of a multilabel task counts as binary."""


@dataclass(frozen=True)
class Quantity:
    """A number to measure.

    Attributes:
        value: Over all samples; NaN if undefined, and ``reason`` says why.
        family: Decides the kind of interval.
        rows: Boolean ``(n,)``, the samples it is taken over.
        n_positive: Positives among them; None if it is not about a single class.
        k: The class; None if it is about several.
        above: Whether it is about the classes above ``k``.
        statistic: Computes it over resamples of all samples; None for a mean of others.
        parts: Names of the quantities that it averages.
        note: Its definition, in words.
        reason: Why it is undefined, or what is missing from it.
        patients: Number of patients behind it, if not all of those in ``rows`` count.
    """

    value: float
    family: Family
    rows: np.ndarray
    n_positive: int | None = None
    k: int | None = None
    above: bool = False
    statistic: Statistic | None = None
    parts: tuple[str, ...] = ()
    note: str = ""
    reason: str | None = None
    patients: int | None = None

    def against_others(self, scores: Scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return truth, score and patients of the class or classes that it is about, against all others."""
        assert self.k is not None
        return scores.above(self.k) if self.above else scores.one_vs_rest(self.k)


def quantities(
    scores: Scores, thresholds: Mapping[str, float] | None = None, prevalence: float | None = None
) -> dict[str, Quantity]:
    """List all quantities of a task by name; those of a single class are named ``<statistic>/<class>``.

    Args:
        scores: Predictions and truths.
        thresholds: Probability from which each class counts as present, for binary and multilabel tasks; 0.5 if None.
            Those that belong to the scores come first.
        prevalence: Share of positives for the predictive values at another prevalence; binary tasks only.

    Raises:
        UserError: A class has no threshold, or a prevalence is given that is no share or not for two classes.
    """
    if prevalence is not None:
        check_prevalence(scores.task, prevalence)
    task, calls = scores.task, predict_labels(scores, thresholds)
    names = [task.classes[k] for k in task.scored]
    found: dict[str, Quantity] = {}
    for k, name in zip(task.scored, names, strict=True):
        at = _at_threshold(scores, name, thresholds) if task.by_threshold else ""
        found |= {f"{statistic}/{name}": q for statistic, q in _against_rest(scores, k, calls[:, k], at).items()}
    if task.kind == "binary":
        per_class = ("sensitivity", "specificity", "ppv", "npv")
        found = {key if key.startswith(per_class) else key.partition("/")[0]: q for key, q in found.items()}
        if prevalence is not None:
            found |= _at_prevalence(scores, calls[:, 1], prevalence)
    else:
        if not task.by_threshold:
            found |= _of_multiclass(scores, calls)
        if task.ordered:
            found |= _of_grades(scores, calls.argmax(1))
        for statistic in ("auroc", "average_precision", "f1", "mcc", "kappa", "accuracy", "brier", "ece"):
            if statistic not in found:
                found[statistic] = _average(found, {name: [f"{statistic}/{name}"] for name in names})
    sides = BALANCED.get(task.kind, BALANCED["binary"])
    balanced = _average(found, {name: [f"{side}/{name}" for side in sides] for name in names})
    found["balanced_accuracy"] = replace(balanced, n_positive=found["accuracy"].n_positive)
    return found


def aurocs(scores: Scores) -> dict[str, Quantity]:
    """List only the AUROC, and for several scored classes the AUROCs that it averages, as in :func:`quantities`."""
    task = scores.task
    if task.ordered:
        return _at_cuts(scores)
    found = {f"auroc/{task.classes[k]}": _auroc(scores, k) for k in task.scored}
    if task.kind == "binary":
        return {"auroc": found.popitem()[1]}
    return found | {"auroc": _average(found, {name.partition("/")[2]: [name] for name in found})}


def predict_labels(scores: Scores, thresholds: Mapping[str, float] | None) -> np.ndarray:
    """Predict which classes are present, boolean ``(n, K)``: by threshold, else one class (:func:`chosen_classes`).

    Raises:
        UserError: A class has no threshold.
    """
    task, p = scores.task, scores.probabilities
    if not task.by_threshold:
        return chosen_classes(np.nan_to_num(p), task)[:, None] == np.arange(p.shape[1])
    names = [task.classes[k] for k in task.scored]
    present = p[:, task.scored] >= np.stack([row_thresholds(scores, name, thresholds) for name in names], axis=1)
    return present if task.kind == "multilabel" else np.hstack([~present, present])


def _at_threshold(scores: Scores, name: str, thresholds: Mapping[str, float] | None) -> str:
    """State the threshold of a class."""
    if scores.thresholds is None:
        return f"at probability {threshold_of(name, thresholds):.3g} and above"
    low, high = scores.thresholds[name].min(), scores.thresholds[name].max()
    return f"at probabilities of {low:.3g} to {high:.3g} and above, chosen for each fold on the others"


def row_thresholds(scores: Scores, name: str, thresholds: Mapping[str, float] | None) -> np.ndarray:
    """Return the threshold of a class for each sample ``(n,)``: those of the scores, else the same for all.

    Raises:
        UserError: There are thresholds, but not for this class.
    """
    if scores.thresholds is not None:
        return scores.thresholds[name]
    return np.full(len(scores), threshold_of(name, thresholds))


def threshold_of(name: str, thresholds: Mapping[str, float] | None) -> float:
    """Look up the threshold of a class; 0.5 if none were chosen.

    Raises:
        UserError: Thresholds were chosen, but not for this class.
    """
    if thresholds is None:
        return DEFAULT_THRESHOLD
    if name not in thresholds:
        raise UserError(f"no threshold for {name!r}; got thresholds for {sorted(thresholds)}: choose them on the "
                        "validation samples of this task")  # fmt: skip
    return thresholds[name]


def _against_rest(scores: Scores, k: int, call: np.ndarray, at: str) -> dict[str, Quantity]:
    """Quantities of class ``k`` against all others; ``at`` states the threshold in words."""
    rows, score = scores.known(k), scores.probabilities[:, k]
    y, p, _ = scores.one_vs_rest(k)
    positives = int(y.sum())
    truth = np.full(len(rows), np.nan)
    truth[rows] = y
    ranked = _auroc(scores, k)
    found = {"auroc": ranked, "average_precision": replace(ranked, family="other")}
    if ranked.reason is None:
        found["average_precision"] = replace(
            ranked,
            value=float(average_precision_score(y, p)),
            statistic=weighted.on(rows, weighted.average_precision(y, p)),
            family="other",
        )
    found["sensitivity"] = _mean(call, truth == 1, score, "proportion", positives, "no positive sample", at)
    found["specificity"] = _mean(~call, truth == 0, score, "proportion", 0, "no negative sample", at)
    found["ppv"] = _mean(
        truth == 1, rows & call, score, "proportion", int(y[call[rows]].sum()), "no positive prediction", at
    )
    found["npv"] = _mean(
        truth == 0, rows & ~call, score, "proportion", int(y[~call[rows]].sum()), "no negative prediction", at
    )
    found["f1"] = _of_calls(
        score, rows, weighted.f1(y == 1, call[rows]), positives, "no positive, true or predicted", at
    )
    if scores.task.by_threshold:
        found |= _agreement(scores.task, score, rows, y, call[rows].astype(np.int64), 2, positives, at)
        found["accuracy"] = _mean(call == (truth == 1), rows, score, "proportion", positives, note=at)
        found["brier"] = _mean((score - truth) ** 2, rows, score, "other", positives)
        found["ece"] = _calibration(y, p, rows, positives)
    return found


def _of_calls(
    score: np.ndarray, rows: np.ndarray, statistic: Statistic, positives: int | None, without: str, note: str
) -> Quantity:
    """Quantity of the predicted classes of ``rows``; ``without`` says why it may be undefined.

    ``score`` is NaN where there is no prediction.
    """
    reason = missing_reason(score[rows])
    value = math.nan if reason else float(statistic(np.ones((1, int(rows.sum()))))[0])
    if math.isnan(value):
        return Quantity(math.nan, "other", rows, positives, note=note, reason=reason or without)
    return Quantity(value, "other", rows, positives, statistic=weighted.on(rows, statistic), note=note)


def _agreement(
    task: Task,
    score: np.ndarray,
    rows: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    classes: int,
    positives: int | None = None,
    note: str = "",
) -> dict[str, Quantity]:
    """Matthews' correlation and kappas of true and predicted class numbers of ``rows``."""
    same = "all samples have, or are predicted as, one class"
    statistics = {
        "mcc": weighted.matthews(truth, predicted, classes),
        "kappa": weighted.kappa(truth, predicted, classes),
    }
    if _are_grades(task):
        statistics["quadratic_kappa"] = weighted.kappa(truth, predicted, classes, quadratic=True)
    return {name: _of_calls(score, rows, found, positives, same, note) for name, found in statistics.items()}


def _are_grades(task: Task) -> bool:
    """Whether a distance between classes has a meaning: they have an order, or are three or more increasing numbers."""
    if task.by_threshold or task.ordered:
        return task.ordered
    try:
        numbers = [float(name) for name in task.classes]
    except ValueError:
        return False
    return len(numbers) > 2 and bool(np.all(np.diff(numbers) > 0))


def _at_prevalence(scores: Scores, call: np.ndarray, prevalence: float) -> dict[str, Quantity]:
    """Predictive values of a binary task where positives have another share."""
    truth, rows, name = scores.targets == 1, np.ones(len(scores), dtype=bool), scores.task.classes[1]
    found = {}
    for statistic, positive in (("ppv", True), ("npv", False)):
        values = weighted.predictive_value(truth, call, prevalence, positive=positive)
        without = f"no {'positive' if positive else 'negative'} prediction, or a class without samples"
        note = f"at a prevalence of {prevalence:g}"
        quantity = _of_calls(scores.probabilities[:, 1], rows, values, int(truth.sum()), without, note)
        found[f"{statistic}_at_prevalence/{name}"] = replace(quantity, k=1)
    return found


def check_prevalence(task: Task, prevalence: float) -> None:
    """Refuse a prevalence that is no share, or for a task that is not binary.

    Raises:
        UserError: In these cases.
    """
    if task.kind != "binary":
        raise UserError(f"got a prevalence for {len(task.classes)} classes or findings; it is for tasks of two "
                        "classes: leave it out")  # fmt: skip
    if not 0 < prevalence < 1:
        raise UserError(f"got a prevalence of {prevalence:g}; expected a share between 0 and 1, such as 0.02")


def _auroc(scores: Scores, k: int) -> Quantity:
    """AUROC of class ``k`` against all others."""
    return _ranked(scores, k, scores.known(k))


def _ranked(scores: Scores, k: int, rows: np.ndarray, *, above: bool = False) -> Quantity:
    """AUROC of class ``k``, or of the classes above it, against all others."""
    y, p, _ = scores.above(k) if above else scores.one_vs_rest(k)
    found = Quantity(math.nan, "auroc", rows, int(y.sum()), k, above=above, reason=undefined_reason(y, p))
    if found.reason is not None:
        return found
    return replace(found, value=float(roc_auc_score(y, p)), statistic=weighted.on(rows, weighted.auroc(y, p)))


def _of_multiclass(scores: Scores, calls: np.ndarray) -> dict[str, Quantity]:
    """Quantities of three or more classes together."""
    p, everyone = scores.probabilities, np.ones(len(scores), dtype=bool)
    truth = scores.targets[:, None] == np.arange(p.shape[1])
    right = (calls & truth).any(1)
    brier = _mean(((p - truth) ** 2).sum(1), everyone, p[:, 0], "other", note="sum over classes, from 0 to 2")
    return {
        **_agreement(scores.task, p.sum(axis=1), everyone, scores.targets, calls.argmax(1), p.shape[1]),
        "accuracy": _mean(right, everyone, p[:, 0], "proportion"),
        "brier": brier,
        "ece": _calibration(
            right.astype(np.int64),
            (p * calls).sum(1),
            everyone,
            None,
            f" of the probability of the {'predicted' if scores.task.ordered else 'most probable'} class",
        ),
    }


def _of_grades(scores: Scores, predicted: np.ndarray) -> dict[str, Quantity]:
    """Quantities of ordered classes: the distance of the predicted class numbers (n,), and the ranking at each cut."""
    everyone, distance = np.ones(len(scores), dtype=bool), np.abs(predicted - scores.targets)
    mae = _mean(distance.astype(float), everyone, scores.probabilities[:, 0], "other", note="in classes")
    return {"mae": mae, **_at_cuts(scores)}


def _at_cuts(scores: Scores) -> dict[str, Quantity]:
    """AUROC of the probability to lie above each class but the highest, and their mean, the AUROC of the task."""
    names, rows = scores.task.classes[:-1], np.ones(len(scores), dtype=bool)
    found = {f"auroc_above/{name}": _ranked(scores, k, rows, above=True) for k, name in enumerate(names)}
    mean = _average(found, {name: [f"auroc_above/{name}"] for name in names})
    return found | {"auroc": replace(mean, note=mean.note.replace("classes", "cuts between classes"))}


def _mean(
    values: np.ndarray,
    rows: np.ndarray,
    score: np.ndarray,
    family: Family,
    positives: int | None = None,
    without: str = "no samples",
    note: str = "",
) -> Quantity:
    """Mean of one value per sample over ``rows``; ``without`` says what is missing if there are none."""
    if reason := missing_reason(score[rows], without):
        return Quantity(math.nan, family, rows, positives, note=note, reason=reason)
    statistic = weighted.mean(np.where(rows, values, np.nan))
    return Quantity(float(values[rows].mean()), family, rows, positives, statistic=statistic, note=note)


def _calibration(y: np.ndarray, p: np.ndarray, rows: np.ndarray, positives: int | None, of: str = "") -> Quantity:
    if reason := missing_reason(p):
        return Quantity(math.nan, "ece", rows, positives, reason=reason)
    bins = weighted.bins_for(len(p))
    usual, most = ece_by_chance(p)
    note = f"{bins} bins of equal counts{of}" if bins > 1 else f"one bin for so few samples{of}"
    note += f"; perfect calibration would give {usual:.3f} on average here, and less than {most:.3f} in 95 % of cases"
    return Quantity(ece(y, p), "ece", rows, positives, note=note)


def _average(found: Mapping[str, Quantity], groups: Mapping[str, list[str]]) -> Quantity:
    """Mean over the quantities of classes; undefined ones are left out and named."""
    rows = np.any([found[part].rows for parts in groups.values() for part in parts], axis=0)
    whole = {name: parts for name, parts in groups.items() if not any(math.isnan(found[part].value) for part in parts)}
    if not whole:
        reasons = [found[part].reason for parts in groups.values() for part in parts]
        return Quantity(math.nan, "other", rows, reason=next(filter(None, reasons)))
    parts = tuple(part for group in whole.values() for part in group)
    value = float(np.mean([found[part].value for part in parts]))
    left_out = [name for name in groups if name not in whole]
    note = f"mean over {len(whole)} classes" if len(groups) > 1 else "mean of sensitivity and specificity"
    reason = f"left out for lack of samples: {_listed(left_out)}" if left_out else None
    family: Family = "ece" if found[parts[0]].family == "ece" else "other"
    return Quantity(value, family, rows, parts=parts, note=note, reason=reason)


def _listed(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
