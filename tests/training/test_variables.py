"""Clinical variables, from the table to training, evaluation, prediction, explanation and an exported file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

import softfree_runtime
from softfree.core.options import TrainOptions
from softfree.data.modalities.case import CaseAugmentation, CasePreprocessing
from softfree.data.modalities.registry import MODALITIES
from softfree.data.samples import as_samples, join_cases, training_modality
from softfree.data.table import read_table
from softfree.data.variables import describe_variables, design, scales
from softfree.deployment.options import ExportOptions
from softfree.deployment.pipeline import export
from softfree.inference.run import Run
from softfree.reporting.documents.facts import Facts
from softfree.reporting.evaluate import evaluate
from softfree.reporting.options import EvaluateOptions
from softfree.saliency.api import explain
from softfree.saliency.options import ExplainOptions
from softfree.study.auto import auto
from softfree.study.options import AutoOptions
from softfree.training.loop import train
from softfree_runtime.core.errors import UserError
from softfree_runtime.preprocessing.variables import Variable, cells_of, encode

ALL_TEST = {"val_fraction": 0.0, "test_fraction": 1.0}
OPTIONS = {
    "model": "seqnorm_vit_nano_patch8",
    "model_options": {"depth": 1},
    "size": 16,
    "epochs": 4,
    "batch_size": 8,
    "lr": 2e-3,
    "progress": False,
}


def write_patients(folder: Path, count: int = 64) -> Path:
    """Write images of noise and a table in which age tells the class, up to a few."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(folder / f"{number}.png")
        age = "" if number % 9 == 8 else f"{50 + 20 * (number % 2) + rng.normal(0, 5):.1f}"
        split = ("train", "train", "val", "test")[number // 2 % 4]
        rows.append(
            (f"{number}.png", ("no", "yes")[number % 2], age, ("F", "M")[number // 4 % 2], 1 + number % 3, split)
        )
    frame = pd.DataFrame(rows, columns=["path", "label", "age", "sex", "scanner", "split"])
    frame.to_csv(folder / "patients.csv", index=False)
    return folder / "patients.csv"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A model of images of noise, ages, sexes and scanners."""
    folder = tmp_path_factory.mktemp("variables")
    table = write_patients(folder / "data")
    options = TrainOptions(
        table=table, out=folder / "run", variables=["age", "sex", "scanner"], categorical=["scanner"], **OPTIONS
    )
    return train(options).run


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a table of four images."""

    def write(**columns: list) -> Path:
        for number in range(4):
            Image.fromarray(np.full((8, 8), 60 * number, np.uint8)).save(tmp_path / f"{number}.png")
        rows = {"path": [f"{n}.png" for n in range(4)], "label": ["a", "a", "b", "b"]}
        pd.DataFrame(rows | columns).to_csv(tmp_path / "table.csv", index=False)
        return tmp_path / "table.csv"

    return write


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"age": [1, 2, 3, "x"]}, {}, r"'x' in column 'age' \(line 5\) is not a number; .*--categorical '\[age\]'"),
        ({"age": ["1,234", "2", "3", "4"]}, {}, r"'1,234' in column 'age' \(line 2\) is not a number"),
        ({"Age": [1, 2, 3, 4]}, {}, "no column 'age' .did you mean 'Age'"),
        ({"age": ["", "?", "NA", ""]}, {"categorical": ["sex"]}, "--categorical sex: it is not one of --variables age"),
        ({"age": ["", "?", "", "-"]}, {}, "column 'age' is empty in every row"),
        ({}, {"variables": ["label"]}, "--variables label: this column is the target"),
        ({}, {"variables": ["path"]}, "--variables path: this column is no clinical variable"),
    ],
)
def test_columns_that_cannot_be_used(table: Callable[..., Path], columns: dict, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_table(table(**columns), **({"variables": ["age"]} | options))


def test_too_many_categories(tmp_path: Path) -> None:
    path = write_patients(tmp_path / "data")
    frame = pd.read_csv(path).assign(code=[f"code {number}" for number in range(64)])
    frame.to_csv(path, index=False)
    with pytest.raises(UserError, match="column 'code' has 64 different values; expected numbers, or at most 50"):
        read_table(path, variables=["code"])


def test_a_constant_variable_is_noted(table: Callable[..., Path]) -> None:
    notes = read_table(table(age=[5, 5, "", 5]), variables=["age"], **ALL_TEST).notes
    assert "column 'age' has one value in all rows, '5': it cannot add anything" in notes


def test_variables_belong_to_the_case(table: Callable[..., Path]) -> None:
    path = table(case_id=["x", "x", "y", "y"], age=[60, "", "", 70], sex=["F", "F", "M", ""])
    cases = join_cases(read_table(path, variables=["age", "sex"], **ALL_TEST), ["age", "sex"])
    assert [dict(case.variables) for case in cases.sources] == [{"age": "60", "sex": "F"}, {"age": "70", "sex": "M"}]
    path = table(case_id=["x", "x", "y", "y"], age=[60, 61, "", 70])
    with pytest.raises(UserError, match="rows 0, 1 of the table are of one case and differ in column 'age'"):
        join_cases(read_table(path, variables=["age"], **ALL_TEST), ["age"])


def test_description_and_scales(table: Callable[..., Path]) -> None:
    path = table(age=[60, "", 70, 80], scanner=["1", "2", "1.0", ""])
    rows = as_samples(
        read_table(path, variables=["age", "scanner"], **ALL_TEST), MODALITIES["case"], variables=["age", "scanner"]
    )
    found = describe_variables(["age", "scanner"], ["scanner"], rows.sources)
    assert found == [
        {"name": "age", "categories": None, "low": 60.0, "high": 80.0},
        {"name": "scanner", "categories": ["1", "2"], "low": None, "high": None},
    ]
    variables = [Variable(**fields) for fields in found]
    assert scales(variables, rows.sources[:3]) == [{"mean": 65.0, "std": 5.0}, {"categories": 2}]
    with pytest.raises(UserError, match="column 'age' is empty in every training row"):
        scales(variables, rows.sources[1:2])


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        (["1", "2", "3", "X"], Variable("stage", ["1", "2", "3", "X"])),
        (["1", "2", "3", "unknown"], Variable("stage", None, 1.0, 3.0)),
    ],
)
def test_the_kind_of_a_variable_depends_on_neither_rows_nor_cases(
    table: Callable[..., Path], stages: list[str], expected: Variable
) -> None:
    # Most rows are text, but most cases are numbers.
    frame = pd.read_csv(table()).iloc[[0, 1, 2, *[3] * 5]].assign(case_id=[*"xyz", *"v" * 5])
    frame = frame.assign(stage=stages[:3] + stages[3:] * 5, path=[f"{number}.png" for number in range(8)])
    path = table().with_name("stages.csv")
    frame.to_csv(path, index=False)
    cases = join_cases(read_table(path, variables=["stage"], **ALL_TEST), ["stage"]).sources
    assert len(cases) == 4
    (found,) = (Variable(**fields) for fields in describe_variables(["stage"], [], cases))
    assert found == expected
    assert len(encode([found], cells_of(cases[-1]))) == 1


