"""Bootstrap estimates over patients that can be averaged over runs and subtracted with their pairing kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softfree.evaluation.bootstrap import distribution
from softfree.evaluation.intervals import Interval, bias_corrected, no_interval
from softfree.evaluation.metric_specs import quantities
from softfree.evaluation.metrics import draws_of, independent, most_left_out, resampled
from softfree.evaluation.scores import Scores


@dataclass(frozen=True, eq=False)
class BootstrapEstimate:
    """A statistic with its bootstrap replicates over patients.

    Two of these subtract to a paired difference when their samples, patients and seed are the same, for then the n-th
    draw of both is of the same patients; to an unpaired one when their seeds differ.

    Attributes:
        value: Over all samples.
        replicates: ``(num_bootstrap,)``, NaN where a resample lacked a class.
        most_left_out: The share of such resamples above which there is no interval.
        reason: Why there is no interval whatever the draws are; None when there may be one.
        patients: How many it rests on, see :func:`~softfree.evaluation.metrics.independent`.
    """

    value: float
    replicates: np.ndarray
    most_left_out: float
    reason: str | None = None
    patients: int | None = None

    def __sub__(self, other: BootstrapEstimate) -> BootstrapEstimate:
        most = min(self.most_left_out, other.most_left_out)
        reason = self.reason or other.reason
        return BootstrapEstimate(
            self.value - other.value, self.replicates - other.replicates, most, reason, _fewer([self, other])
        )

    def interval(self, level: float = 0.95) -> Interval:
        """Bias-corrected percentiles, as ``softfree evaluate`` has them."""
        if self.reason or np.isnan(self.value):
            return no_interval("", self.reason or "no value")
        method = "bootstrap over patients"
        return bias_corrected(self.value, self.replicates, level, method, self.most_left_out, self.patients)


def bootstrap(scores: Scores, names: Sequence[str], *, num_bootstrap: int, seed: int) -> dict[str, BootstrapEstimate]:
    """Draw the named statistics of :func:`~softfree.evaluation.metric_specs.quantities` over the same patients."""
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
                most_left_out(items[name], leaves),
                patients=independent(items[name], items, scores),
            )
    return estimates


def mean(items: Sequence[BootstrapEstimate]) -> BootstrapEstimate:
    """Average over runs or strengths, draw by draw."""
    value = float(np.mean([item.value for item in items]))
    reason = next((item.reason for item in items if item.reason), None)
    draws = np.mean([item.replicates for item in items], axis=0)
    return BootstrapEstimate(value, draws, min(item.most_left_out for item in items), reason, _fewer(items))


def _fewer(items: Sequence[BootstrapEstimate]) -> int | None:
    known = [item.patients for item in items if item.patients is not None]
    return min(known) if known else None
