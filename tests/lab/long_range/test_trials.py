"""The record of finished trainings, which only grows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from softfree_lab.long_range.trials import Key, Trial, append_trial, check_same_settings, last_progress, read_trials
from softfree_runtime.core.errors import UserError

MakeTrial = Callable[..., Trial]


def test_the_record_is_appended_to(tmp_path: Path, trial: MakeTrial) -> None:
    path = tmp_path / "cells.jsonl"
    append_trial(path, trial(0))
    before = path.read_bytes()
    append_trial(path, trial(1))
    assert path.read_bytes().startswith(before)
    assert read_trials(path) == {Key("listops", "seqnorm", seed): trial(seed) for seed in (0, 1)}


def test_a_line_that_a_crash_cut_off_is_replaced(tmp_path: Path, trial: MakeTrial) -> None:
    path = tmp_path / "cells.jsonl"
    append_trial(path, trial(0))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    assert list(read_trials(path)) == [trial(0).key]
    append_trial(path, trial(1))
    assert list(read_trials(path)) == [trial(0).key, trial(1).key]
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(UserError, match="line 1: expected a finished training"):
        read_trials(path)


def test_other_settings_are_refused(tmp_path: Path, trial: MakeTrial) -> None:
    check_same_settings(trial(0), trial(0).settings, tmp_path)
    with pytest.raises(UserError, match="with precision 'bf16', but 'fp32' was requested"):
        check_same_settings(trial(0), trial(0).settings | {"precision": "fp32"}, tmp_path)


def test_the_last_whole_line_says_how_far_a_training_is(tmp_path: Path) -> None:
    assert last_progress(tmp_path) is None
    lines = ['{"step":4,"steps":8,"best":0.1,"cpu_seconds":1}', '{"step":8,"ste']
    (tmp_path / "progress.jsonl").write_text("\n".join(lines))
    assert last_progress(tmp_path) == {"step": 4, "steps": 8, "best": 0.1, "cpu_seconds": 1}
