"""A learning curve of a small table, killed on the way and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from tests.conftest import leave_out_figures

from softfree.cli.main import main
from softfree.inference.run import Run
from softfree.study import members as members_module
from softfree.study.learning_curve import learning_curve
from softfree.study.learning_curve_report import LearningCurve, limits
from softfree.study.options import LearningCurveOptions
from softfree_runtime.core.errors import UserError


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory, make_small_table: Callable, quick: dict[str, Any]) -> Callable:
    """Return a function that makes options of a learning curve of one table."""
    folder = tmp_path_factory.mktemp("curve")
    table = make_small_table(folder / "data")
    train = {name: value for name, value in quick.items() if name not in ("progress",)}

    def make(out: str = "curve", **changes: Any) -> tuple[Path, LearningCurveOptions]:
        options = {"out": folder / out, "folds": 2, "fractions": [1, 0.5], "train": train, "progress": False} | changes
        return table, LearningCurveOptions(**options)

    return make


@pytest.fixture(scope="module")
def curve(begin: Callable) -> LearningCurve:
    """A finished curve, stopped in its second training and begun again."""
    table, options = begin()
    with leave_out_figures():
        with pytest.MonkeyPatch.context() as patch:
            real, calls = members_module.train, []

            def stopped_in_the_second(train_options: Any) -> Any:
                calls.append(train_options.fold)
                if len(calls) == 2:
                    raise KeyboardInterrupt
                return real(train_options)

            patch.setattr(members_module, "train", stopped_in_the_second)
            with pytest.raises(KeyboardInterrupt):
                learning_curve(table, options)
        weights = options.out / "part_0.5" / "members" / "fold1" / "model.safetensors"
        written = weights.stat().st_mtime_ns
        result = learning_curve(table, options)
        assert weights.stat().st_mtime_ns == written, "the first training was kept"
    return result


def test_each_size_is_evaluated_on_the_same_rows(curve: LearningCurve) -> None:
    held: dict[int, list[set[int]]] = {1: [], 2: []}
    for fraction in ("0.5", "1"):
        for fold, name in ((1, "fold1"), (2, "fold2_repeat2")):
            member = curve.folder / f"part_{fraction}" / "members" / name
            held[fold].append(set(pd.read_csv(member / "predictions.csv")["row"]))
    assert held[1][0] == held[1][1]
    assert held[2][0] == held[2][1]
    assert sorted(held[1][0] | held[2][0]) == list(range(24))
    assert curve.held_out == 24


def test_parts_are_smaller_and_trained_for_as_many_steps(curve: LearningCurve) -> None:
    rows = curve.trainings
    assert rows["fraction"].tolist() == [0.5, 0.5, 1, 1]
    assert rows["patients"].tolist() == [4, 4, 6, 6] or rows["patients"][:2].max() < rows["patients"][2:].min()
    assert (rows["samples"] == 2 * rows["patients"]).all()
    steps = rows["epochs"] * (rows["samples"] // 8).clip(lower=1)
    assert steps.nunique() == 1
    assert curve.scores.shape == (2, 2)
    assert curve.points[0].mean == pytest.approx(rows["auroc"][:2].mean())


def test_the_report_says_what_was_measured(curve: LearningCurve) -> None:
    page = (curve.folder / "report.html").read_text()
    assert "No curve is fitted: that takes 4 fractions or more" in page
    assert "on the same 24 held-out samples" in page
    assert "<svg" in page
    assert (curve.folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert pd.read_csv(curve.folder / "curve.csv")["fold"].tolist() == [1, 2, 1, 2]
    assert not (curve.folder / "cache").exists()
    assert json.loads(json.dumps(curve.to_dict(), allow_nan=False))["predicted"] == []


def test_it_goes_on_only_as_it_began(curve: LearningCurve, begin: Callable) -> None:
    table, options = begin(fractions=[0.25, 1])
    with pytest.raises(UserError, match=r"was begun with fractions \[0.5, 1.0\], not \[0.25, 1.0\]"):
        learning_curve(table, options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"patience": 3}}, "patience cannot be used here"),
        ({"train": {"epoks": 3}}, "softfree train has no option 'epoks'"),
        ({"train": {"seed": 3}}, "seed is set by softfree learning-curve"),
        ({"train": {"epochs": "many"}}, "epochs 'many': expected a whole number"),
        ({"train": {"epochs": 0}}, "--epochs 0: expected 1 or more"),
        ({"fractions": [0.01, 1]}, "leaves none with"),
        ({"pretrain": {"size": 3}}, "pretrain: size is that of the trainings"),
        ({"pretrain": {"epoch": 3}}, "softfree pretrain has no option epoch"),
        ({"pretrain": {"epochs": "many"}}, "epochs 'many': expected a whole number"),
        ({"fractions": [2]}, "--fractions 2: expected numbers above 0"),
    ],
)
def test_impossible_curves_are_refused_before_any_training(begin: Callable, changes: dict, message: str) -> None:
    table, options = begin("refused", **changes)
    with pytest.raises(UserError, match=message):
        learning_curve(table, options)
    assert not (options.out / "curve.yaml").exists()


def test_pretraining_sees_all_training_images_of_a_draw_and_none_that_is_held_out(begin: Callable) -> None:
    pretrain = {"epochs": 1, "decoder_depth": 1, "batch_size": 4}
    table, options = begin("pretrained", pretrain=pretrain, equal_steps=False)
    with leave_out_figures():
        curve = learning_curve(table, options)
    all_samples = curve.trainings.query("fraction == 1").set_index("fold")["samples"]
    for fold, name in ((1, "fold1"), (2, "fold2_repeat2")):
        pretrained = options.out / "pretrained" / name
        note = yaml.safe_load((pretrained / "config.yaml").read_text())["pretraining"]["rows"]
        assert note == f"the {all_samples[str(fold)]} rows outside of fold {fold}, out of 32"
        for fraction in ("0.5", "1"):
            member = Run.load(options.out / f"part_{fraction}" / "members" / name)
            assert member.config["options"]["weights"] == str(pretrained.resolve())
    assert any("pretrained without labels on all training images" in sentence for sentence in limits(curve, options))
    options.pretrain = {}
    with pytest.raises(UserError, match=r"was begun with pretrain \{"):
        learning_curve(table, options)


def test_weights_of_ones_own_and_pretraining_exclude_each_other(begin: Callable) -> None:
    table, options = begin("both", pretrain={"epochs": 1})
    options.train = {**options.train, "weights": "elsewhere"}
    with pytest.raises(UserError, match="the trainings begin with the weights elsewhere; leave out one of the two"):
        learning_curve(table, options)


def test_the_command_goes_on_with_a_finished_curve(
    curve: LearningCurve, begin: Callable, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    table, options = begin()
    arguments = ["learning-curve", str(table), "--folds", "2", "--fractions", "[0.5, 1]", "--no-progress"]
    arguments += ["--train", json.dumps(options.train)]
    assert main([*arguments, "--out", str(options.out)]) == 0
    assert "AUROC by training patients" in capsys.readouterr().out
    (tmp_path / "thesis.doc").write_text("x")
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert "is not empty and has no curve.yaml" in capsys.readouterr().err
