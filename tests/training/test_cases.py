"""Cases of several images, from the table to training, prediction, maps and an exported file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import softfree_runtime
from softfree.conversion.options import ConvertOptions
from softfree.conversion.source import open_source
from softfree.core.options import StreamOptions, TrainOptions
from softfree.data.audit.audit import audit
from softfree.data.modalities.case import CaseAugmentation, CasePreprocessing
from softfree.data.modalities.registry import MODALITIES
from softfree.data.samples import as_samples, join_cases
from softfree.data.table import read_table
from softfree.deployment.options import ExportOptions
from softfree.deployment.pipeline import export
from softfree.inference.run import Run
from softfree.reporting.evaluate import evaluate
from softfree.reporting.options import EvaluateOptions
from softfree.reporting.scoring import own_table
from softfree.saliency.api import explain
from softfree.saliency.options import ExplainOptions
from softfree.streaming.parallel import check_model
from softfree.study.auto import auto
from softfree.study.options import AutoOptions
from softfree.training.loop import train
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.sources.sample_source import Case, CaseFile

VIEWS = ("front", "side", "oblique")
COUNTS = (2, 1, 3, 2)


def write_cases(folder: Path, cases: int = 24) -> Path:
    """Write cases of one to three images; in half of them the front has a bright square."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for case in range(cases):
        for number in range(COUNTS[case % 4]):
            pixels = rng.integers(0, 120, (40, 36), dtype=np.uint8)
            if case % 2 and number == 0:
                pixels[5:15, 5:15] = 250
            name = f"{case}_{VIEWS[number]}.png"
            Image.fromarray(pixels).save(folder / name)
            split = ("train", "train", "val", "test")[case // 2 % 4]
            rows.append((name, ("no", "yes")[case % 2], f"case {case}", VIEWS[number], 30 * number, split))
    frame = pd.DataFrame(rows, columns=["path", "label", "case_id", "view", "time", "split"])
    frame.sample(frac=1, random_state=0).to_csv(folder / "cases.csv", index=False)
    return folder / "cases.csv"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A model of cases, trained for two epochs."""
    folder = tmp_path_factory.mktemp("cases")
    options = TrainOptions(
        table=write_cases(folder / "data"),
        out=folder / "run",
        model="seqnorm_vit_nano_patch8",
        model_options={"depth": 1},
        size=32,
        epochs=2,
        batch_size=4,
        progress=False,
    )
    return train(options).run


@pytest.fixture
def table(tmp_path: Path) -> Callable[..., pd.DataFrame]:
    """Return a function that writes a table of two images per case."""

    def write(**columns: list) -> Path:
        for number in range(4):
            Image.fromarray(np.full((8, 8), 60 * number, np.uint8)).save(tmp_path / f"{number}.png")
        rows = {"path": [f"{n}.png" for n in range(4)], "label": ["a", "a", "b", "b"], "case_id": ["x", "x", "y", "y"]}
        pd.DataFrame(rows | columns).to_csv(tmp_path / "table.csv", index=False)
        return tmp_path / "table.csv"

    return write


def joined(path: Path):
    return join_cases(read_table(path, val_fraction=0.0, test_fraction=1.0))


def test_rows_become_cases(table: Callable[..., Path]) -> None:
    cases = joined(
        table(case_id=["x", "y", "x", "y"], label=["a", "b", "a", ""], view=["q", "", "p", ""], age=[5, 6, 5, 7])
    )
    first, second = cases.sources
    assert isinstance(first, Case)
    assert first.id == "x"
    assert [(Path(file.path).name, file.view) for file in first.files] == [("2.png", "p"), ("0.png", "q")]
    assert [Path(file.path).name for file in second.files] == ["1.png", "3.png"]
    assert cases.targets.tolist() == [0, 1], "a row without a label has that of its case"
    assert "1 row without a label have that of another row of their case" in cases.notes
    assert cases.frame["row"].tolist() == [0, 1]
    assert cases.frame["age"].tolist()[0] == 5
    assert np.isnan(cases.frame["age"].tolist()[1]), "rows that disagree"
    assert cases.frame["patient"].nunique() == 2


def test_a_case_is_in_one_split_without_patient_ids(tmp_path: Path) -> None:
    frame = pd.read_csv(write_cases(tmp_path / "data")).drop(columns="split")
    frame.to_csv(tmp_path / "data" / "cases.csv", index=False)
    split = read_table(tmp_path / "data" / "cases.csv").frame
    assert split.groupby("case_id")["split"].nunique().max() == 1
    assert split["split"].nunique() == 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"view": ["p", "p", "p", "q"]}, "rows 0, 1 of the table are of one case and have the same view 'p'"),
        (
            {"label": ["a", "b", "b", "b"]},
            r"rows 0, 1 of the table \(counted from 0\) are of one case and have dif",
        ),
        ({"patient_id": [1, 2, 3, 3]}, "of one case and have different patients"),
        ({"split": ["test", "train", "test", "test"]}, "1 case is in more than one split"),
        ({"case_id": ["x", "", "y", "y"]}, "rows 1 of the table have no case_id; give each row one"),
        ({"time": ["1", "soon", "1", "2"]}, "column time holds 'soon'; expected a number, such as days"),
    ],
)
def test_cases_that_cannot_be(table: Callable[..., Path], columns: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        joined(table(**columns))


def test_the_audit_finds_cases_that_cannot_be(table: Callable[..., Path]) -> None:
    split = ["train", "train", "test", "test"]
    found = audit(read_table(table(view=["p", "p", "p", "q"], split=split)), progress=False)
    assert "broken_case" in [problem.kind for problem in found.problems]
    found = audit(read_table(table(view=["p", "q", "p", "q"], split=split)), progress=False)
    assert "broken_case" not in [problem.kind for problem in found.problems]


def test_equal_views_at_different_times_are_fine(table: Callable[..., Path]) -> None:
    cases = joined(table(view=["p", "p", "p", "q"], time=[30, 10, 0, 0]))
    assert [file.time for file in cases.sources[0].files] == [10, 30]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"mpp": 1.0, "size": 512, "batch_size": 1},
            "slides cannot be joined by it; join the features of their tiles .see softfree features.",
        ),
        ({"resize_mode": "native", "batch_size": 1}, "--resize-mode native: the images of a case share one size"),
        ({"pool": "token"}, "a class token for cases"),
        ({"mixup": 0.2, "preset": "photo"}, "--mixup is for single images, and the table has cases of several"),
        ({"start_size": 16}, "--start-size is for single images, and the table has cases of several"),
    ],
)
def test_options_that_cases_do_not_have(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train(TrainOptions(table=write_cases(tmp_path / "data", 8), out=tmp_path / "run", **{"size": 32} | options))


def test_cases_are_read_as_their_images_are(run: Run) -> None:
    preprocessing = run.preprocessing
    assert isinstance(preprocessing, CasePreprocessing)
    assert preprocessing.view_dropout == 0.2
    assert (preprocessing.views, preprocessing.time_scale) == (["front", "oblique", "side"], 60)
    source = own_table(run, how="").where("test").sources[0]
    case = preprocessing.load(source)
    for row, file in zip(case, source.files, strict=True):
        np.testing.assert_array_equal(row[:-3].reshape(1, 32, 32), preprocessing.images[0].load(file.path))
        assert row[-3] == preprocessing.views.index(file.view) + 1
        assert row[-2] == np.float32((file.time - max(other.time for other in source.files)) / 60)


def test_augmentation_leaves_out_images_and_hides_views(run: Run) -> None:
    augmentation = CaseAugmentation(run.preprocessing, [None])
    case = torch.zeros(4, 32 * 32 + 3)
    case[:, -3] = torch.tensor([1.0, 2, 3, 1])
    drawn = [augmentation(case, seed) for seed in range(300)]
    assert torch.equal(drawn[5], augmentation(case, 5))
    kept = np.mean([len(one) for one in drawn]) / 4
    assert 0.82 < kept < 0.88  # 20 % but for the image that is always kept
    assert min(len(one) for one in drawn) >= 1
    hidden = torch.cat(drawn)[:, -3] == 0
    assert 0.05 < hidden.float().mean() < 0.15


def test_prediction_does_not_depend_on_the_order_of_rows(run: Run, tmp_path: Path) -> None:
    frame = pd.read_csv(run.table_path)
    rows = run.predict(str(run.table_path)).set_index("case_id")
    stored = run.directory.read_predictions()
    assert len(rows) == 24
    assert set(rows["status"]) == {"ok"}
    cases = own_table(run, how="").frame.set_index("row")["case_id"]
    np.testing.assert_allclose(rows.loc[cases[stored["row"]], "p_yes"], stored["p_yes"], rtol=1e-5)
    shuffled = frame.sample(frac=1, random_state=1)
    shuffled.to_csv(run.table_path.with_name("shuffled.csv"), index=False)
    again = run.predict(str(run.table_path.with_name("shuffled.csv"))).set_index("case_id")
    np.testing.assert_allclose(again.loc[rows.index, "p_yes"], rows["p_yes"], rtol=1e-5)


def test_unreadable_images_are_left_out_and_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    data = run.table_path.parent
    (data / "bad.png").write_bytes(b"no image")
    (data / "some.csv").write_text(
        "path,case_id,view\n0_front.png,a,front\nbad.png,a,side\n"
        "bad.png,b,front\n0_front.png,c,front\n0_side.png,c,from above\nbad.png,d,front\nbad.png,d,side\n"
    )
    rows = run.predict(str(data / "some.csv")).set_index("case_id")
    assert rows["status"].to_dict() == {"a": "ok", "b": "unsupported", "c": "ok", "d": "unsupported"}
    assert rows.loc["a", "reason"].startswith(f"{data / 'bad.png'}: 1 of 2 images of the case cannot be read: ")
    assert "2 of 2 images of the case cannot be read: " in rows.loc["d", "reason"]
    alone = run.predict(str(data / "0_front.png"))
    assert "column view: from above unknown to the model" in capsys.readouterr().err
    assert alone["p_yes"][0] != rows.loc["a", "p_yes"], "an image alone has no view"
    with pytest.raises(UserError, match="is a folder, and the model takes cases of several images"):
        run.predict(str(data))


def test_the_report_shows_the_images_of_cases(run: Run, tmp_path: Path) -> None:
    everything = run.with_calibration(replace(run.calibration, thresholds={"yes": 0.0}))  # half of them are wrong
    try:
        done = evaluate(everything, EvaluateOptions(split="test", show_images=True, maps=1, out=tmp_path))
        page = done.report.read_text()
    finally:
        run.with_calibration(run.calibration)
    assert page.count("no, probability") >= 3
    assert "front: no, probability" in page
    assert "with the strongest values" in page


def test_each_image_has_its_map_and_its_part_of_the_log_odds(run: Run, tmp_path: Path) -> None:
    test = own_table(run, how="").where("test").frame["case_id"]
    frame = pd.read_csv(run.table_path)
    three = frame.groupby("case_id")["path"].transform("size") == 3
    path = run.table_path.with_name("test.csv")
    frame = frame[frame["case_id"].isin(test) & three]
    frame[frame["case_id"] == frame["case_id"].iloc[0]].to_csv(path, index=False)
    (done,) = explain(run, [str(path)], ExplainOptions(out=tmp_path, method="split"))
    assert sorted(file.name for file in done.files) == sorted(file.name for file in tmp_path.iterdir())
    assert [image.view for image in done.images] == sorted(VIEWS)
    assert len({file for image in done.images for file in image.files}) == 3
    total = sum(image.total for image in done.images)
    assert total == pytest.approx(done.maps[0].log_odds, abs=1e-4)
    row = json.loads(json.dumps(done.to_dict(run)))
    assert [image["view"] for image in row["images"]] == sorted(VIEWS)


def test_an_exported_file_takes_cases(run: Run, tmp_path: Path) -> None:
    exported = export(run.folder, ExportOptions(out=tmp_path / "model.onnx"))
    assert {"1 case of 2 images", "1 case of 1 image"} <= exported.parity.differences.keys()
    rows = softfree_runtime.predict(exported.path, str(run.table_path))
    want = run.predict(str(run.table_path))
    assert [row["case_id"] for row in rows] == want["case_id"].tolist()
    np.testing.assert_allclose([row["p_yes"] for row in rows], want["p_yes"], rtol=1e-4)
    data = run.table_path.parent
    (data / "damaged.png").write_bytes(b"no image")
    (data / "two.csv").write_text("path,case_id,view\n0_front.png,a,front\ndamaged.png,a,side\ndamaged.png,b,side\n")
    rows = softfree_runtime.predict(exported.path, str(data / "two.csv"))
    assert [row["status"] for row in rows] == ["ok", "unsupported"]
    assert "1 of 2 images of the case cannot be read" in rows[0]["reason"]


def test_without_the_column_each_row_is_a_case(run: Run) -> None:
    path = run.table_path.with_name("plain.csv")
    pd.read_csv(run.table_path).drop(columns=["case_id", "split"]).head(5).to_csv(path, index=False)
    table = as_samples(
        read_table(path, classes=run.task.classes, test_fraction=1.0, val_fraction=0.0), MODALITIES["case"]
    )
    assert [len(source.files) for source in table.sources] == [1] * 5
    assert len(run.predict(str(path))) == 5


def test_training_says_which_cases_lack_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_cases(tmp_path / "data", 8)
    (tmp_path / "data" / "0_side.png").write_bytes(b"no image")
    options = TrainOptions(
        table=table,
        out=tmp_path / "run",
        model="seqnorm_vit_nano_patch16",
        model_options={"depth": 1},
        size=32,
        epochs=1,
        batch_size=2,
        progress=False,
    )
    result = train(options)
    shown = capsys.readouterr().err
    assert "1 cases are used without images that cannot be read:" in shown
    assert "0_side.png: 1 of 2 images of the case cannot be read" in shown  # a path is not broken over lines
    assert "1 training or validation cases were used without images" in result.evaluation.report.read_text()


def test_no_image_of_a_case_can_be_read(run: Run) -> None:
    with pytest.raises(ReadError, match="2 of 2 images of the case cannot be read"):
        run.preprocessing.load(Case((CaseFile("/none/a.png"), CaseFile("/none/b.png"))))


def test_a_study_of_cases(run: Run, tmp_path: Path) -> None:
    recipe = {
        "model": "seqnorm_vit_nano_patch8",
        "model_options": {"depth": 1},
        "size": 32,
        "epochs": 1,
        "batch_size": 4,
    }
    table = write_cases(tmp_path / "data")
    result = auto(table, AutoOptions(out=tmp_path / "study", folds=2, train=recipe, progress=False))
    assert result is not None
    assert result.test is not None
    assert (len(result.evaluation.scores), len(result.test.scores)) == (18, 6)
    assert "18 cases of 1 to 3 images, of 18 patients" in (tmp_path / "study" / "plan.yaml").read_text()
    rows = Run.load(tmp_path / "study").predict(str(table))
    assert rows["case_id"].nunique() == len(rows) == 24
    assert (rows["disagreement"] > 0).all()


def test_cases_stream(run: Run, tmp_path: Path) -> None:
    rows, streamed = (
        run.predict(str(run.table_path), stream=StreamOptions(stream=choice, token_chunk=5))
        for choice in ("never", "always")
    )
    np.testing.assert_allclose(streamed["raw_yes"], rows["raw_yes"], rtol=1e-5)
    np.testing.assert_allclose(streamed["distance"], rows["distance"], rtol=1e-4)
    frame = pd.read_csv(run.table_path)
    few = run.table_path.with_name("few.csv")
    frame[frame["case_id"].isin(["case 2", "case 3"])].to_csv(few, index=False)  # of three images and of two
    inputs = [str(few)]
    whole, chunked = (
        explain(run, inputs, ExplainOptions(out=tmp_path / choice, method="split", stream=choice, token_chunk=5))
        for choice in ("never", "always")
    )
    for one, other in zip(whole, chunked, strict=True):
        totals = [[image.total for image in done.images] for done in (one, other)]
        np.testing.assert_allclose(totals[0], totals[1], rtol=1e-3, atol=1e-5)


def test_training_may_stream_cases(tmp_path: Path) -> None:
    table = write_cases(tmp_path / "data", 8)
    model = {"model": "seqnorm_vit_nano_patch16", "model_options": {"depth": 1}, "size": 32, "epochs": 1}
    options = {"table": table, "batch_size": 2, "progress": False, "grad_clip": 0.0, **model}
    scores = []
    for choice in ("never", "always"):
        trained = train(TrainOptions(out=tmp_path / choice, stream=choice, token_chunk=3, **options)).run
        scores.append(trained.directory.read_predictions()["raw_yes"])
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-3)  # AdamW enlarges the rounding of small gradients


def test_what_does_not_know_cases_says_so(run: Run) -> None:
    with pytest.raises(UserError, match="this needs a run on images"):
        export(run.folder, ExportOptions(out=run.folder / "model.pte", format="executorch"))
    with pytest.raises(UserError, match="ImageCaseTransformer cannot be sharded over processes"):
        check_model(run.model)
    with pytest.raises(UserError, match=r"expected a softmax_vit_\* model of single images"):
        open_source(str(run.folder), ConvertOptions(images=run.table_path, out=run.folder / "converted"))
