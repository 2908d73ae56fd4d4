"""Clinical variables beside bags of tile features and beside whole slides, from the table to an exported file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

import softfree_runtime
from softfree.core.options import StreamOptions, TrainOptions
from softfree.data.modalities.bag import BagPreprocessing
from softfree.data.modalities.feature_files import write_features
from softfree.data.modalities.slide import SlidePreprocessing
from softfree.data.modalities.slide_rows import open_rows
from softfree.deployment.options import ExportOptions
from softfree.deployment.pipeline import export
from softfree.inference.run import Run
from softfree.saliency.api import explain
from softfree.saliency.options import ExplainOptions
from softfree.training.loop import train
from softfree_runtime.core.errors import ReadError
from softfree_runtime.sources.sample_source import Case, CaseFile

OPTIONS = {"model_options": {"depth": 1}, "batch_size": 1, "lr": 2e-3, "progress": False, "variables": ["age", "sex"]}
ALONE, WITHOUT = "the clinical variables alone", "This model without the clinical variables"


def table_of(paths: list[str]) -> pd.DataFrame:
    """A table in which age tells the class, but for every ninth row, whose age is unknown."""
    rng = np.random.default_rng(0)
    rows = []
    for number, path in enumerate(paths):
        age = "" if number % 9 == 8 else f"{50 + 20 * (number % 2) + rng.normal(0, 5):.1f}"
        split = ("train", "train", "val", "test")[number // 2 % 4]
        rows.append((path, ("no", "yes")[number % 2], age, ("F", "M")[number // 4 % 2], split))
    return pd.DataFrame(rows, columns=["path", "label", "age", "sex", "split"])


@pytest.fixture(scope="module")
def bag_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A model of bags of noise, whose sizes differ, with ages and sexes."""
    folder = tmp_path_factory.mktemp("bags")
    rng, paths = np.random.default_rng(0), []
    for number in range(64):
        count = int(rng.integers(3, 9))
        features = rng.normal(0, 1, (count, 4)).astype(np.float32)
        paths.append(f"{number}.h5")
        attributes = {"encoder": "test", "mpp": 0.5, "side": 224}
        write_features(folder / paths[-1], features, rng.random((count, 2)), attributes)
    table_of(paths).to_csv(folder / "table.csv", index=False)
    options = OPTIONS | {"batch_size": 8}
    model = "seqnorm_bag_nano"
    return train(TrainOptions(table=folder / "table.csv", out=folder / "run", model=model, epochs=6, **options)).run


@pytest.fixture(scope="module")
def slide_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A model of slides of noise, 256 pixels wide, with ages and sexes."""
    folder = tmp_path_factory.mktemp("slides")
    rng, paths = np.random.default_rng(0), []
    for number in range(16):
        pixels = np.full((256 + 16 * (number % 3), 256, 3), 255, np.uint8)
        pixels[32:-32, 32:-32] = rng.integers(90, 200, (pixels.shape[0] - 64, 192, 1)) * [1.0, 0.4, 0.8]
        paths.append(f"{number}.tiff")
        tifffile.imwrite(
            folder / paths[-1], pixels, tile=(256, 256), photometric="rgb", resolution=(5000, 5000),
            resolutionunit="CENTIMETER",
        )  # fmt: skip
    table_of(paths).to_csv(folder / "table.csv", index=False)
    model = "seqnorm_vit_nano_patch8"
    return train(
        TrainOptions(table=folder / "table.csv", out=folder / "run", model=model, mpp=8, epochs=2, **OPTIONS)
    ).run


@pytest.fixture(params=["bag_run", "slide_run"])
def run(request: pytest.FixtureRequest) -> Run:
    return request.getfixturevalue(request.param)


def test_bags_are_learned_by_their_variables(bag_run: Run) -> None:
    metrics = json.loads(bag_run.directory.metrics.read_text())
    others = metrics["baselines"]["models"]
    assert metrics["metrics"]["auroc"]["value"] > 0.85, "age tells the class"
    assert others[ALONE]["value"] > 0.85
    assert others[WITHOUT]["value"] < 0.8, "noise"
    assert bag_run.config["model"]["variables"][1] == {"categories": 2}
    assert "10 % of the clinical variables hidden" in bag_run.config["augmentation"]


def test_slides_are_compared_with_their_variables(slide_run: Run) -> None:
    others = json.loads(slide_run.directory.metrics.read_text())["baselines"]["models"]
    assert {ALONE, WITHOUT} <= others.keys()
    frame = pd.read_csv(slide_run.table_path)
    ages = frame[frame["split"] == "train"]["age"]
    first, second = slide_run.config["model"]["slide"]["variables"]
    assert first == pytest.approx({"mean": ages.mean(), "std": ages.std(ddof=0)})
    assert second == {"categories": 2}
    assert "10 % of the clinical variables hidden" in slide_run.config["augmentation"]
    assert "Clinical variables beside the images: age, sex." in slide_run.directory.report.read_text()


def test_prediction(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.read_csv(run.table_path, dtype=str, keep_default_na=False).head(6)
    frame.loc[0, "age"], frame.loc[1, "age"], frame.loc[2, "sex"] = "old", "", "D"
    path = run.table_path.with_name("new.csv")
    frame.to_csv(path, index=False)
    rows = run.predict(str(path))
    assert rows["missing_variables"].tolist() == ["", "age", "sex", "", "", ""]
    assert "case_id" not in rows
    assert rows["reason"][0] == "age is 'old'; expected a number with a decimal point, or an empty cell"
    assert rows["status"].tolist() == ["unsupported"] + ["ok"] * 5
    assert "column sex: D unknown to the model" in capsys.readouterr().err
    alone = run.predict(str(run.table_path.with_name(frame["path"][3])))
    assert alone["missing_variables"].tolist() == ["age; sex"]
    assert abs(alone["raw_yes"][0] - rows["raw_yes"][3]) > 1e-4


def test_streamed_and_augmented_predictions(run: Run) -> None:
    rows = run.predict(str(run.table_path))
    streamed = run.predict(str(run.table_path), stream=StreamOptions(stream="always", token_chunk=3))
    np.testing.assert_allclose(streamed["raw_yes"], rows["raw_yes"], atol=1e-5)
    augmentation = run.preprocessing.augmentation_of_views()
    sample = torch.from_numpy(run.preprocessing.load(case_of(run)))
    values = run.preprocessing.variable_values(sample)[0]
    for seed in range(20):
        torch.testing.assert_close(run.preprocessing.variable_values(augmentation(sample, seed))[0], values)


def case_of(run: Run, age: str = "61.5", sex: str = "M") -> Case:
    """The first sample of a run's table with these variables."""
    path = run.table_path.with_name(pd.read_csv(run.table_path)["path"][0])
    return Case((CaseFile(str(path)),), "", (("age", age), ("sex", sex)))


