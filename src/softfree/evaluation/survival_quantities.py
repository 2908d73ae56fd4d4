"""The quantities that are measured for predicted risks and survival, with their values and their statistics."""

from __future__ import annotations

import math

import numpy as np

from softfree.evaluation.bootstrap import Statistic
from softfree.evaluation.kaplan_meier import survival_at
from softfree.evaluation.metric_specs import Quantity
from softfree.evaluation.scores import missing_reason
from softfree.evaluation.survival_metrics import auroc_at, brier_at, concordance, integrated_brier
from softfree.evaluation.times import Times
from softfree_runtime.core.numbers import number_names

NO_PAIRS = "no event that another sample outlived"
NOT_KNOWN = "no sample with the event by then, or none that is known to be free of it after"
TOO_LATE = "not predicted at this time: it is after the last event that the model was made with"


def survival_quantities(times: Times) -> dict[str, Quantity]:
    """List all quantities of survival by name.

    ``c_index``, Harrell's; for each horizon ``auroc_at/<horizon>`` and ``brier_at/<horizon>``; and
    ``integrated_brier``, the mean Brier score up to the last horizon. The latter three have weights for censoring.
    """
    found = {"c_index": _c_index(times)}
    if times.survival is None or times.curves is None:
        return found
    columns = list(zip(number_names(times.horizons), times.survival.T, times.horizons, strict=True))
    found |= {f"auroc_at/{name}": _auroc(times, survival, horizon) for name, survival, horizon in columns}
    found |= {f"brier_at/{name}": _brier(times, survival, horizon) for name, survival, horizon in columns}
    return found | {"integrated_brier": _integrated(times)}


def _c_index(times: Times) -> Quantity:
    statistic = concordance(times.risks, times.targets)
    patients = len(np.unique(times.patients[times.events]))
    note = "Harrell's; higher risk for the earlier event"
    return _measured(times, statistic, times.risks, int(times.events.sum()), patients, note, NO_PAIRS)


def _auroc(times: Times, survival: np.ndarray, horizon: float) -> Quantity:
    case, control = times.events & (times.times <= horizon), times.times > horizon
    patients = min(len(np.unique(times.patients[side])) for side in (case, control))
    statistic = auroc_at(1 - survival, times.targets, horizon)
    note = "event by then against free of it after then, weighted for censoring"
    return _measured(times, statistic, survival, int(case.sum()), patients, note, NOT_KNOWN)


def _brier(times: Times, survival: np.ndarray, horizon: float) -> Quantity:
    statistic = brier_at(survival, times.targets, horizon)
    alike = np.full(len(times), survival_at(times.targets, np.array([horizon]))[0])
    note = f"weighted for censoring; {_by_kaplan_meier(brier_at(alike, times.targets, horizon), len(times))}"
    return _measured(times, statistic, survival, None, None, note, NOT_KNOWN)


def _integrated(times: Times) -> Quantity:
    assert times.curves is not None
    statistic = integrated_brier(times.curves, times.targets, times.grid)
    alike = np.tile(survival_at(times.targets, times.grid), (len(times), 1))
    reference = _by_kaplan_meier(integrated_brier(alike, times.targets, times.grid), len(times))
    note = f"mean up to {times.horizons[-1]:g}, weighted for censoring; {reference}"
    return _measured(times, statistic, times.curves.sum(axis=1), None, None, note, NOT_KNOWN)


def _by_kaplan_meier(statistic: Statistic, count: int) -> str:
    """State the value of a prediction that is the Kaplan-Meier curve of these samples, the same for all."""
    return f"one Kaplan-Meier curve for all would have {float(statistic(np.ones((1, count)))[0]):.3f}"


def _measured(
    times: Times,
    statistic: Statistic,
    predicted: np.ndarray,
    positives: int | None,
    patients: int | None,
    note: str,
    undefined: str,
) -> Quantity:
    reason = missing_reason(predicted)
    if reason and np.isfinite(times.risks).all():
        reason = TOO_LATE
    value = math.nan if reason else float(statistic(np.ones((1, len(times))))[0])
    missing = reason or (undefined if math.isnan(value) else None)
    everyone = np.ones(len(times), dtype=bool)
    return Quantity(
        value, "other", everyone, positives, statistic=statistic, note=note, reason=missing, patients=patients
    )
