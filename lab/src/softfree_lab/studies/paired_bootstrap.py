"""Bootstrap estimates over patients that can be averaged over runs and subtracted as pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softfree.evaluation.bootstrap import distribution
from softfree.evaluation.intervals import Interval, bias_corrected, no_interval
from softfree.evaluation.metric_specs import quantities
from softfree.evaluation.metrics import draws_of, independent, max_left_out, resampled
from softfree.evaluation.scores import Scores


@dataclass(frozen=True, eq=False)
class BootstrapEstimate:
    """A statistic with its bootstrap replicates over patients.

    The difference of two estimates is paired if their samples, patients and seed are equal, because then the n-th
    replicates have the same patients; it is unpaired if their seeds differ.

    Attributes:
        value: Value over all samples.
        replicates: ``(num_bootstrap,)``, NaN if a resample lacked a class.
        max_left_out: Share of such resamples above which there is no interval.
        reason: Why there is no interval whatever the replicates are; None if there may be one.
        patients: Number of independent patients, see :func:`~softfree.evaluation.metrics.independent`.
    """

    value: float
    replicates: np.ndarray
    max_left_out: float
    reason: str | None = None
    patients: int | None = None

    def __sub__(self, other: BootstrapEstimate) -> BootstrapEstimate:
        most = min(self.max_left_out, other.max_left_out)
        reason = self.reason or other.reason
        return BootstrapEstimate(
            self.value - other.value, self.replicates - other.replicates, most, reason, _fewer([self, other])
        )

    def interval(self, level: float = 0.95) -> Interval:
        """Return bias-corrected percentiles, like ``softfree evaluate``."""
        if self.reason or np.isnan(self.value):
            return no_interval("", self.reason or "no value")
        method = "bootstrap over patients"
        return bias_corrected(self.value, self.replicates, level, method, self.max_left_out, self.patients)


def bootstrap(scores: Scores, names: Sequence[str], *, num_bootstrap: int, seed: int) -> dict[str, BootstrapEstimate]:
    """Bootstrap the named :func:`~softfree.evaluation.metric_specs.quantities` over the same patients."""
    items = quantities(scores)
    leaves = distribution(resampled(items, names), scores.patients, num_bootstrap=num_bootstrap, seed=seed)
    estimates = {}
    for name in names:
        if np.isnan(items[name].value):
            estimates[name] = BootstrapEstimate(
                np.nan, np.full(num_bootstrap, np.nan), 0.0, items[name].reason or "no value"
            )
        else:
            estimates[name] = BootstrapEstimate(
                items[name].value,
                draws_of(items[name], name, leaves),
                max_left_out(items[name], leaves),
                patients=independent(items[name], items, scores),
            )
    return estimates


def mean(items: Sequence[BootstrapEstimate]) -> BootstrapEstimate:
    """Average over runs or strengths, replicate by replicate."""
    value = float(np.mean([item.value for item in items]))
    reason = next((item.reason for item in items if item.reason), None)
    replicates = np.mean([item.replicates for item in items], axis=0)
    return BootstrapEstimate(value, replicates, min(item.max_left_out for item in items), reason, _fewer(items))


def _fewer(items: Sequence[BootstrapEstimate]) -> int | None:
    known = [item.patients for item in items if item.patients is not None]
    return min(known) if known else None
