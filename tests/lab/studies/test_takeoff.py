"""Steps until a level, censored where it was not reached, and their comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from softfree_lab.studies.summary import summarize, to_markdown
from softfree_lab.studies.takeoff import log_rank, median_steps, read_curve, steps_until
from softfree_lab.studies.trials import Trial

Make = Callable[..., Trial]
LATE = [(30, 0.5), (60, 0.93), (90, 0.88)]
SOON = [(30, 0.9), (60, 1.0), (90, 1.0)]
NEVER = [(30, 0.6), (60, 0.5), (90, 0.8)]


@pytest.fixture
def with_curves(make_trial: Make) -> Callable[..., dict[int, Trial]]:
    def make(variant: str, curves: Sequence[list[tuple[int, float]]]) -> dict[int, Trial]:
        return {seed: replace(make_trial(variant, seed, 0.3), curve=curve) for seed, curve in enumerate(curves)}

    return make


def test_the_first_epoch_at_the_level_counts(with_curves: Callable[..., dict[int, Trial]]) -> None:
    results = [steps_until(trial) for trial in with_curves("x", [LATE, SOON, NEVER, []]).values()]
    assert results == [(60, True), (30, True), (90, False), None]
    assert steps_until(with_curves("x", [LATE])[0], 0.95) == (90, False)


@pytest.mark.parametrize(
    ("curves", "median"),
    [
        ([SOON], 30),
        ([SOON, LATE, NEVER], 60),
        ([SOON, SOON, NEVER, NEVER], 30),
        ([SOON, NEVER, NEVER], math.inf),
        ([NEVER], math.inf),
    ],
)
def test_median(curves: list, median: float, with_curves: Callable[..., dict[int, Trial]]) -> None:
    assert median_steps(list(with_curves("x", curves).values())) == median


def test_no_curve_no_median(make_trial: Make) -> None:
    assert math.isnan(median_steps([make_trial("x", 0, 0.3)]))


def test_log_rank_by_its_formula(with_curves: Callable[..., dict[int, Trial]]) -> None:
    """Observed minus expected of one group over the steps, and its hypergeometric variance."""
    one, other = with_curves("x", [SOON, SOON, LATE, SOON]), with_curves("y", [LATE, NEVER, NEVER, LATE])
    # Of 8 three take off at 30, all of one; of 5 three at 60, one of one.
    difference = (3 - 3 * 4 / 8) + (1 - 3 * 1 / 5)
    variance = 3 * (4 * 4 / 8**2) * (5 / 7) + 3 * (1 * 4 / 5**2) * (2 / 4)
    want = math.erfc(abs(difference) / math.sqrt(2 * variance))
    assert log_rank(one, other) == pytest.approx(want)
    assert log_rank(other, one) == pytest.approx(want)


def test_only_seeds_that_both_have_are_compared(with_curves: Callable[..., dict[int, Trial]]) -> None:
    one, other = with_curves("x", [SOON, SOON, LATE, []]), with_curves("y", [LATE, NEVER, NEVER, SOON])
    more = one | {9: replace(one[0], curve=NEVER)}
    assert log_rank(more, other) == log_rank({seed: one[seed] for seed in (0, 1, 2)}, other)
    for some in ({}, {0: other[0]}, with_curves("y", [NEVER] * 3)):
        assert math.isnan(log_rank(with_curves("x", [NEVER] * 3), some))


def test_in_the_summary(with_curves: Callable[..., dict[int, Trial]]) -> None:
    trials = [*with_curves("softmax", [LATE, NEVER, NEVER]).values(), *with_curves("x", [SOON, SOON, LATE]).values()]
    summary = summarize({c.key: c for c in trials}, ["softmax", "x"], (1.0,), margin=0.02, num_bootstrap=50)
    assert summary["took_off"].tolist() == [1, 3]
    assert summary["steps"].tolist() == [math.inf, 30]
    text = to_markdown(summary, margin=0.02)
    assert "| steps to a validation AUROC of 0.9 | log-rank p against softmax |" in text
    assert "| - (1 of 3) |  |" in text
    assert f"| 30 (3 of 3) | {summary['steps_p'][1]:.2g} |" in text
    assert summary["steps_p"][1] < 0.1
    rows = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert len(set(rows)) == 1
    old = summarize(
        {c.key: replace(c, curve=[]) for c in trials}, ["softmax", "x"], (1.0,), margin=0.02, num_bootstrap=50
    )
    assert "log-rank" not in to_markdown(old, margin=0.02)


def test_the_curve_of_a_run(tmp_path: Path) -> None:
    assert read_curve(tmp_path) == []
    log = "epoch,step,train_loss,val_auroc,val_loss\n0,29,,0.5,0.7\n0,29,0.7,,\n1,59,,0.95,0.6\n1,59,0.6,,\n"
    again = "epoch,step,train_loss,val_auroc,val_loss\n1,59,,0.9,0.6\n2,89,,,0.5\n"
    for number, content in enumerate((log, again)):
        folder = tmp_path / "logs" / "csv" / f"version_{number}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(content)
    assert read_curve(tmp_path) == [(30, 0.5), (60, 0.9)]