@pytest.mark.parametrize("kind", ["bag_run", "slide_run"])
def test_augmentation_hides_variables(kind: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(kind)
    preprocessing = run.preprocessing
    sample, augmentation = torch.from_numpy(preprocessing.load(case_of(run))), preprocessing.augmentation()
    augmented = [augmentation(sample, seed) for seed in range(600)]
    hidden = torch.stack([preprocessing.variable_values(one)[0].isnan() for one in augmented])
    assert hidden.float().mean().item() == pytest.approx(0.1 + 0.9 * 0.1, abs=0.05)
    assert hidden.all(dim=1).float().mean().item() == pytest.approx(0.1 + 0.9 * 0.1**2, abs=0.05)


@pytest.mark.slow
def test_an_exported_file_takes_the_same_table(run: Run, tmp_path: Path) -> None:
    export(run.folder, ExportOptions(out=tmp_path / "model.onnx", count=2))
    rows = pd.DataFrame(softfree_runtime.predict(tmp_path / "model.onnx", str(run.table_path)))
    expected = run.predict(str(run.table_path))
    assert list(rows.columns) == list(expected.columns)
    np.testing.assert_allclose(rows["p_yes"], expected["p_yes"], atol=1e-5)
    assert rows["missing_variables"].tolist() == expected["missing_variables"].tolist()


def test_the_effects_of_variables_on_a_slide(slide_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = slide_run.table_path.with_name("rows.csv")
    pd.read_csv(slide_run.table_path).iloc[[1, 8]].to_csv(path, index=False)
    options = ExplainOptions(out=tmp_path, target="yes", format="png")
    first, second = explain(slide_run, [str(path)], options)
    assert set(first.variables) == {"age", "sex"}
    assert set(second.variables) == {"sex"}, "no age"
    assert first.to_dict(slide_run)["variables"] == first.variables
    whole, without = slide_run.predict(str(path)), slide_run.predict(str(path.with_name("1.tiff")))
    assert abs(first.maps[0].values.sum() - first.maps[0].log_odds) < 1e-6
    assert whole["raw_yes"][0] != without["raw_yes"][0]
    # A slide that is too large to be read at once is read in rows.
    monkeypatch.setitem(slide_run.preprocessing.__dict__, "max_side", 8)
    streamed = explain(slide_run, [str(path)], options)[0]
    assert streamed.variables == pytest.approx(first.variables, abs=1e-4)
    np.testing.assert_allclose(slide_run.predict(str(path))["raw_yes"], whole["raw_yes"], atol=1e-5)


def test_the_channel_of_a_slide(slide_run: Run) -> None:
    preprocessing = slide_run.preprocessing
    assert isinstance(preprocessing, SlidePreprocessing)
    case = case_of(slide_run, sex="")
    slide = preprocessing.load(case)
    assert slide.shape[0] == 4
    expected = np.zeros(slide[3].size, np.float32)
    expected[:2] = 61.5, np.nan
    np.testing.assert_array_equal(slide[3].ravel(), expected)
    with open_rows(preprocessing, case) as rows:
        assert rows.shape == slide.shape
        for top, bottom in ((0, 3), (2, 9)):
            np.testing.assert_allclose(rows.read(top, bottom).numpy(), slide[:, top:bottom], atol=0.1)
        np.testing.assert_array_equal(rows.read(0, len(slide[3]))[3].numpy(), slide[3])
    with pytest.raises(ReadError, match="1 x 1 pixels at 600 um, fewer than the clinical variables"):
        SlidePreprocessing(600.0, tissue=False, variables=preprocessing.variables).load(case)


def test_the_columns_of_a_bag(bag_run: Run) -> None:
    preprocessing = bag_run.preprocessing
    assert isinstance(preprocessing, BagPreprocessing)
    bag = preprocessing.load(case_of(bag_run))
    plain = BagPreprocessing(4, preprocessing.encoder).load(case_of(bag_run))
    np.testing.assert_array_equal(bag, np.insert(plain, [4], [61.5, 2.0], axis=1))
