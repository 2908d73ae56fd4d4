"""Conformal sets: how probable a class must be to be plausible, and how often sets contain the true class.

Split conformal prediction with one threshold per true class (Mondrian; Vovk, ACML 2012) and ``1 - probability`` as
nonconformity. Patients, not samples, are exchangeable: each counts once, however many samples it has (Lee, Barber and
Willett, arXiv:2306.06342), so that repeating a patient's images changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from softfree.evaluation.intervals import ROUNDING
from softfree.evaluation.scores import Scores
from softfree.evaluation.values import Values
from softfree_runtime.core.conformal import ConformalSets

COVERAGE = 0.9


def patient_quantile(values: np.ndarray, patients: np.ndarray, level: float) -> float:
    """Return the smallest value that a sample of a new patient exceeds with a probability of at most ``1 - level``.

    Each of n patients has weight 1 / (n + 1), spread evenly over its samples; the rest belongs to the new patient and
    lies at infinity. With one sample per patient, this is the ceil((n + 1) level)-th smallest value.

    Args:
        values: ``(samples,)``.
        patients: Their patient numbers.
        level: Between 0 and 1.

    Returns:
        Infinity if there are too few patients: fewer than ``level / (1 - level)``, such as 9 for 0.9.
    """
    _, number, counts = np.unique(patients, return_inverse=True, return_counts=True)
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(1 / counts[number][order])
    enough = np.flatnonzero(reached >= level * (len(counts) + 1) - ROUNDING)
    return float(values[order[enough[0]]]) if len(enough) else math.inf


def fit_sets(scores: Scores, coverage: float = COVERAGE) -> ConformalSets:
    """Choose the minimum probability of each class on samples that the model was not trained on.

    Args:
        scores: Calibrated probabilities; findings of unknown truth are ignored.
        coverage: Share of new samples of each class whose set shall contain it.
    """
    absent = {}
    if not scores.task.exclusive:
        absent = {name: _minimum(scores, k, 0, coverage) for k, name in enumerate(scores.task.classes)}
    present = {name: _minimum(scores, k, 1, coverage) for k, name in enumerate(scores.task.classes)}
    return ConformalSets(coverage, present, absent)


def fit_half_width(values: Values, coverage: float = COVERAGE) -> float | None:
    """Choose half the width of a regression's intervals on samples that the model was not trained on.

    Split conformal prediction with the absolute error as nonconformity (Lei et al., JASA 113, 2018), by patients.

    Args:
        values: Predictions and truths.
        coverage: Share of new samples whose interval shall contain the truth.

    Returns:
        None with too few patients.
    """
    known = ~np.isnan(values.predicted)
    errors = np.abs(values.predicted - values.targets)[known]
    width = patient_quantile(errors, values.patients[known], coverage)
    return width if math.isfinite(width) else None


def _minimum(scores: Scores, k: int, state: int, coverage: float) -> float:
    """Minimum probability of class ``k`` being present (state 1) or absent (0); 0 with too few patients."""
    truth, p, patients = scores.one_vs_rest(k)
    rows = truth == state
    p = (p if state else 1 - p)[rows]
    return max(0.0, -patient_quantile(-p, patients[rows], coverage))


@dataclass(frozen=True)
class ClassCoverage:
    """How often sets contain the truth, for the samples of one class or of one state of a finding, or for all samples.

    Attributes:
        name: The class; for a finding with its state, such as ``edema, absent``; or ``all``.
        n: Number of samples; of all findings together, number of known truths.
        patients: Number of their patients.
        covered: Share whose set contains the truth; NaN without samples.
        low: Lower bound of its 95 % interval (Clopper and Pearson, with patients as trials).
        high: Upper bound.
        decided: Number with exactly one plausible class.
        right: Share of these for which it is the true one; NaN if there are none.
        always: Whether the class is in every set, for want of patients to choose a minimum on.
    """

    name: str
    n: int
    patients: int
    covered: float
    low: float
    high: float
    decided: int
    right: float
    always: bool = False


@dataclass(frozen=True)
class Coverage:
    """How conformal sets work on samples of known truth.

    Attributes:
        target: The coverage that the sets were made for.
        all: Over all classes.
        classes: For each class; for each finding, present and absent.
        mean_size: Mean number of classes per set; for findings, share of findings that are uncertain.
        abstained: Share of samples without exactly one plausible class, or with an uncertain finding.
        unusual: Share of samples that are unlike the training samples; None if that is not measured.
    """

    target: float
    all: ClassCoverage
    classes: list[ClassCoverage]
    mean_size: float
    abstained: float
    unusual: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)

    def rows(self) -> dict[str, ClassCoverage]:
        """Return the classes by name."""
        return {row.name: row for row in self.classes}

    def sentences(self) -> list[str]:
        """Summarize in words."""
        lines = [
            f"Sets for {self.target * 100:g} % coverage contain the truth for {_percent(self.all.covered)} of"
            f" {self.all.n}; {_percent(self.abstained)} of the samples abstain."
        ]
        if self.all.decided:
            lines.append(f"Of {self.all.decided} decided ones, {_percent(self.all.right)} are right.")
        if self.unusual is not None:
            lines.append(f"{_percent(self.unusual)} of the samples are unusual.")
        if always := [row.name for row in self.classes if row.always]:
            lines.append(f"Too few validation patients, so in every set: {'; '.join(always)}.")
        return lines


def measure_coverage(
    scores: Scores, sets: Sequence[tuple[np.ndarray, ConformalSets]], unusual: np.ndarray | None = None
) -> Coverage:
    """Measure how conformal sets work.

    Args:
        scores: Calibrated probabilities and truths.
        sets: Rows, boolean ``(n,)``, and the sets to use for them: in a cross-validation, those of the other folds.
        unusual: Which samples are unusual, boolean ``(n,)``.
    """
    task = scores.task
    truths = _truths(scores)  # (n, K) or (n, K, 2)
    plausible = np.zeros_like(truths)
    states: list[tuple[str, Any]]
    for rows, own in sets:
        plausible[rows] = own.plausible(scores.probabilities[rows], task)
    if task.exclusive:
        sizes = plausible.sum(axis=1)
        single = np.repeat((sizes == 1)[:, None], len(task.classes), axis=1)
        abstains, mean_size = sizes != 1, float(sizes.mean())
        states = [("", (k,)) for k in range(len(task.classes))]
    else:
        single = np.repeat((plausible.sum(axis=2) == 1)[..., None], 2, axis=2)
        plausible |= ~single  # if neither state is plausible, the finding is called uncertain
        abstains, mean_size = ~single[..., 0].all(axis=1), float((~single[..., 0]).mean())
        states = [(f", {state}", (k, number)) for k in range(len(task.classes))
                  for state, number in (("present", 1), ("absent", 0))]  # fmt: skip
    classes = []
    for state, index in states:
        rows, name = truths[:, *index], task.classes[index[0]]
        minima = [own.absent if state == ", absent" else own.present for _, own in sets]
        always = any(minimum[name] == 0 for minimum in minima)
        inside, decided = plausible[:, *index][rows], single[:, *index][rows]
        classes.append(_count(name + state, inside, decided, scores.patients[rows], always))
    owners = np.broadcast_to(scores.patients.reshape(-1, *[1] * (truths.ndim - 1)), truths.shape)
    whole = _count("all", plausible[truths], single[truths], owners[truths])
    share = None if unusual is None else float(unusual.mean())
    return Coverage(sets[0][1].coverage, whole, classes, mean_size, float(abstains.mean()), share)


def _truths(scores: Scores) -> np.ndarray:
    """Return which class is true, boolean (n, K), or which state of each finding, (n, K, 2); none if unknown."""
    if scores.task.exclusive:
        return np.equal(scores.targets[:, None], np.arange(len(scores.task.classes)))
    return np.equal(scores.targets[..., None], (0, 1))


def _count(
    name: str, inside: np.ndarray, decided: np.ndarray, owners: np.ndarray, always: bool = False
) -> ClassCoverage:
    """Count samples whose set contains their class ``inside``, and those with one class, ``decided``."""
    n, patients = len(inside), len(np.unique(owners))
    if not n:
        return ClassCoverage(name, 0, 0, math.nan, math.nan, math.nan, 0, math.nan, always)
    covered = float(inside.mean())
    low, high = binomtest(round(covered * patients), patients).proportion_ci(method="exact")
    right = float(inside[decided].mean()) if decided.any() else math.nan
    return ClassCoverage(name, n, patients, covered, float(low), float(high), int(decided.sum()), right, always)


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"
