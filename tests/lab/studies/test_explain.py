"""Studies of maps, end to end on small runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from softfree.data.modalities.image import ImagePreprocessing
from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree.models.registry import build_model
from softfree.reporting.scoring import open_table
from softfree.saliency.methods import METHODS, Method
from softfree_lab.cli import main
from softfree_lab.studies.explain import MapStudy, study_explain, summarize
from softfree_lab.studies.explain_images import choose
from softfree_lab.studies.options import ExplainStudyOptions
from softfree_runtime.core.errors import UserError

SMALL = {"depth": 2, "embed_dim": 32, "num_heads": 2, "patch_size": 8}
QUICK: dict[str, Any] = {"count": 6, "steps": 4, "orders": 1, "randomized": 2, "num_bootstrap": 50, "progress": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory, make_small_table: Callable[[Path], Path]) -> Path:
    """A run with fresh weights beside its data: 8 test images of 48 x 40 pixels, the finding bright at one end."""
    folder = tmp_path_factory.mktemp("maps")
    table = make_small_table(folder / "data")
    rows = pd.read_csv(table)
    high = rows["label"] == "high"
    rows.assign(x=[6.0, 34.0] * 16, y=np.where(high, 10.0, 38.0), radius=4).to_csv(table, index=False)
    write(folder / "run", table)
    return folder


def write(folder: Path, table: Path, attention: str = "seqnorm", **changes: Any) -> Path:
    folder.mkdir()
    steps = ImagePreprocessing.create("radiograph", 48, "pad")
    options = {"label": "label", "labels": None, "positive": "high", "image_root": None, "seed": 0, "table": str(table)}
    model = {"name": f"{attention}_vit_nano_patch16", "num_classes": 2, **steps.model_arguments(), **SMALL, **changes}
    digest = "0" * 64
    config = {
        "task": {"kind": "binary", "classes": ["low", "high"]}, "preprocessing": steps.to_dict() | {"kind": "image"},
        "model": model, "options": options, "table": {"sha256": digest},
    }  # fmt: skip
    RunDirectory(folder).write_config(config)
    torch.manual_seed(0)
    fresh = build_model(config)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    save_file(fresh.state_dict(), folder / "model.safetensors")
    return resealed(folder, table)


def resealed(folder: Path, table: Path) -> Path:
    """Let a run take a table for the one that it was trained on."""
    run = Run.load(folder)
    run.config["table"]["sha256"] = sha256(table.read_bytes()).hexdigest()
    run.config["options"]["table"] = str(table)
    RunDirectory(folder).write_config(run.config)
    return folder


@pytest.fixture
def with_figures(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(made, tmp_path / "copy")
    resealed(tmp_path / "copy" / "run", tmp_path / "copy" / "data" / "table.csv")
    return tmp_path / "copy"


@pytest.fixture
def folder(with_figures: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, for studies whose figures nobody looks at."""
    for name in ("plot_measures", "plot_curves"):
        monkeypatch.setattr(f"softfree_lab.studies.explain.{name}", lambda *_: None)
    return with_figures


def study(folder: Path, *runs: Path, **changes: Any) -> MapStudy:
    return study_explain(ExplainStudyOptions(out=folder / "out", **(QUICK | changes)), runs or [folder / "run"])


def test_two_attentions_side_by_side(with_figures: Path) -> None:
    folder = with_figures
    softmax = write(folder / "softmax", folder / "data" / "table.csv", "softmax")
    result = study(folder, folder / "run", softmax, methods=["split", "rollout"])
    rows = result.rows
    assert len(rows) == 2 * 6 * 2
    np.testing.assert_allclose(rows["deletion"], rows["deletion_area"] - rows["random_area"])
    np.testing.assert_allclose(rows["insertion"], rows["insertion_area"] - rows["random_area"])
    assert rows.groupby(["run", "row"])["random_area"].nunique().eq(1).all()  # one base line for all methods
    assert rows["all"].notna().groupby(rows["run"]).sum().eq(4).all()  # 2 images, 2 methods
    assert rows.loc[rows["method"] == "rollout", "head"].dropna().to_numpy() == pytest.approx(1)
    assert rows["localization"].notna().groupby(rows["run"]).sum().eq(6).all()  # 3 of 6 images have the class
    assert rows["localization"].dropna().between(0, 1).all()
    assert set(result.curves["method"]) == {"split", "rollout", "random"}
    assert (
        result.curves.groupby(["attention", "method"])["share"].agg(["min", "max"]).to_numpy().tolist() == [[0, 1]] * 6
    )
    text = (folder / "out" / "maps.md").read_text()
    assert "| seqnorm (1) | split |" in text
    assert "| softmax (1) | rollout |" in text
    for name in ("maps.png", "maps_curves.png"):
        assert (folder / "out" / name).stat().st_size > 10_000
    assert pd.read_csv(folder / "out" / "maps_summary.csv")["n"].max() == 6
    assert "machine" in json.loads((folder / "out" / "machine.json").read_text())


