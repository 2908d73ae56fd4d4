"""Features of images and volumes: a vector a row, in the order of the inputs, with the columns of their table."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from softfree.archive.features import _kind, features_of
from softfree.archive.tasks.features import Encoder, PooledFeatures
from softfree.features.options import FeatureOptions
from softfree.features.pooled import open_pooled
from softfree.inference.run import Run
from softfree_runtime.core.errors import UserError


def options(out: Path, encoder: object, **others) -> FeatureOptions:
    return FeatureOptions(encoder=str(encoder), out=out, workers=1, progress=False, **others)


def test_images_of_a_table(image_run, small_table: Path, tmp_path: Path, capsys) -> None:
    """Whole: features before the head, one null, columns of the table, patients as numbers, in any order."""
    rows = pd.read_csv(small_table)
    (small_table.parent / rows["path"][5]).write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    out = tmp_path / "out"
    given = options(out, image_run.folder, kind="image", block=8, order="-path", csv=True)
    assert features_of([str(small_table)], given) == 1
    assert "31 of 32 encoded" in capsys.readouterr().err

    table = pq.read_table(out / "results.parquet")
    width = image_run.model.num_features
    assert table.schema.field("features").type == pa.list_(pa.float32(), width)
    found = table.to_pandas()
    assert found["path"].tolist() == rows["path"].tolist()[::-1]
    assert found["label"].tolist() == rows["label"].tolist()[::-1]
    assert found["split"].tolist() == rows["split"].tolist()[::-1]
    assert found["patient"].tolist() == [15 - number // 2 for number in range(32)]
    assert "patient_id" not in found
    assert found["status"].value_counts().to_dict() == {"ok": 31, "corrupt": 1}
    assert found["features"][26] is None
    assert "patient0" not in (out / "results.csv").read_text()
    assert len(pd.read_csv(out / "results.csv")) == 32
    identity = json.loads((out / "archive.json").read_text())
    assert (identity["task"], identity["features"], len(identity["model_digest"])) == ("features", width, 64)

    model = image_run.model
    prepared = torch.from_numpy(image_run.preprocessing.load(str(small_table.parent / found["path"][0])))[None]
    with torch.inference_mode():
        expected = model.forward_head(model.forward_features(prepared), pre_logits=True)[0]
    np.testing.assert_allclose(found["features"][0], expected, rtol=1e-4, atol=1e-5)

    with pytest.raises(UserError, match="was begun with encoder"):
        features_of([str(small_table)], options(out, "pixels", kind="image", block=8, order="-path"))


def test_encoders_of_images_take_volumes_by_slices(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 200, (20, 24, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1, 2, 1])), tmp_path / "v.nii.gz")
    handler = Encoder(PooledFeatures("pixels", "volume", side=16))
    sample = [("v", str(tmp_path / "v.nii.gz"), None), ("gone", str(tmp_path / "gone.nii.gz"), None)]
    rows = handler(sample, [0, 1]).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "missing"]
    assert len(rows[0]["features"]) == 54
    assert rows[1]["features"] is None
    low, high = np.percentile(voxels, (0.5, 99.5))
    mean = np.clip((voxels - low) / (high - low), 0, 1).mean() * 13 / 16  # the rest is padding
    assert rows[0]["features"][0] == pytest.approx(mean, abs=0.01)


def test_volumes_of_a_run_and_half_precision(volume_run, tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 200, (20, 24, 12)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "v.nii.gz")
    handler = Encoder(PooledFeatures(str(volume_run.folder), "volume", precision="bf16"))
    rows = handler([("v", str(tmp_path / "v.nii.gz"), None)], [0])
    assert rows.schema.field("features").type == pa.list_(pa.float16(), volume_run.model.num_features)


def test_an_ensemble_has_the_features_of_all_members(image_run, monkeypatch, tmp_path: Path) -> None:
    two = (Run.load(image_run.folder), Run.load(image_run.folder))
    whole = Run.load(image_run.folder)
    whole.__dict__["members"] = two
    monkeypatch.setattr(Run, "load", lambda folder: whole)
    encoder = open_pooled(str(image_run.folder), None, 224, "image")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "a.png")
    from softfree.inference.options import InferenceOptions

    found = encoder([("a", str(tmp_path / "a.png"), None)], InferenceOptions(progress=False)).features[0]
    assert len(found) == encoder.width == 2 * two[0].model.num_features
    np.testing.assert_array_equal(*np.split(found, 2))


def test_what_the_inputs_are(image_run, volume_run, tmp_path: Path, shared_data: Path) -> None:
    table = tmp_path / "t.csv"
    kinds = {}
    for name in ("a.png", "a.svs", "a.tiff", "a.nii.gz"):
        table.write_text(f"path\n{name}\n")
        kinds[name] = _kind([str(table)], options(tmp_path, "pixels"))
    assert kinds == {"a.png": "image", "a.svs": "slide", "a.tiff": "slide", "a.nii.gz": "volume"}
    table.write_text("path,mpp\na.png,0.5\n")
    assert _kind([str(table)], options(tmp_path, "pixels")) == "slide"
    assert _kind([str(table)], options(tmp_path, volume_run.folder)) == "volume"
    for name, kind in (("pydicom/CT_small.dcm", "image"), ("../wsi/cptac-brca_15BR001_level.dcm", "slide")):
        table.write_text(f"path\n{shared_data / 'dicom' / name}\n")
        assert _kind([str(table)], options(tmp_path, image_run.folder, image_root=Path("/"))) == kind
    with pytest.raises(UserError, match="one table with a column path"):
        features_of(["a.svs"], options(tmp_path, "pixels"))
