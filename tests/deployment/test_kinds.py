"""Volumes, slides and bags of tiles as files: the same rows as the run's, without torch."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from softfree.core.options import TrainOptions
from softfree.data.modalities.bag import BagPreprocessing
from softfree.data.modalities.feature_files import write_features
from softfree.data.modalities.registry import preprocessing_to_config
from softfree.data.modalities.slide import SlidePreprocessing
from softfree.data.modalities.volume import VolumePreprocessing
from softfree.deployment.graph import Graph, make_bag_graph
from softfree.deployment.options import ExportOptions
from softfree.deployment.pipeline import export
from softfree.inference.run import Run
from softfree.inference.unusual import TrainingDistribution
from softfree.training.loop import train
from softfree_runtime import Model, predict
from softfree_runtime.core.errors import UserError
from softfree_runtime.preprocessing.modalities import preprocessing_from_config
from softfree_runtime.preprocessing.volume import NumpyVolumePreprocessing
from softfree_runtime.readers.volume import Volume
from softfree_runtime.sources.volume_files import read_volume

TINY: dict[str, Any] = {"depth": 1, "embed_dim": 24, "num_heads": 2}

pytestmark = pytest.mark.usefixtures("without_figures")


def same_rows(run: Run, path: Path, inputs: list[Path]) -> pd.DataFrame:
    """Rows by the run and by the file, in this process and in one without torch and pandas; they are equal."""
    expected, found = run.predict(list(inputs)), predict(path, list(inputs))
    for name in ("path", "status", "reason", "predicted"):
        assert [row[name] for row in found] == expected[name].tolist()
    for name in [column for column in expected if column[:2] in ("p_", "ra")]:
        np.testing.assert_allclose([row[name] or np.nan for row in found], expected[name].astype(float), atol=1e-4)
    np.testing.assert_allclose([row["distance"] or np.nan for row in found], expected["distance"], rtol=1e-4)
    assert [row["unusual"] for row in found] == expected["unusual"].astype(object).where(
        expected["distance"] >= 0, None
    ).tolist()
    code = (
        "import sys\n"
        "for name in ('torch', 'timm', 'monai', 'pandas', 'onnx', 'jsonargparse', 'rich'):\n"
        "    sys.modules[name] = None\n"
        "from softfree_runtime.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    out = path.with_suffix(".csv")
    command = [sys.executable, "-c", code, str(path), *map(str, inputs), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == int((expected["status"] != "ok").any()), done.stderr
    assert pd.read_csv(out)["path"].tolist() == expected["path"].tolist()
    return expected


def with_distribution(run: Run) -> Run:
    """The run with a distribution of training samples, as training would leave it."""
    rng = np.random.default_rng(0)
    width = run.config["model"]["embed_dim"]
    whitening = rng.normal(size=(width, width)).astype(np.float32)
    TrainingDistribution(rng.normal(size=width).astype(np.float32), whitening).write(run.directory.distribution)
    return Run.load(run.folder)


@pytest.mark.parametrize("attention", ["seqnorm", pytest.param("soft", marks=pytest.mark.slow)])
def test_volumes(shared_data: Path, tmp_path: Path, attention: str, write_run: Callable[..., Run]) -> None:
    images = sorted((shared_data / "nifti").rglob("hippocampus_*.nii.gz"))[:4]
    preprocessing = VolumePreprocessing.create("mr", (24, 36, 28), (1.5, 1.5, 1.5))
    run = write_run(tmp_path / "run", f"{attention}_vit3d_nano", preprocessing, patch_size=[4, 8, 8], depth=1)
    run = with_distribution(run)
    for image in images:
        (tmp_path / "volumes").mkdir(exist_ok=True)
        (tmp_path / "volumes" / image.name).symlink_to(image)
    done = export(run.folder, ExportOptions(images=tmp_path / "volumes"))
    assert done.size == (24, 36, 28)
    assert list(done.parity.differences) == [f"{n} at 24 x 36 x 28" for n in ("1 volume", "2 volumes", "4 volumes")]
    about = Model(done.path).metadata
    assert about.sample_shape == (1, 24, 36, 28)
    assert "transformer with" in about.card
    assert "Resampled to 1.5 x 1.5 x 1.5 mm" in about.card
    if attention == "seqnorm":
        (tmp_path / "volumes" / "cut.nii.gz").write_bytes(images[0].read_bytes()[:1000])
        rows = same_rows(run, done.path, [tmp_path / "volumes"])
        assert rows["status"].value_counts().to_dict() == {"ok": 4, "corrupt": 1}


@pytest.mark.parametrize("name", ["series_t1", "pydicom_data/liver.dcm"])
def test_the_preprocessing_of_series(shared_data: Path, name: str) -> None:
    """An oblique series and an enhanced file, resampled finer and coarser, cropped and padded."""
    volume = read_volume(shared_data / "dicom" / name)
    for preset, shape, spacing in (
        ("mr", (12, 200, 130), None),
        ("mr", (9, 96, 80), (1.5, 3.0, 1.0)),
        ("ct", (20, 30, 500), (0.4, 5.0, 0.6)),
    ):
        preprocessing = VolumePreprocessing.create(preset, shape, spacing)  # type: ignore[arg-type]
        light = preprocessing_from_config(json.loads(json.dumps(preprocessing_to_config(preprocessing))))
        assert light.to_dict() == NumpyVolumePreprocessing.from_dict(preprocessing.to_dict()).to_dict()
        np.testing.assert_allclose(light.load(volume), preprocessing.load(volume), atol=1e-4)


@pytest.mark.parametrize("level", [0.0, 3.0])
def test_a_blank_volume(level: float) -> None:
    """With nothing in it, or so little that both percentiles are one."""
    voxels = np.full((1, 8, 9, 10), level, np.float32)
    for bright in (0.0, 5.0):
        voxels[0, 4, 4, 4] += bright
        volume = Volume(voxels, (1.0, 1.0, 1.0), np.eye(4)[[2, 1, 0, 3]], 0.0, 8.0, (), "float32")
        preprocessing = VolumePreprocessing.create("mr", (8, 8, 8))
        light = preprocessing_from_config(preprocessing_to_config(preprocessing))
        np.testing.assert_allclose(light.load(volume), preprocessing.load(volume), atol=1e-4)


@pytest.mark.slow
def test_slides(shared_data: Path, tmp_path: Path, write_run: Callable[..., Run]) -> None:
    slides = [f"CMU-1-Small-Region{end}" for end in (".svs", "_pyramid.tiff")]
    for slide in slides:
        shutil.copy(shared_data / "wsi" / slide, tmp_path)
    run = write_run(tmp_path / "run", "seqnorm_vit_nano_patch16", SlidePreprocessing.create(8.0), depth=1)
    run = with_distribution(run)
    table = tmp_path / "slides.csv"
    table.write_text(f"path,mpp\n{slides[0]},0.4\n{slides[1]},\nnone.svs,\n")
    done = export(run.folder, ExportOptions(images=table))
    assert done.size is None
    assert len(done.unreadable) == 1
    assert [name[:11] for name in done.parity.differences] == ["1 slide at "] * 2  # each of its own size
    assert same_rows(run, done.path, [table])["status"].tolist() == ["ok", "ok", "missing"]


def test_slides_need_any_size(shared_data: Path, tmp_path: Path, write_run: Callable[..., Run]) -> None:
    run = write_run(tmp_path / "run", "soft_vit_nano_patch16", SlidePreprocessing.create(32.0, tissue=False))
    with pytest.raises(UserError, match=r"one size only, but .* takes slides"):
        export(run.folder, ExportOptions(images=shared_data / "wsi" / "CMU-1-Small-Region.svs"))


@pytest.fixture
def bag_run(tmp_path: Path) -> Run:
    """Trained on cases of two slides of two views, bags of tiles of two classes."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(24):
        label, count = number // 2 % 2, int(rng.integers(5, 40))
        features = rng.normal(label, 1, (count, 8)).astype(np.float32)
        name = f"slide_{number:02}.h5"
        write_features(tmp_path / name, features, rng.random((count, 2)), {"encoder": "test", "mpp": 0.5, "side": 224})
        view = ("biopsy", "resection")[number % 2]
        rows.append((name, "ab"[label], f"p{number // 2}", view, ["train", "val", "test"][number // 4 % 3]))
    table = tmp_path / "table.csv"
    pd.DataFrame(rows, columns=["path", "label", "case_id", "view", "split"]).to_csv(table, index=False)
    return train(
        TrainOptions(
            table=table, out=tmp_path / "run", model="seqnorm_bag_nano", model_options=TINY, epochs=1,
            batch_size=4, progress=False, accelerator="cpu",
        )
    ).run  # fmt: skip


def test_bags(bag_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Graph] = []

    def make_once(*arguments: Any) -> Graph:
        """Both exports are of one run."""
        graphs[:] = graphs or [make_bag_graph(*arguments)]
        return copy.deepcopy(graphs[0])

    monkeypatch.setattr("softfree.deployment.pipeline.make_bag_graph", make_once)
    done = export(bag_run.folder, ExportOptions(count=2))
    tiles = [int(name.split()[3]) for name in done.parity.differences]
    assert tiles[1:3] == [-(-tiles[0] // 2), 1]
    about = Model(done.path).metadata
    assert about.sample_shape == (None, 13)
    rows = same_rows(bag_run, done.path, [tmp_path / "table.csv"])
    assert len(rows) == 12  # cases
    with pytest.raises(UserError, match=r"takes \(any, 13\)"):
        Model(done.path).logits(np.zeros((1, 4, 12), np.float32))
    narrow = export(bag_run.folder, ExportOptions(int8="static", margin=0.5, out=tmp_path / "i.onnx"))
    assert narrow.loss is not None
    assert (narrow.loss.n, narrow.loss.calibrated_on) == (4, 4)


def test_bags_with_landmarks_are_refused(tmp_path: Path, write_run: Callable[..., Run]) -> None:
    write_features(tmp_path / "a.h5", np.ones((5, 8), np.float32), np.zeros((5, 2)), {"encoder": "test"})
    run = write_run(tmp_path / "run", "nystromformer_bag_nano", BagPreprocessing(8))
    with pytest.raises(UserError, match="a fixed number of tiles only"):
        export(run.folder, ExportOptions(images=tmp_path / "a.h5"))
    assert not list(run.folder.glob("*.onnx"))
