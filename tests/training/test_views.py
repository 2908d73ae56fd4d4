"""Cases whose images differ in kind and size, by the settings of their views."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import softfree_runtime
from softfree.core.options import TrainOptions
from softfree.data.modalities.case import CasePreprocessing
from softfree.deployment.options import ExportOptions
from softfree.deployment.pipeline import export
from softfree.inference.run import Run
from softfree.models.case import CaseTransformer
from softfree.reporting.evaluate import evaluate
from softfree.reporting.options import EvaluateOptions
from softfree.reporting.scoring import own_table
from softfree.saliency.api import explain
from softfree.saliency.options import ExplainOptions
from softfree.training.loop import train
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.sources.sample_source import Case, CaseFile

SETTINGS = """
frontal: {size: 32}
lateral: {size: 32}
detail: {size: 16, preset: photo, patch_size: 4}
ct: {kind: volume, modality: ct, shape: [8, 16, 16], patch_size: [4, 8, 8]}
"""


def write_cases(folder: Path, cases: int = 16) -> Path:
    """Write cases of a radiograph or two, a colored detail and a CT volume, some of which are missing."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for case in range(cases):
        for view in ("frontal", "lateral", "detail", "ct"):
            if (case + len(view)) % 5 == 0:
                continue
            name = f"{case}_{view}.{'nii.gz' if view == 'ct' else 'png'}"
            if view == "ct":
                voxels = rng.integers(-900, 200 + 600 * (case % 2), (14, 15, 9)).astype(np.int16)
                nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / name)
            else:
                shape = (20, 24, 3) if view == "detail" else (40, 36)
                Image.fromarray(rng.integers(0, 160 + 90 * (case % 2), shape, dtype=np.uint8)).save(folder / name)
            split = ("train", "train", "val", "test")[case // 2 % 4]
            rows.append((name, ("no", "yes")[case % 2], f"case {case}", view, split))
    frame = pd.DataFrame(rows, columns=["path", "label", "case_id", "view", "split"])
    frame.to_csv(folder / "cases.csv", index=False)
    (folder / "views.yaml").write_text(SETTINGS)
    return folder / "cases.csv"


def options_of(table: Path, **changes: object) -> TrainOptions:
    options = {
        "table": table,
        "out": table.parent.parent / "run",
        "model": "seqnorm_vit_nano_patch8",
        "model_options": {"depth": 1},
        "views": table.parent / "views.yaml",
        "epochs": 1,
        "batch_size": 4,
        "progress": False,
    }
    return TrainOptions(**(options | changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A model of cases of four views with three tokenizers."""
    return train(options_of(write_cases(tmp_path_factory.mktemp("views") / "data"))).run


def test_views_with_equal_settings_share_a_tokenizer(run: Run) -> None:
    preprocessing = Run.load(run.folder).preprocessing
    assert isinstance(preprocessing, CasePreprocessing)
    assert preprocessing.tokenizer_of == {"ct": 2, "detail": 1, "frontal": 0, "lateral": 0}
    assert preprocessing.shapes == [(1, 32, 32), (3, 16, 16), (1, 8, 16, 16)]
    model = run.model
    assert isinstance(model, CaseTransformer)
    assert [model.tokenizer(number).patch_size for number in range(3)] == [8, 4, (4, 8, 8)]
    assert any("Views ct:" in words for words in preprocessing.in_words())


def test_each_image_is_read_as_its_view_says(run: Run) -> None:
    preprocessing = run.preprocessing
    source = next(source for source in own_table(run, how="").sources if len(source.files) == 4)
    case = preprocessing.load(source)
    assert case.shape == (4, 8 * 16 * 16 + 3)
    for row, file in zip(case, source.files, strict=True):
        number = preprocessing.tokenizer_of[file.view]
        pixels = preprocessing.images[number].load(file.path)
        np.testing.assert_array_equal(row[: pixels.size], pixels.ravel())
        assert (row[pixels.size : -3] == 0).all()
        assert (row[-3], row[-1]) == (preprocessing.views.index(file.view) + 1, number)
    augmented = preprocessing.augmentation()(torch.from_numpy(case), 3)
    assert set(augmented[:, -1].tolist()) <= set(case[:, -1].tolist())
    sizes = [image.numel() for _, image in preprocessing.pixels(augmented)]
    assert all((row[size:-3] == 0).all() for row, size in zip(augmented, sizes, strict=True))
    full, less = (preprocessing.small_copy(torch.from_numpy(part)) for part in (case, case[1:]))
    assert full.shape == less.shape


def test_prediction_and_evaluation(run: Run, tmp_path: Path) -> None:
    rows = run.predict(str(run.table_path)).set_index("case_id")
    assert set(rows["status"]) == {"ok"}
    stored = run.directory.read_predictions()
    cases = own_table(run, how="").frame.set_index("row")["case_id"]
    np.testing.assert_allclose(rows.loc[cases[stored["row"]], "p_yes"], stored["p_yes"], rtol=1e-5)
    assert evaluate(run, EvaluateOptions(split="test", maps=1, out=tmp_path)).report.is_file()


def test_a_view_that_the_model_cannot_read(run: Run) -> None:
    data = run.table_path.parent
    (data / "some.csv").write_text("path,case_id,view\n1_frontal.png,a,frontal\n1_detail.png,a,other\n1_ct.nii.gz,b,\n")
    rows = run.predict(str(data / "some.csv")).set_index("case_id")
    assert rows["status"].to_dict() == {"a": "ok", "b": "unsupported"}
    assert (
        "the view 'other'; the model reads images by their views: ct, detail, frontal, lateral" in rows["reason"]["a"]
    )
    assert "no view; the model reads images by their views" in rows["reason"]["b"]
    with pytest.raises(ReadError, match="no view; the model reads"):
        run.preprocessing.load(str(data / "1_frontal.png"))


def test_maps_of_images_and_volumes(run: Run, tmp_path: Path) -> None:
    frame = pd.read_csv(run.table_path)
    whole = frame.groupby("case_id").filter(lambda rows: len(rows) == 4)
    path = run.table_path.with_name("whole.csv")
    whole[whole["case_id"] == whole["case_id"].iloc[0]].to_csv(path, index=False)
    (done,) = explain(run, [str(path)], ExplainOptions(out=tmp_path, method="split"))
    assert [image.view for image in done.images] == ["ct", "detail", "frontal", "lateral"]
    assert {"".join(file.suffixes) for file in done.images[0].files} == {".nii.gz"}
    assert [file.suffix for file in done.images[1].files] == [".png"]
    assert sum(image.total for image in done.images) == pytest.approx(done.maps[0].log_odds, abs=1e-4)
    json.dumps(done.to_dict(run))
    with pytest.raises(UserError, match="--format dicom is not for samples of kind volume"):
        explain(run, [str(path)], ExplainOptions(out=tmp_path, format="dicom"))


@pytest.mark.slow
def test_an_exported_file_takes_them(run: Run, tmp_path: Path) -> None:
    exported = export(run.folder, ExportOptions(out=tmp_path / "model.onnx"))
    rows = softfree_runtime.predict(exported.path, str(run.table_path))
    want = run.predict(str(run.table_path))
    assert [row["case_id"] for row in rows] == want["case_id"].tolist()
    np.testing.assert_allclose([row["p_yes"] for row in rows], want["p_yes"], rtol=1e-4)
    np.testing.assert_allclose([row["distance"] for row in rows], want["distance"], rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "frontal: {size: 32}\nct: {kind: volume}\n",
            "has no settings for detail, lateral of the table; it has ct, frontal",
        ),
        (f"{SETTINGS}extra: {{colour: 1}}\n", "extra: Unknown setting of a view of kind image 'colour'"),
        (f"{SETTINGS}extra: {{size: big}}\n", "extra: size is 'big'; expected a whole number"),
        (f"{SETTINGS}extra: {{kind: slide}}\n", "extra: kind is 'slide'; expected image or volume"),
        (f"{SETTINGS}extra: {{kind: volume, size: 8}}\n", "extra: Unknown setting of a view of kind volume 'size'"),
        (f"{SETTINGS}extra: 7\n", "extra is 7; expected settings"),
        (
            f"{SETTINGS}extra: {{size: 16, patch_size: 32}}\n",
            "patch_size 32 of extra does not fit into images of 16 x 16",
        ),
        (f"{SETTINGS}extra: {{kind: volume, patch_size: [4, 8]}}\n", r"patch_size \[4, 8\] of extra does not fit"),
        ("- a\n", "expected views with their settings, such as"),
        ("a: [\n", "cannot be read as YAML"),
        (SETTINGS.replace("ct: {kind", "ct: {modality: pet, kind").replace("modality: ct, ", ""), "modality is 'pet'"),
    ],
)
def test_settings_that_are_none(tmp_path: Path, settings: str, message: str) -> None:
    table = write_cases(tmp_path / "data", 8)
    (table.parent / "views.yaml").write_text(settings)
    with pytest.raises(UserError, match=message) as caught:
        train(options_of(table))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_tables_that_settings_do_not_fit(tmp_path: Path) -> None:
    table = write_cases(tmp_path / "data", 8)
    frame = pd.read_csv(table)
    (table.parent / "views.yaml").write_text("".join(f"{view}: {{size: 32}}\n" for view in frame["view"].unique()))
    with pytest.raises(UserError, match="has no view of kind volume, which --model seqnorm_vit3d_nano takes"):
        train(options_of(table, model="seqnorm_vit3d_nano"))
    frame.assign(view=frame["view"].where(frame.index > 2)).to_csv(table, index=False)
    with pytest.raises(UserError, match=r"3 of \d+ images have no view; fill the column view"):
        train(options_of(table))
    frame.drop(columns="case_id").to_csv(table, index=False)
    with pytest.raises(UserError, match="it is for images and volumes of cases, in tables with a column case_id"):
        train(options_of(table))


def test_a_volume_may_be_the_first(tmp_path: Path) -> None:
    table = write_cases(tmp_path / "data", 16)
    trained = train(options_of(table, model="seqnorm_vit3d_nano")).run
    assert trained.preprocessing.tokenizer_of == {"ct": 0, "detail": 2, "frontal": 1, "lateral": 1}
    assert trained.model.tokenizer(1).patch_size == 16
    case = Case((CaseFile(str(table.parent / "1_ct.nii.gz"), view="ct"),))
    assert trained.preprocessing.load(case).shape == (1, 8 * 16 * 16 + 3)
