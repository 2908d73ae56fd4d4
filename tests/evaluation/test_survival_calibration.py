"""Slope and level of survival: found again where they are known, and nothing where samples do not determine them."""

import numpy as np
import pytest
import torch

from softfree.evaluation.breslow import breslow
from softfree.evaluation.survival_calibration import fit_cox_slope, fit_hazards, interval_outcomes
from softfree.evaluation.survival_metrics import integrated_brier
from softfree.training.losses import HazardObjective
from softfree_runtime.core.survival import Survival
from softfree_runtime.core.task import Task

CUTS = (50.0, 120.0, 300.0, 700.0)
COUNT = 4000


def drawn(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log hazards (n,) and targets (n, 2), with exponential times of a mean of 300 at 0, and random censoring."""
    rng = np.random.default_rng(seed)
    log_hazards = rng.normal(0, 1, COUNT)
    times, ends = rng.exponential(300 / np.exp(log_hazards)), rng.exponential(800, COUNT)
    return log_hazards, np.stack([np.minimum(times, ends), times <= ends], axis=1).astype(float)


def logits_of(log_hazards: np.ndarray) -> np.ndarray:
    """Logits (n, J) of the hazards of exponential times in the intervals."""
    steps = np.exp(log_hazards)[:, None] * np.diff(CUTS, prepend=0.0) / 300
    return np.log(np.expm1(steps))


def test_intervals_count_as_in_training() -> None:
    targets = np.array([[50.0, 1], [51, 1], [900, 1], [84.9, 0], [85, 0], [900, 0], [0, 0]])
    here, reached = interval_outcomes(targets, CUTS)
    assert here.sum(axis=1).tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert reached.sum(axis=1).tolist() == [1, 2, 4, 1, 2, 4, 0]
    log_hazards, targets = drawn()
    here, reached = interval_outcomes(targets, CUTS)
    z = logits_of(log_hazards)
    by_hand = ((np.logaddexp(0, z) - z * here) * reached).sum() / COUNT
    loss = HazardObjective(CUTS)(torch.tensor(z), torch.tensor(targets))
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)


def test_slope_and_level_of_hazards_are_found_again() -> None:
    log_hazards, targets = drawn()
    true = logits_of(log_hazards)
    slope, level = fit_hazards(true, targets, CUTS)
    assert slope == pytest.approx(1, abs=0.06)
    assert level == pytest.approx(0, abs=0.1)
    again = fit_hazards((true - level) / slope, targets, CUTS)
    assert fit_hazards(true * 2 - 1, targets, CUTS) == pytest.approx((slope / 2, level + slope / 2), abs=0.01)
    assert again == pytest.approx((slope**2, level + slope * level), abs=0.2)


def test_calibration_lowers_the_error_of_outputs_that_are_too_extreme() -> None:
    task, times = Task("survival", ("days",), CUTS), np.linspace(30, 600, 20)
    log_hazards, targets = drawn()
    extreme = 1.8 * logits_of(log_hazards)
    slope, level = fit_hazards(extreme, targets, CUTS)
    log_hazards, targets = drawn(seed=1)
    extreme, weights = 1.8 * logits_of(log_hazards), np.ones((1, COUNT))
    brier = [
        float(integrated_brier(survival.probabilities(outputs, task, times), targets, times)(weights)[0])
        for survival, outputs in (
            (Survival((600.0,)), logits_of(log_hazards)),
            (Survival((600.0,), slope=slope, level=level), extreme),
            (Survival((600.0,)), extreme),
        )
    ]
    assert brier[1] == pytest.approx(brier[0], abs=0.001)
    assert brier[2] > brier[0] + 0.01


def test_the_slope_of_a_cox_model_is_found_again() -> None:
    log_hazards, targets = drawn()
    slope = fit_cox_slope(log_hazards, targets)
    assert slope == pytest.approx(1, abs=0.05)
    assert fit_cox_slope(3 * log_hazards + 7, targets) == pytest.approx(slope / 3, rel=0.01)
    # The likelihood by hand, of few samples with ties, without the prior's weight.
    few = np.array([[3.0, 1], [3, 1], [5, 0], [6, 1], [8, 1], [9, 0]] * 60)
    outputs = np.tile([1.0, 0.2, 0.4, -0.3, 0.1, -0.5], 60)

    def likelihood(slope: float) -> float:
        terms = [
            slope * outputs[row] - np.log(np.exp(slope * outputs[few[:, 0] >= few[row, 0]]).sum())
            for row in np.flatnonzero(few[:, 1] == 1)
        ]
        return float(np.sum(terms)) - np.log(slope) ** 2 / 2

    grid = np.linspace(0.2, 4, 400)
    best = grid[np.argmax([likelihood(value) for value in grid])]
    assert fit_cox_slope(outputs, few) == pytest.approx(best, abs=0.02)
    survival = breslow(outputs, few, (5.0,), 2.0)
    assert survival.slope == 2
    ratios = np.exp(2 * (outputs - outputs.mean()))
    assert survival.hazards[0] == pytest.approx(120 / ratios.sum())


def test_few_events_change_little_and_none_nothing() -> None:
    log_hazards, targets = drawn()
    censored = targets * [1, 0]
    assert fit_hazards(logits_of(log_hazards), censored, CUTS) == (1.0, 0.0)
    assert fit_cox_slope(log_hazards, censored) == 1.0
    one = censored[:3].copy()
    one[0, 1] = 1
    slope, level = fit_hazards(logits_of(log_hazards)[:3], one, CUTS)
    assert 0.3 < slope < 3
    assert abs(level) < 1.5
    assert 0.3 < fit_cox_slope(log_hazards[:3], one) < 3
    broken = logits_of(log_hazards)
    broken[:5] = np.nan
    assert fit_hazards(broken, targets, CUTS) == fit_hazards(broken[5:], targets[5:], CUTS)