def test_a_map_that_knows_the_place_wins_at_localization(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places go from the table through the preprocessing, which adds 4 pixels left and right, to the tokens."""

    def oracle(_forward, request):  # the x of even rows is 6, that of odd ones 34
        values = torch.zeros(1, 6, 6)
        values[:, 1 if request.target == 1 else 4, 1 if next(turns) % 2 == 0 else 4] = 1
        return values.flatten(1)

    entries = open_table(Run.load(folder / "run")).where("test").frame
    order = entries.loc[entries["label"] == "high", "row"].tolist()
    monkeypatch.setitem(METHODS, "attention", Method("oracle", "knows", oracle))
    turns = iter(order)
    result = study(folder, methods=["attention"], target="high", randomized=0)
    assert result.rows["pointing"].tolist() == [1.0] * 4
    assert (result.rows["localization"] > 0.55).all()
    assert result.rows["chance"].between(1 / 36, 0.3).all()


def test_a_class_that_is_asked_for(folder: Path) -> None:
    result = study(folder, methods=["gradient"], target="high", count=100)
    assert result.rows["target"].unique().tolist() == ["high"]
    assert result.rows["row"].nunique() == 4
    assert (folder / "out" / "maps.md").read_text().count("| seqnorm (1) |") == 1  # no second table of the same


def test_of_sure_predictions_the_sign_is_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = ["split", "gradcam", "rollout"]
    assert "net" not in study(folder, methods=methods, count=2, randomized=0).rows, "none is sure"
    monkeypatch.setattr("softfree_lab.studies.explain_images.SURE", 0.5)
    result = study(folder, methods=methods, count=6, randomized=0)
    assert result.rows.loc[result.rows["method"] != "rollout", "net"].tolist() == [1.0] * 12
    assert result.rows.loc[result.rows["method"] == "rollout", "net"].isna().all()
    assert "net for the class" in (folder / "out" / "maps.md").read_text()
    monkeypatch.setattr("softfree_lab.studies.explain_images.SURE", 0.0)
    low = study(folder, methods=["split"], target="low", count=6, randomized=0).rows["net"]
    high = study(folder, methods=["split"], target="high", count=6, randomized=0).rows["net"]
    assert low.mean() + high.mean() == 1.0, "of two classes one map is against, on images that are called alike"


def test_without_places_nothing_is_located(folder: Path) -> None:
    table = folder / "data" / "table.csv"
    pd.read_csv(table).drop(columns=["x", "y", "radius"]).to_csv(table, index=False)
    resealed(folder / "run", table)
    result = study(folder, methods=["gradient"])
    assert "localization" not in result.rows
    assert "pointing" not in set(result.summary["measure"])
    assert "ointing game" not in (folder / "out" / "maps.md").read_text()


def test_an_unreadable_image_is_told_and_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "data" / "24.png").write_bytes(b"no image")
    arguments = ["study", "explain", str(folder / "run"), "--methods", "[gradient]", "--progress=false"]
    small = [
        "--count=4",
        "--steps=2",
        "--orders=1",
        "--randomized=0",
        "--num-bootstrap=20",
        "--out",
        str(folder / "out"),
    ]
    assert main([*arguments, *small]) == 1
    printed = capsys.readouterr()
    assert "row 24 of the table" in printed.err
    assert "24.png" not in printed.err + printed.out
    assert printed.out == (folder / "out" / "maps.md").read_text()
    assert "1 runs, 3 test images" in printed.out
    assert "could not be read: row 24" in printed.out
    for file in (folder / "data").glob("*.png"):
        file.unlink()
    with pytest.raises(UserError, match="none of the test images could be read"):
        study(folder, methods=["gradient"])


def test_a_class_token_has_no_split(folder: Path) -> None:
    token = write(folder / "token", folder / "data" / "table.csv", pool="token")
    assert set(study(folder, token, methods=["split", "gradient"], count=2).rows["method"]) == {"gradient"}
    with pytest.raises(UserError, match="add other --methods"):
        study(folder, token, methods=["split"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "0"], "--count 0"),
        (["--num-bootstrap", "0"], "--num-bootstrap 0"),
        (["--orders", "0"], "--orders 0"),
        (["--steps", "1"], "--steps 1"),
        (["--target", "hihg"], "did you mean high"),
        (["--methods", "[splitt]"], "splitt"),
        (["RUN"], "named twice"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    run = str(folder / "run")
    given = [run if one == "RUN" else one for one in arguments]
    assert main(["study", "explain", run, *given, "--progress=false", "--out", str(folder / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "out").exists()


def test_images_are_chosen_of_each_class_in_turn(folder: Path) -> None:
    table = open_table(Run.load(folder / "run"))
    for count in (2, 4, 6):
        chosen = choose(table, count)
        assert table.targets[chosen].tolist().count(1) == count // 2
        assert chosen == sorted(chosen)
    assert len(choose(table, 1000)) == len(table.targets)
    assert set(table.targets[choose(table, 1000, "high")]) == {1}


def test_runs_are_averaged_before_patients_are_drawn() -> None:
    """Two runs that err in opposite ways: their mean is the same for every patient, so that there is no spread."""
    rows = [
        {"run": run, "attention": "sima", "row": row, "patient": row // 2, "target": "ill", "method": "split"}
        | {"deletion": -0.2 + sign * 0.01 * row, "insertion": 0.1 * (row // 2)}
        for run, sign in (("a", 1), ("b", -1))
        for row in range(12)
    ]
    result = summarize(pd.DataFrame(rows), ExplainStudyOptions(num_bootstrap=400)).set_index(["target", "measure"])
    deletion, insertion = result.loc[("ill", "deletion")], result.loc[("ill", "insertion")]
    assert deletion["value"] == pytest.approx(-0.2)
    assert np.isnan(deletion["low"])  # every resample says the same
    assert (deletion["n"], deletion["runs"]) == (12, 2)
    assert insertion["value"] == pytest.approx(0.25)
    error = np.std([0, 0.1, 0.2, 0.3, 0.4, 0.5]) / np.sqrt(6)
    assert insertion["high"] - insertion["low"] == pytest.approx(2 * 1.96 * error, rel=0.2)
    assert result.loc[("all classes", "deletion"), "value"] == pytest.approx(-0.2)
