"""Two models on the same samples: differences with intervals, and non-inferiority."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from softfree.evaluation import delong
from softfree.evaluation.answers import Answers
from softfree.evaluation.bootstrap import distribution
from softfree.evaluation.formatting import signed
from softfree.evaluation.intervals import bias_corrected, bootstrap_p
from softfree.evaluation.metric_specs import Quantity
from softfree.evaluation.metrics import (
    MainMetric,
    all_quantities,
    draws_of,
    independent,
    main_metric,
    max_left_out,
    resampled,
)
from softfree.evaluation.scores import Scores
from softfree.evaluation.times import Times
from softfree.evaluation.values import Values
from softfree_runtime.core.errors import UserError

LEVEL = 0.95
ORDINAL = ("auroc_above", "quadratic_kappa", "mae")
"""Further metrics that are compared for ordered classes."""
NUMERIC = ("mae", "rmse", "r2")
"""Metrics that are compared for numbers."""
TIMED = ("c_index", "integrated_brier", "auroc_at", "brier_at")
"""Metrics that are compared for survival; but for the first, only at the same horizons."""
TITLES = {"auroc": "AUROC", "mae": "mean absolute error", "c_index": "C-index", "score": "mean score of the targets"}
Thresholds = Mapping[str, float] | None
Draws = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """A statistic of two models on the same samples and ``value = a - b``.

    ``p`` is two-sided and below 0.05 where the interval excludes 0. ``reason`` explains a missing number.
    """

    a: float
    b: float
    value: float
    low: float
    high: float
    p: float
    method: str
    n: int
    n_positive: int | None
    reason: str | None = None


@dataclass(frozen=True)
class Comparison:
    """The result of comparing two models on the same samples.

    Attributes:
        differences: By the names of :func:`~softfree.evaluation.metrics.measure`: ``auroc``, ``auroc/<class>``,
            ``balanced_accuracy``, and of ordered classes :data:`ORDINAL`. The p values of the classes are not corrected
            for their number.
        margin: How much worse ``a`` may be in AUROC; None if non-inferiority was not tested.
        non_inferior: Whether ``a`` is shown to be worse by less than the margin; None if not tested or undecidable.
        verdict: The result in words.
    """

    differences: dict[str, Difference]
    margin: float | None
    non_inferior: bool | None
    verdict: str


def compare(
    a: Answers,
    b: Answers,
    *,
    margin: float | None = None,
    seed: int = 0,
    num_bootstrap: int = 2000,
    thresholds: tuple[Thresholds, Thresholds] = (None, None),
    names: tuple[str, str] = ("The first", "the second"),
    only: MainMetric | None = None,
    draws: tuple[Draws, Draws] | None = None,
) -> Comparison:
    """Compare two models on the same samples, with two-sided 95 % intervals of ``a - b``.

    A one-vs-rest AUROC has DeLong's paired interval and test if every patient has one sample. With repeated patients,
    and for means over classes and balanced accuracy, both models are evaluated on the same resamples of patients.
    ``a`` is non-inferior if the lower bound of its AUROC difference is above ``-margin``, which is the one-sided
    test at 2.5 % (CONSORT's extension: Piaggio et al., JAMA 308, 2012). The margin must be fixed in advance.

    Args:
        a: The model in question, for example the cheaper one.
        b: The model to compare it with.
        margin: Non-inferiority margin in AUROC, for example 0.02.
        seed: Seed of the resampling.
        num_bootstrap: Number of resamples.
        thresholds: Of each model, for balanced accuracy; None for 0.5.
        names: Names of the models, for the verdict.
        only: ``auroc`` to skip the classes and the balanced accuracy.
        draws: Of both models, from :func:`~softfree.evaluation.metrics.draws_of_auroc`; only with ``only="auroc"``.

    Raises:
        UserError: The samples differ, or the margin is not between 0 and 1.
    """
    main = main_metric(a.task)
    if margin is not None and not (0 < margin < 1 or (main == "mae" and 0 < margin < math.inf)):
        expected = "number above 0" if main == "mae" else "number between 0 and 1, such as 0.02"
        raise UserError(f"got a non-inferiority margin of {margin}; expected a {expected}")
    _check_same(a, b)
    differences = _differences(a, b, thresholds, seed, num_bootstrap, only, draws)
    if np.array_equal(_answers(a), _answers(b)):
        differences[main] = _identical(differences[main])
    non_inferior, verdict = _judge(differences[main], main, margin, *names)
    return Comparison(differences, margin, non_inferior, verdict)


def _answers(scores: Answers) -> np.ndarray:
    if isinstance(scores, Times):
        return scores.risks
    return scores.predicted if isinstance(scores, Values) else scores.probabilities


def _differences(
    a: Answers,
    b: Answers,
    thresholds: tuple[Thresholds, Thresholds],
    seed: int,
    num_bootstrap: int,
    only: MainMetric | None,
    given_draws: tuple[Draws, Draws] | None,
) -> dict[str, Difference]:
    """Compare balanced accuracy and all AUROCs, or the errors of predicted numbers."""
    first, second = all_quantities(a, thresholds[0], only=only), all_quantities(b, thresholds[1], only=only)
    statistics = ("auroc", *(ORDINAL if a.task.ordered else ()), "balanced_accuracy")
    if a.task.numeric:
        statistics = NUMERIC
    if isinstance(a, Times) and isinstance(b, Times):
        statistics = TIMED if a.horizons == b.horizons else TIMED[:1]
    compared = [name for name in first if name.partition("/")[0] in statistics and only in (None, name)]
    compared = [name for name in compared if name in second]
    names = sorted(compared, key=lambda name: ("/" in name, statistics.index(name.partition("/")[0])))
    draws = given_draws or [
        distribution(resampled(items, names), scores.patients, num_bootstrap=num_bootstrap, seed=seed)
        for items, scores in ((first, a), (second, b))
    ]
    words = f"paired bootstrap over patients, {num_bootstrap} resamples, seed {seed}"
    differences = {}
    for name in names:
        x, y = first[name], second[name]
        if isinstance(a, Scores) and isinstance(b, Scores) and x.family == "auroc" and not a.patients_repeat:
            differences[name] = _by_delong(x, a, b)
            continue
        differences[name] = _by_bootstrap(x, y, name, draws, words, independent(x, first, a))
        if isinstance(a, Scores) and isinstance(b, Scores) and x.family == "auroc" and a.task.kind == "binary":
            differences["auroc_delong"] = _by_delong(x, a, b)
    return differences


def _identical(difference: Difference) -> Difference:
    """Return a difference of exactly 0 for models with the same probabilities, where resamples show no spread."""
    if math.isnan(difference.value):
        return difference
    return replace(difference, low=0.0, high=0.0, p=1.0, reason="both give the same probabilities")


def _check_same(a: Answers, b: Answers) -> None:
    fix = "score both models on the same table and split"
    if replace(a.task, cuts=()) != replace(b.task, cuts=()):
        raise UserError(f"got a {a.task.kind} task of {len(a.task.classes)} classes and a {b.task.kind} task of "
                        f"{len(b.task.classes)}; expected the same classes in the same order: {fix}")  # fmt: skip
    if len(a) != len(b):
        raise UserError(f"got {len(a)} and {len(b)} samples; expected the same samples in the same order: {fix}")
    if not np.array_equal(a.targets, b.targets, equal_nan=True):
        raise UserError(f"got different truths in row {_first_difference(a.targets, b.targets)}; expected the same "
                        f"samples in the same order: {fix}")  # fmt: skip
    if not np.array_equal(pd.factorize(a.patients)[0], pd.factorize(b.patients)[0]):
        raise UserError(f"got samples grouped into patients differently; expected the same samples in the same "
                        f"order: {fix}")  # fmt: skip


def _first_difference(a: np.ndarray, b: np.ndarray) -> int:
    unequal = (a != b) & ~((a != a) & (b != b))  # NaN equals NaN
    return int(np.flatnonzero(unequal.reshape(len(a), -1).any(1))[0]) + 1


def _by_delong(x: Quantity, a: Scores, b: Scores) -> Difference:
    truth, score, _ = x.against_others(a)
    pair = delong.paired_difference(truth, score, x.against_others(b)[1], level=LEVEL)
    method = "paired DeLong, score interval"
    if a.patients_repeat:
        method += "; treats samples of one patient as independent"
    n = int(x.rows.sum())
    return Difference(
        pair.a, pair.b, pair.difference, pair.low, pair.high, pair.p, method, n, x.n_positive, pair.reason
    )


def _by_bootstrap(x: Quantity, y: Quantity, name: str, draws: Sequence[Draws], words: str, patients: int) -> Difference:
    n, positives = int(x.rows.sum()), x.n_positive
    value = x.value - y.value
    reason = x.reason or y.reason
    if math.isnan(value) or x.parts != y.parts:
        nan = math.nan
        return Difference(x.value, y.value, nan, nan, nan, nan, words, n, positives, reason or "not the same classes")
    resampled_differences = draws_of(x, name, draws[0]) - draws_of(y, name, draws[1])
    interval = bias_corrected(value, resampled_differences, LEVEL, words, max_left_out(x, draws[0]), patients)
    reason = "; ".join(text for text in (reason, interval.reason) if text) or None
    low, high, method = interval.low, interval.high, interval.method
    p = math.nan if math.isnan(low) else bootstrap_p(value, resampled_differences, patients)
    return Difference(x.value, y.value, value, low, high, p, method, n, positives, reason)


def _judge(main: Difference, metric: MainMetric, margin: float | None, a: str, b: str) -> tuple[bool | None, str]:
    """Compare the main difference with 0 and the margin, in words."""
    if math.isnan(main.low):
        why = f": {main.reason}" if main.reason else ""
        return None, f"{a} cannot be compared with {b}, because the difference has no interval{why}."
    title, better = TITLES[metric], "predicts" if metric == "mae" else "ranks"
    sizes = f"{title} {main.a:.3f} against {main.b:.3f}, difference {signed(main.value)} (95 % interval "
    sizes += f"{signed(main.low)} to {signed(main.high)})"
    # How much better a is: an error is better if it is lower.
    low, high = (-main.high, -main.low) if metric == "mae" else (main.low, main.high)
    if margin is None:
        if low > 0 or high < 0:
            return None, f"{a} {better} {'better' if low > 0 else 'worse'} than {b}: {sizes}."
        return None, f"No difference between {a} and {b} is shown, which does not mean that there is none: {sizes}."
    sizes += f", margin {signed(margin if metric == 'mae' else -margin)}"
    if low > 0:
        return True, f"{a} is better than {b}, and therefore not inferior: {sizes}."
    if low > -margin:
        worse = ", although it is worse by less than the margin" if high < 0 else ""
        return True, f"{a} is not inferior to {b}{worse}: {sizes}."
    if high < -margin:
        return False, f"{a} is inferior to {b}: {sizes}."
    return False, f"It is not shown that {a} is not inferior to {b}; more patients may settle it: {sizes}."
