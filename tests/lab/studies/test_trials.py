from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from softfree_lab.studies.trials import Trial, TrialKey, check_same_options, read_trials, write_trials
from softfree_runtime.core.errors import UserError


def test_written_and_read(make_trial: Callable[..., Trial], tmp_path: Path) -> None:
    trials = [make_trial("softmax", 1, 0.3, scales=("0.5", "1")), make_trial("a b", 0, 0.3)]
    write_trials(tmp_path / "cells.jsonl", trials)
    result = read_trials(tmp_path / "cells.jsonl")
    assert set(result) == {TrialKey("films", "softmax", 1), TrialKey("films", "a b", 0)}
    for trial in trials:
        again = result[trial.key]
        assert (again.options, again.cost, again.machine) == (trial.options, trial.cost, trial.machine)
        for scale in trial.probabilities:
            np.testing.assert_array_equal(
                again.scores(float(scale)).probabilities, trial.scores(float(scale)).probabilities
            )
        assert again.scores().targets.tolist() == trial.targets


def test_findings_keep_their_unknowns(make_trial: Callable[..., Trial], tmp_path: Path) -> None:
    from dataclasses import replace

    trial = replace(make_trial("softmax", 0, 0.1), kind="multilabel", targets=[[0.0, float("nan")]] * 60)
    write_trials(tmp_path / "cells.jsonl", [trial])
    (again,) = read_trials(tmp_path / "cells.jsonl").values()
    np.testing.assert_array_equal(again.scores().targets, trial.targets)


def test_no_file_no_cells(tmp_path: Path) -> None:
    assert read_trials(tmp_path / "cells.jsonl") == {}


@pytest.mark.parametrize("line", ["{", "[]", '{"key": {"data": "x"}}', "3"])
def test_a_damaged_line_is_named(make_trial: Callable[..., Trial], tmp_path: Path, line: str) -> None:
    path = tmp_path / "cells.jsonl"
    write_trials(path, [make_trial("softmax", 0, 0.1)])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match="line 2"):
        read_trials(path)


@pytest.mark.parametrize("wanted", [{"lr": 0.2}, {"lr": 0.1, "epochs": 3}, {}])
def test_other_options_are_refused(make_trial: Callable[..., Trial], wanted: dict[str, object]) -> None:
    trial = make_trial("softmax", 0, 0.1)
    check_same_options(trial, {"lr": 0.1}, Path("cells.jsonl"))
    with pytest.raises(UserError, match="films, softmax, seed 0 with"):
        check_same_options(trial, wanted, Path("cells.jsonl"))