def test_the_design_of_the_regression_is_that_of_scikit_learn() -> None:
    variables = [Variable("age", None, 60.0, 80.0), Variable("sex", ["F", "M"])]
    values = np.array([[60, 1], [np.nan, 2], [72, np.nan], [80, 0]], np.float32)
    numbers = make_pipeline(SimpleImputer(strategy="constant", fill_value=70.0, add_indicator=True))
    one_hot = OneHotEncoder(categories=[[1, 2]], handle_unknown="ignore", sparse_output=False)
    expected = make_column_transformer((numbers, [0]), (one_hot, [1])).fit_transform(values)
    np.testing.assert_array_equal(design(variables, values), expected)


@pytest.mark.parametrize(
    ("kind", "expected"), [("image", "case"), ("volume", "case"), ("bag", "bag"), ("slide", "slide")]
)
def test_the_modality_of_samples_with_variables(table: Callable[..., Path], kind: str, expected: str) -> None:
    read = read_table(table(age=[1, 2, 3, 4]), variables=["age"], **ALL_TEST)
    assert training_modality(read, MODALITIES[kind], ["age"]).name == expected


def test_the_model_learns_from_variables(run: Run) -> None:
    config = run.config
    assert config["preprocessing"]["variables"][1]["categories"] == ["F", "M"]
    frame = pd.read_csv(run.table_path)
    ages = frame[frame["split"] == "train"]["age"]
    stored = config["model"]["case"]["variables"]
    assert stored[0] == pytest.approx({"mean": ages.mean(), "std": ages.std(ddof=0)})
    assert stored[1:] == [{"categories": 2}, {"categories": 3}]
    metrics = json.loads(run.directory.metrics.read_text())
    others = metrics["baselines"]["models"]
    assert metrics["metrics"]["auroc"]["value"] > 0.85, "age tells the class"
    assert others["the clinical variables alone"]["value"] > 0.85
    assert others["This model without the clinical variables"]["value"] < 0.8, "noise"
    page = run.directory.report.read_text()
    assert "Regression on the clinical variables alone" in page
    assert "This model without the clinical variables" in page
    assert "Clinical variables beside the images: age, sex, scanner." in page
    predictors = "The cases of several images, and beside them the variables age, sex and scanner."
    assert Facts(run).predictors() == [predictors]


