"""Tables: own results beside published ones, and when there is a mean."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from softfree_lab.long_range.report import published, summarize, to_markdown, trials_table
from softfree_lab.long_range.tasks import ARENA
from softfree_lab.long_range.trials import Trial

MakeTrial = Callable[..., Trial]


def tables(*trials: Trial, costs: pd.DataFrame | None = None) -> str:
    summary = summarize(trials_table({one.key: one for one in trials}))
    return to_markdown(summary, [], pd.DataFrame() if costs is None else costs, "nystromformer")


def test_every_published_number_has_a_source() -> None:
    rows = published()
    assert set(rows["task"]) == set(ARENA)
    assert rows["source"].str.len().min() > 5
    assert not rows.duplicated(["method", "task", "source"]).any()
    assert rows["accuracy"].between(15, 90).all()


@pytest.mark.parametrize(
    ("method", "source", "mean"),
    [
        ("softmax", "Skyformer, Table 1", 57.37),
        ("Gaussian kernel, all pairs", "Skyformer, Table 1", 58.56),
        ("Skyformer", "Skyformer, Table 1", 59.39),
        ("Nystromformer", "Nystromformer, LRA table of its repository", 58.95),
        ("Reformer", "Nystromformer, LRA table of its repository", 55.04),
        ("PolaFormer, alpha 3", "PolaFormer, README of its repository", 60.72),
    ],
)
def test_published_numbers_have_their_published_mean(method: str, source: str, mean: float) -> None:
    rows = published()
    own = rows[(rows["method"] == method) & (rows["source"] == source)]
    assert len(own) == 5
    assert own["accuracy"].mean() == pytest.approx(mean, abs=0.05)


def test_own_results_stand_beside_published_ones(trial: MakeTrial) -> None:
    text = tables(trial(0, correct=3), trial(1, correct=5), trial(0, attention="sima"))
    assert "| seqnorm, here | 40.00 |" in text
    assert "| softmax | 38.37 | Skyformer, Table 1 |" in text
    assert "30.0 to 50.0" in text  # of the two seeds
    assert "| 0.50 |" in text  # CPU seconds per step


def test_one_seed_has_an_interval_over_the_test_samples(trial: MakeTrial) -> None:
    row = trials_table({trial(0).key: trial(0)}).iloc[0]
    assert (row["low"], row["high"]) == (pytest.approx(16.8, abs=0.1), pytest.approx(68.7, abs=0.1))


def test_a_mean_needs_all_five_tasks_of_the_arena(trial: MakeTrial) -> None:
    five = [trial(0, task=task) for task in ARENA]
    assert "| mean | published in |" in tables(*five)
    assert "| 40.00 | 40.00 | 40.00 | 40.00 | 40.00 | 40.00 |" in tables(*five)
    stand_in = [*five[:3], trial(0, task="fashion", official=False), five[4]]
    assert "mean |" not in tables(*stand_in)
    assert "No mean over the five tasks: not run: Image; not the arena's samples: Fashion-MNIST." in tables(*stand_in)
    assert "not the arena's samples: Text." in tables(five[0], trial(0, task="text", official=False), *five[2:])


def test_costs_have_a_table_and_say_why_a_case_is_missing(trial: MakeTrial) -> None:
    rows = [
        {"attention": "seqnorm", "length": 1024, "training_seconds": 0.25, "training_mib": 200.0, "reason": ""},
        {"attention": "softmax", "length": 1024, "training_seconds": 0.5, "training_mib": 300.0, "reason": ""},
        {"attention": "softmax", "length": 2048, "reason": "out of memory"},
    ]
    text = tables(trial(0), costs=pd.DataFrame(rows))
    assert "| softmax | 0.50 |" in text
    assert "softmax at 2,048 symbols: out of memory" in text
