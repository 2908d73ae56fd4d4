"""Breslow's estimate of the baseline hazard of a Cox model, from samples that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from softfree.data.follow_up import EVENT, TIME
from softfree_runtime.core.survival import Survival


def breslow(log_hazards: np.ndarray, targets: np.ndarray, horizons: Sequence[float], slope: float = 1.0) -> Survival:
    """Estimate the cumulative hazard of a sample with the mean log hazard (Breslow, Biometrics 30, 1974).

    At each time with events it rises by their number over the sum of the hazard ratios of all samples still at risk.

    Args:
        log_hazards: ``(n,)`` outputs of the model.
        targets: ``(n, 2)`` times and events.
        horizons: Times at which survival will be predicted.
        slope: By which the outputs are multiplied, counted from their mean.
    """
    known = np.isfinite(log_hazards)
    log_hazards, targets = log_hazards[known], targets[known]
    center = float(log_hazards.mean())
    ratios = np.exp(np.clip(slope * (log_hazards - center), -700, 700))
    at = np.unique(targets[targets[:, EVENT] == 1, TIME])
    events = np.array([(targets[:, EVENT] * (targets[:, TIME] == time)).sum() for time in at])
    at_risk = np.array([ratios[targets[:, TIME] >= time].sum() for time in at])
    hazards = np.cumsum(events / at_risk)
    end = float(targets[:, TIME].max())
    times = [*at.tolist(), end]
    return Survival(tuple(horizons), tuple(times), (*hazards.tolist(), float(hazards[-1])), center, slope)