def test_augmentation_hides_variables(run: Run) -> None:
    preprocessing = run.preprocessing
    assert isinstance(preprocessing, CasePreprocessing)
    case = torch.zeros(1, preprocessing.in_features + 3)
    augmentation, views = CaseAugmentation(preprocessing, [None]), preprocessing.augmentation_of_views()
    hidden = torch.stack([preprocessing.variable_values(augmentation(case, seed))[0].isnan() for seed in range(2000)])
    all_hidden = 0.1 + 0.9 * 0.1**3
    assert hidden.all(dim=1).float().mean().item() == pytest.approx(all_hidden, abs=0.02)
    assert hidden.float().mean().item() == pytest.approx(0.1 + 0.9 * 0.1, abs=0.02)
    assert not any(preprocessing.variable_values(views(case, seed)).isnan().any() for seed in range(10))
    assert "10 % of the clinical variables hidden" in run.config["augmentation"]


def test_prediction(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.read_csv(run.table_path, dtype=str, keep_default_na=False).head(6)
    frame.loc[0, "age"], frame.loc[1, "age"], frame.loc[2, "sex"], frame.loc[3, "age"] = "old", "", "D", "300"
    path = run.table_path.with_name("new.csv")
    frame.drop(columns="scanner").to_csv(path, index=False)
    rows = run.predict(str(path))
    assert rows["missing_variables"].tolist()[1:5] == ["age; scanner", "sex; scanner", "scanner", "scanner"]
    assert (rows["status"][0], rows["p_yes"].isna().tolist()) == ("unsupported", [True] + [False] * 5)
    assert rows["reason"][0] == "age is 'old'; expected a number with a decimal point, or an empty cell"
    notes = capsys.readouterr().err
    assert "column sex: D unknown to the model, which treats them as missing; it knows F, M" in notes
    assert "column scanner: missing in all rows, which are predicted without it" in notes
    assert "column age: 1 of 5 values lie outside those of the training" in notes
    alone = run.predict(str(run.table_path.with_name("5.png")))
    assert alone["missing_variables"].tolist() == ["age; sex; scanner"]


def test_evaluation_of_another_table(run: Run, tmp_path: Path) -> None:
    frame = pd.read_csv(run.table_path)
    frame.drop(columns=["age", "split"]).to_csv(run.table_path.with_name("other.csv"), index=False)
    options = EvaluateOptions(
        table=run.table_path.with_name("other.csv"), out=tmp_path, include_training=True, progress=False
    )
    assert evaluate(run, options).metrics["auroc"].value < 0.8, "without the ages"
    options.table = run.table_path
    options.out = tmp_path / "same"
    assert evaluate(run, options).metrics["auroc"].value > 0.85


def test_explanation(run: Run, tmp_path: Path) -> None:
    path = run.table_path.with_name("rows.csv")
    pd.read_csv(run.table_path).iloc[[1, 8]].to_csv(path, index=False)
    first, second = explain(run, [str(path)], ExplainOptions(out=tmp_path, target="yes"))
    assert set(first.variables) == {"age", "sex", "scanner"}
    assert first.variables["age"] > 0.1, "an age of those with the class"
    assert set(second.variables) == {"sex", "scanner"}, "no age"
    assert first.to_dict(run)["variables"] == first.variables


def test_an_exported_file_takes_the_same_table(run: Run, tmp_path: Path) -> None:
    export(run.folder, ExportOptions(out=tmp_path / "model.onnx"))
    rows = pd.DataFrame(softfree_runtime.predict(tmp_path / "model.onnx", str(run.table_path)))
    expected = run.predict(str(run.table_path))
    assert list(rows.columns) == list(expected.columns)
    np.testing.assert_allclose(rows["p_yes"], expected["p_yes"], atol=1e-5)
    assert rows["missing_variables"].tolist() == expected["missing_variables"].tolist()


def test_numbers_as_target(tmp_path: Path) -> None:
    path = write_patients(tmp_path / "data", 40)
    frame = pd.read_csv(path).assign(volume=lambda rows: rows["age"].fillna(60) * 3)
    frame.to_csv(path, index=False)
    options = TrainOptions(
        table=path, out=tmp_path / "run", label="volume", task="regression", variables=["age"], **OPTIONS
    )
    result = train(options)
    names = [row.name for row in result.evaluation.baselines.rows]
    assert names[-2:] == ["the clinical variables alone", "This model without the clinical variables"]
    known, unknown = (row.auroc.value for row in result.evaluation.baselines.rows[-2:])
    assert known < 15 < unknown, "age is a third of the volume, and the images are noise"
    assert result.evaluation.metrics["mae"].value < 40


def test_a_study(tmp_path: Path) -> None:
    path = write_patients(tmp_path / "data", 32)
    pd.read_csv(path).drop(columns="split").to_csv(path, index=False)
    train_options = {name: value for name, value in OPTIONS.items() if name != "progress"} | {"epochs": 1}
    result = auto(
        path,
        AutoOptions(out=tmp_path / "study", folds=2, variables=["age", "sex"], train=train_options, progress=False),
    )
    names = [row.name for row in result.evaluation.baselines.rows]
    assert names[-2:] == ["the clinical variables alone", "This model without the clinical variables"]
    rows = result.run.predict(str(path))
    assert rows["missing_variables"].eq("age").sum() == pd.read_csv(path)["age"].isna().sum()
