"""What fewer bits cost: in AUROC, and in probabilities that all may move while it stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softfree.deployment.card import make_metadata, runtime_preprocessing, with_loss
from softfree.deployment.loss import Loss, measure_loss
from softfree.deployment.options import ExportOptions
from softfree.deployment.samples import find_samples, rows_of_run
from softfree.inference.run import Run
from softfree.inference.run_directory import Calibration
from softfree.reporting.documents.facts import CAUTION
from softfree_runtime.core.errors import UserError
from softfree_runtime.metadata import Metadata

ALLOWED = ExportOptions(int8="static", margin=1.0, max_shift=1.0)


@pytest.fixture
def measured(run: Run) -> Callable[..., Loss]:
    """The loss of a file whose logits are the run's times a factor."""
    steps = runtime_preprocessing(run.preprocessing)
    run = replace(run, calibration=Calibration(1.0, {}))
    spread = np.eye(2)[rows_of_run(run, "test").targets] + np.random.default_rng(0).normal(size=(8, 2)) / 4

    def measure(factor: float, options: ExportOptions = ALLOWED) -> Loss:
        rows = (iter(spread), iter(spread * factor))
        before, after = (lambda _sample, own=own: next(own)[None] for own in rows)
        return measure_loss(run, steps, before, after, "int8", options)

    return measure


def test_an_order_that_stays_with_probabilities_that_move(run: Run, measured: Callable[..., Loss]) -> None:
    result = measured(3.0)
    logits = np.eye(2)[rows_of_run(run, "test").targets] + np.random.default_rng(0).normal(size=(8, 2)) / 4
    before, after = (1 / (1 + np.exp(-f * (logits[:, 1] - logits[:, 0]))) for f in (1, 3))
    assert result.loss == 0
    assert result.largest_shift == pytest.approx(np.abs(after - before).max())
    assert result.mean_shift == pytest.approx(np.abs(after - before).mean())
    assert result.changed == 0
    assert measured(-1.0).changed == 8
    text = result.describe(0.01)
    assert f"shifts probabilities by {result.mean_shift:.4f} on average and {result.largest_shift:.4f} at most" in text
    with pytest.raises(UserError, match=r"int8 shifts probabilities by .* more than 0.1: no file .* raise --max-shift"):
        measured(3.0, replace(ALLOWED, max_shift=0.1))
    with pytest.raises(UserError, match=r"loss .*raise --margin"):
        measured(-1.0, replace(ALLOWED, margin=0.0))
    with pytest.raises(UserError, match="no file was written"):
        measured(float("nan"))


def test_metadata_and_card_say_it(run: Run, measured: Callable[..., Loss]) -> None:
    result = measured(1.2)
    about = with_loss(make_metadata(run, None), result)
    back = Metadata.from_strings(about.to_strings(), "m.onnx")
    assert back.loss["largest_shift"] == pytest.approx(result.largest_shift)
    assert back.loss["mean_shift"] == pytest.approx(result.mean_shift)
    assert about.card.splitlines()[-1].startswith("int8 shifts probabilities by ")
    assert CAUTION in about.card
    earlier = about.to_strings()
    del earlier["loss"]
    assert Metadata.from_strings(earlier, "m.onnx").loss == {}


@pytest.mark.parametrize("shift", [0.0, -0.1, 1.5])
def test_a_shift_that_is_none(run: Run, shift: float) -> None:
    from softfree.deployment.pipeline import export

    with pytest.raises(UserError, match="--max-shift"):
        export(run.folder, ExportOptions(max_shift=shift))


# The run's own table.


@pytest.fixture
def moved(run: Run, tmp_path: Path) -> tuple[Run, Path]:
    """A run whose table lies elsewhere now, with its images."""
    table = Path(run.config["options"]["table"])
    shutil.copytree(table.parent, tmp_path / "elsewhere")
    options = {**run.config["options"], "table": str(tmp_path / "gone" / "table.csv")}
    return replace(run, config={**run.config, "options": options}), tmp_path / "elsewhere" / table.name


def test_a_table_that_was_moved_is_asked_for(moved: tuple[Run, Path]) -> None:
    run, table = moved
    with pytest.raises(UserError, match=r"no longer exists; .*softfree export .* --table TABLE"):
        find_samples(run, None, "val")
    for split, number in (("train", 16), ("val", 8), ("test", 8)):
        result = find_samples(run, None, split, table)
        assert len(result) == number
        assert all(Path(str(sample.source)).parent == table.parent for sample in result)
    with pytest.raises(UserError, match="no such table"):
        find_samples(run, None, "val", table.with_name("none.csv"))


def test_another_table_is_refused(moved: tuple[Run, Path]) -> None:
    """Its test rows may be rows of training."""
    run, table = moved
    frame = pd.read_csv(table)
    frame.assign(split="test").to_csv(table, index=False)
    with pytest.raises(UserError, match="is not the table that the run was trained on"):
        rows_of_run(run, "test", table)


def test_images_of_a_moved_table_may_have_stayed(moved: tuple[Run, Path], tmp_path: Path) -> None:
    run, table = moved
    shutil.copy(table, tmp_path / "alone.csv")
    options = {**run.config["options"], "image_root": str(table.parent)}
    run = replace(run, config={**run.config, "options": options})
    result = find_samples(run, None, "val", tmp_path / "alone.csv")
    assert all(Path(str(sample.source)).is_file() for sample in result)
