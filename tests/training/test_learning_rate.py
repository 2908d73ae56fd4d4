"""The range test of ``--lr find``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from softfree.core.options import TrainOptions
from softfree.inference.run_directory import RunDirectory
from softfree.training import loop
from softfree.training.configuration import check_options
from softfree.training.learning_rate import HIGHEST, LOWEST, STEPS, FoundRate, choose_rate, rates
from softfree.training.loop import resume, train
from softfree_runtime.core.errors import UserError


def curve(fall_from: float, fall_to: float, noise: float = 0.0) -> np.ndarray:
    """A loss that falls between two rates and then rises steeply."""
    position = np.log(rates(STEPS) / fall_from) / math.log(fall_to / fall_from)
    rise = np.exp(8 * np.clip(position - 1, 0, None)) - 1
    return 1 - 0.6 * np.clip(position, 0, 1) + rise + noise * np.random.default_rng(0).normal(size=STEPS)


def test_rates_rise_evenly_on_a_logarithmic_scale() -> None:
    assert rates(STEPS)[[0, -1]] == pytest.approx([LOWEST, HIGHEST])
    assert np.diff(np.log(rates(STEPS))).std() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_rate_is_in_the_middle_of_the_fall(noise: float) -> None:
    found = choose_rate(curve(1e-5, 1e-3, noise).tolist(), 5e-4)
    assert 5e-5 < found.rate < 4e-4
    assert found.why.startswith(f"learning rate {found.rate:g}: in ")
    later = choose_rate(curve(1e-4, 1e-2, noise).tolist(), 5e-4)
    assert later.rate == pytest.approx(10 * found.rate, rel=0.5)


@pytest.mark.parametrize(
    ("losses", "why"),
    [([0.7] * STEPS, "hardly fell"), ([0.7, 1.0, math.nan], "diverged at once"), ([], "diverged at once")],
)
def test_without_a_fall_the_default_is_used_and_said(losses: list[float], why: str) -> None:
    found = choose_rate(losses, 5e-4)
    assert found.rate == 5e-4
    assert why in found.why
    assert "the default" in found.why


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "training does not fit in memory; use a smaller --batch-size"),
        (KeyboardInterrupt(), "stopped by Ctrl-C; resume with: softfree train --resume"),
        (SystemExit(1), "stopped by Ctrl-C; resume with: softfree train --resume"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_search_that_ends_early_is_one_line(
    small_table: Path, tmp_path: Path, quick: dict[str, Any], error: BaseException, message: str, monkeypatch: Any
) -> None:
    def fail(*_: Any) -> FoundRate:
        raise error

    monkeypatch.setattr(loop, "find_rate", fail)
    with pytest.raises(UserError, match=message):
        train(TrainOptions(table=small_table, out=tmp_path / "run", lr="find", **quick))


@pytest.mark.slow
def test_a_found_rate_trains_as_if_it_had_been_given(
    small_table: Path, tmp_path: Path, quick: dict[str, Any], without_figures: None, capsys: pytest.CaptureFixture
) -> None:
    options = {"table": small_table, **quick, "batch_size": 4, "grad_accum": 2}
    found = train(TrainOptions(out=tmp_path / "found", lr="find", **options)).run
    rate = found.config["options"]["lr"]
    assert isinstance(rate, float)
    assert f"learning rate {rate:g}" in capsys.readouterr().err
    given = train(TrainOptions(out=tmp_path / "given", lr=rate, **options)).run
    weights, others = load_file(found.directory.weights), load_file(given.directory.weights)
    assert all((weights[name] == others[name]).all() for name in weights)
    assert RunDirectory(found.folder).read_config()["options"]["lr"] == rate
    tested = pd.read_csv(found.folder / "logs" / "learning_rates.csv")
    assert tested["lr"][0] == pytest.approx(LOWEST)
    assert len(tested) > 20


def test_a_resumed_run_does_not_search_again(
    small_table: Path,
    tmp_path: Path,
    quick: dict[str, Any],
    without_figures: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = FoundRate(0.002, "learning rate 0.002")
    monkeypatch.setattr(loop, "find_rate", lambda *_: found)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_fit", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            train(TrainOptions(table=small_table, out=tmp_path / "run", lr="find", **quick))
    monkeypatch.setattr(loop, "find_rate", None)
    run = resume(tmp_path / "run").run
    assert run.config["options"]["lr"] == 0.002


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": "find", "devices": 2}, "--lr find works on one device"),
        ({"lr": "find", "devices": "auto"}, "--lr find works on one device"),
        ({"lr": "fast"}, "lr 'fast': expected find or a number"),
        ({"epochs": "many"}, "epochs 'many': expected a whole number"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_options(TrainOptions(table=tmp_path, **changes))
