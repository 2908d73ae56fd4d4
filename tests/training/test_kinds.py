"""The same commands train, evaluate and predict on volumes, slides and bags of features as on images."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softfree.cli.main import main
from softfree.core.options import StreamOptions
from softfree.data.modalities.feature_files import write_features
from softfree.inference.run import Run

QUICK = ["--epochs", "1", "--accelerator", "cpu", "--progress", "false", "--lr", "0.002"]
TINY = "{depth: 1, embed_dim: 24, num_heads: 2}"

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture
def volumes(shared_data: Path, tmp_path: Path) -> Path:
    """A table of real hippocampus volumes, one of them cut short, outside the folder of the files."""
    rows = pd.read_csv(shared_data / "nifti" / "manifest.csv").dropna(subset="label")
    subset = rows.groupby("label").head(6).reset_index(drop=True)
    for name in subset["path"]:
        source, target = shared_data / "nifti" / name, tmp_path / "volumes" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    broken = tmp_path / "volumes" / subset["path"][0]
    broken.write_bytes(broken.read_bytes()[:2000])
    subset["split"] = ["train", "train", "val", "val", "test", "train"] * 2
    subset[["path", "label", "patient_id", "split"]].to_csv(tmp_path / "volumes" / "table.csv", index=False)
    return tmp_path / "volumes" / "table.csv"


def test_volumes(volumes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = ["--model", "seqnorm_vit3d_nano", "--model-options", TINY, "--shape", "[40, 48, 40]", "--batch-size", "2"]
    out = tmp_path / "run"
    assert main(["train", str(volumes), *model, *QUICK, "--out", str(out)]) == 0
    assert "1 samples cannot be read" in capfd.readouterr().err
    config = Run.load(out).config
    assert config["preprocessing"]["kind"] == "volume"
    assert config["model"]["img_size"] == [40, 48, 40]
    assert main(["evaluate", str(out), "--split", "val"]) == 0
    assert main(["predict", str(out), str(volumes.parent), "--out", str(tmp_path / "p.csv")]) == 1
    rows = pd.read_csv(tmp_path / "p.csv")
    assert rows["status"].value_counts().to_dict() == {"ok": 11, "corrupt": 1}


@pytest.fixture
def bags(tmp_path: Path) -> Path:
    """Bags of tiles of two classes, two slides a patient, of two views, with sizes that differ."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(24):
        label = number // 2 % 2
        count = int(rng.integers(5, 40))
        features = rng.normal(label, 1, (count, 8)).astype(np.float32)
        path = tmp_path / f"slide_{number:02}.h5"
        write_features(path, features, rng.random((count, 2)), {"encoder": "test", "mpp": 0.5, "side": 224})
        split = ["train", "val", "test"][(number // 4) % 3]
        view = ("biopsy", "resection")[number % 2]
        rows.append((path.name, "ab"[label], f"p{number // 2}", split, f"p{number // 2}", view, number))
    table = tmp_path / "table.csv"
    columns = ["path", "label", "patient_id", "split", "case_id", "view", "time"]
    pd.DataFrame(rows, columns=columns).to_csv(table, index=False)
    return table


@pytest.mark.parametrize("joined", ["", "case_id", "case_id view time"])
def test_bags(bags: Path, tmp_path: Path, joined: str, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    frame = pd.read_csv(bags)
    frame[["path", "label", "patient_id", "split", *joined.split()]].to_csv(bags, index=False)
    model = ["--model", "seqnorm_bag_nano", "--model-options", TINY, "--batch-size", "4"]
    assert main(["train", str(bags), *model, *QUICK, "--out", str(out)]) == 0
    run = Run.load(out)
    predictions = pd.read_csv(out / "predictions.csv")
    assert len(predictions) == (8 if joined else 16)
    assert run.config["preprocessing"]["in_features"] == 8
    assert main(["evaluate", str(out)]) == 0
    rows = run.predict(bags)
    assert (rows["status"] == "ok").all()
    assert len(rows) == (12 if joined else 24)
    assert run.config["model"].get("views") == (2 if "view" in joined else None)
    if not joined:
        return
    # The result depends neither on the order of the rows nor on the chunks.
    pd.read_csv(bags).sample(frac=1, random_state=0).to_csv(tmp_path / "shuffled.csv", index=False)
    streamed = run.predict(tmp_path / "shuffled.csv", stream=StreamOptions(stream="always", token_chunk=7))
    again = streamed.set_index("case_id").loc[rows["case_id"], "raw_b"]
    np.testing.assert_allclose(again, rows["raw_b"], rtol=1e-4)
    # A slide that cannot be read is left out and named.
    (tmp_path / "slide_00.h5").write_bytes(b"none")
    capfd.readouterr()
    assert main(["predict", str(out), str(bags), "--out", str(tmp_path / "p.csv")]) == 0
    partly = pd.read_csv(tmp_path / "p.csv", keep_default_na=False)
    assert partly["reason"][partly["case_id"] == "p0"].str.contains("1 of 2 files of the case cannot be read").all()
    assert (partly["status"] == "ok").all()


def test_slides(shared_data: Path, tmp_path: Path) -> None:
    slides = ["CMU-1-Small-Region.svs", "CMU-1-Small-Region_pyramid.tiff"]
    rows = [(name, label, split) for split in ("train", "val") for name, label in zip(slides, "ab", strict=True)]
    for name in slides:
        for split in ("train", "val"):
            (tmp_path / f"{split}_{name}").write_bytes((shared_data / "wsi" / name).read_bytes())
    frame = pd.DataFrame([(f"{s}_{n}", label, s) for n, label, s in rows], columns=["path", "label", "split"])
    frame.to_csv(tmp_path / "slides.csv", index=False)
    out = tmp_path / "run"
    model = ["--model", "seqnorm_vit_nano_patch16", "--model-options", TINY, "--mpp", "8", "--batch-size", "1"]
    assert main(["train", str(tmp_path / "slides.csv"), *model, *QUICK, "--out", str(out)]) == 0
    run = Run.load(out)
    assert run.config["preprocessing"]["kind"] == "slide"
    rows = run.predict([shared_data / "wsi" / slides[0], shared_data / "wsi" / "cptac-brca_15BR001_level.dcm"])
    assert rows["status"].tolist() == ["ok", "too_coarse"]  # the second has no level as fine as 8 micrometers
