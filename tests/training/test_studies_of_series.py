"""DICOM studies of several series as cases: real files, one row for each series, in folders of their own or in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.uid import generate_uid

import softfree_runtime
from softfree.core.options import TrainOptions
from softfree.data.modalities.case import CasePreprocessing
from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.modalities.registry import MODALITIES, preprocessing_to_config
from softfree.data.modalities.volume import VolumePreprocessing
from softfree.data.samples import as_samples
from softfree.data.table import read_table
from softfree.deployment.options import ExportOptions
from softfree.deployment.pipeline import export
from softfree.saliency.api import explain
from softfree.saliency.options import ExplainOptions
from softfree.training.loop import train
from softfree_runtime.sources.sample_source import Case, CaseFile

ALL_TEST = {"val_fraction": 0.0, "test_fraction": 1.0}
VIEWS = """
T1 even: {kind: volume, modality: mr, shape: [5, 64, 48], patch_size: [1, 16, 16]}
T1 odd: {kind: volume, modality: mr, shape: [5, 64, 48], patch_size: [1, 16, 16]}
localizer: {preset: radiograph, size: 64, patch_size: 16}
"""


def write_study(dicom: Path, folder: Path, *, in_one_folder: bool = False, bright: bool = False) -> None:
    """Write a study of three series: the even and the odd slices of a real T1 series, and a real single slice."""
    sources = sorted((dicom / "series_t1").glob("*.dcm"))
    assert len(sources) == 10
    series = [("T1 even", sources[::2]), ("T1 odd", sources[1::2])]
    series.append(("localizer", [dicom / "same_image_nine_syntaxes" / "1.dcm"]))
    study = generate_uid(entropy_srcs=[folder.name])
    for description, files in series:
        own = folder if in_one_folder else folder / description
        own.mkdir(parents=True, exist_ok=True)
        for file in files:
            dataset = pydicom.dcmread(file)
            dataset.StudyInstanceUID, dataset.SeriesDescription = study, description
            dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[folder.name, description])
            dataset.SOPInstanceUID = generate_uid(entropy_srcs=[folder.name, description, file.name])
            if bright and description != "localizer":
                pixels = dataset.pixel_array.copy()
                pixels[100:220, 80:180] *= 2
                dataset.PixelData = pixels.tobytes()
            dataset.save_as(own / f"{description}_{file.name}")


def table_of(folder: Path) -> pd.DataFrame:
    """One row for each series below a folder, as docs/how-to/cases.md makes it."""
    rows: dict[str, tuple[str, str, str]] = {}
    for path in sorted(folder.rglob("*.dcm")):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        row = (str(path.relative_to(folder)), header.StudyInstanceUID, header.SeriesDescription)
        rows.setdefault(header.SeriesInstanceUID, row)
    return pd.DataFrame(list(rows.values()), columns=["path", "case_id", "view"])


@pytest.mark.parametrize("in_one_folder", [False, True])
def test_series_of_a_study_are_the_images_of_a_case(shared_data: Path, tmp_path: Path, in_one_folder: bool) -> None:
    write_study(shared_data / "dicom", tmp_path / "study", in_one_folder=in_one_folder)
    write_study(shared_data / "dicom", tmp_path / "study2", bright=True)
    frame = table_of(tmp_path)
    frame["label"] = frame["case_id"].map(dict(zip(frame["case_id"].unique(), "ab", strict=True)))
    frame[frame["view"] != "localizer"].to_csv(tmp_path / "table.csv", index=False)
    case, bright = as_samples(read_table(tmp_path / "table.csv", **ALL_TEST), MODALITIES["case"]).sources
    volume = VolumePreprocessing.create("mr", (5, 32, 24))
    cases = CasePreprocessing(preprocessing_to_config(volume), [1, 5, 32, 24], ["T1 even", "T1 odd"])
    prepared, error = cases.load_readable(case)
    assert error is None
    assert prepared[:, -3].tolist() == [1.0, 2.0]
    # Each row is its series alone, read from copies of the slices in a folder of their own.
    for row, first in zip(prepared, (0, 1), strict=True):
        alone = tmp_path / f"alone{first}"
        alone.mkdir()
        for file in sorted((shared_data / "dicom" / "series_t1").glob("*.dcm"))[first::2]:
            (alone / file.name).write_bytes(file.read_bytes())
        np.testing.assert_array_equal(row[:-3].reshape(1, 5, 32, 24), volume.load(str(alone)))
    assert not np.array_equal(prepared[0, :-3], prepared[1, :-3])
    assert not np.array_equal(cases.load(bright), prepared)


def test_a_study_of_nine_series_of_one_slice(shared_data: Path) -> None:
    folder = shared_data / "dicom" / "same_image_nine_syntaxes"
    studies = {pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID for path in folder.glob("*.dcm")}
    assert len(studies) == 1
    files = tuple(CaseFile(str(folder / f"{number}.dcm")) for number in range(1, 10))
    images = ImagePreprocessing.create("radiograph", 48, "pad", 1)
    preprocessing = CasePreprocessing(preprocessing_to_config(images), [1, 48, 48])
    prepared, error = preprocessing.load_readable(Case(files, studies.pop()))
    assert error is None
    assert prepared.shape == (9, 48 * 48 + 3)
    np.testing.assert_array_equal(prepared[1:], np.tile(prepared[:1], (8, 1)))  # the same pixels in nine encodings
    np.testing.assert_array_equal(prepared[0, :-3].reshape(1, 48, 48), images.load(files[0].path))


@pytest.mark.slow
def test_from_training_to_an_exported_file(shared_data: Path, tmp_path: Path) -> None:
    for number in range(8):
        folder = tmp_path / f"study{number}"
        write_study(shared_data / "dicom", folder, in_one_folder=number % 4 == 3, bright=number % 2 == 1)
    frame = table_of(tmp_path)
    numbers = frame["path"].str.extract(r"study(\d)")[0].astype(int)
    frame["label"] = numbers.mod(2).map({0: "no", 1: "yes"})
    frame["split"] = numbers.map(lambda number: ("train", "val")[number // 4])
    frame = frame[(numbers != 5) | (frame["view"] != "T1 odd")]  # one study lacks a series
    frame.to_csv(tmp_path / "table.csv", index=False)
    (tmp_path / "views.yaml").write_text(VIEWS)
    options = TrainOptions(
        table=tmp_path / "table.csv", out=tmp_path / "run", views=tmp_path / "views.yaml", epochs=1, batch_size=2,
        model="seqnorm_vit_nano_patch16", model_options={"depth": 1}, progress=False,
    )  # fmt: skip
    run = train(options).run
    rows = run.predict(str(options.table))
    assert rows["status"].tolist() == ["ok"] * 8
    assert rows["path"].str.count(";").tolist() == [2, 2, 2, 2, 2, 1, 2, 2]
    export(run.folder, ExportOptions(out=tmp_path / "model.onnx", count=2))
    exported = pd.DataFrame(softfree_runtime.predict(tmp_path / "model.onnx", str(options.table)))
    np.testing.assert_allclose(exported["p_yes"], rows["p_yes"], atol=1e-5)
    few = tmp_path / "few.csv"
    frame.head(3).to_csv(few, index=False)
    (explained,) = explain(run, [str(few)], ExplainOptions(out=tmp_path / "maps", method="split"))
    assert [image.view for image in explained.images] == ["T1 even", "T1 odd", "localizer"]
    assert sum(image.total for image in explained.images) == pytest.approx(explained.maps[0].log_odds, abs=1e-5)
    assert [file.suffix for file in explained.files] == [".gz", ".gz", ".png"]
