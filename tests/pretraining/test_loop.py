from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from softfree.cli.main import main
from softfree.core.options import TrainOptions
from softfree.inference.run_directory import RunDirectory
from softfree.pretraining.loop import PretrainingModule, build_autoencoder, encoder_arguments, pretrain, resume
from softfree.pretraining.options import PretrainOptions
from softfree.pretraining.samples import find_samples, read_samples
from softfree.training.checkpoints import AtomicCheckpointIO
from softfree.training.loaders import readable
from softfree.training.loop import train
from softfree.training.modality import create_preprocessing
from softfree_runtime.core.errors import UserError

pytestmark = pytest.mark.usefixtures("without_figures")

TINY: dict[str, Any] = {
    "model": "seqnorm_vit_nano_patch8", "model_options": {"depth": 1, "embed_dim": 32, "num_heads": 2}, "size": 32,
    "epochs": 3, "batch_size": 8, "decoder_dim": 32, "decoder_depth": 1, "progress": False, "accelerator": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_small_table: Any) -> Path:
    return make_small_table(tmp_path_factory.mktemp("pretraining") / "data").parent


@pytest.fixture(scope="module")
def pretrained(folder: Path) -> Path:
    return pretrain(PretrainOptions(table=folder / "table.csv", out=folder / "pretrained", **TINY))


def same(one: Path, other: Path) -> bool:
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_pretraining_leaves_weights_that_a_training_takes_whole(
    pretrained: Path, folder: Path, capsys: pytest.CaptureFixture[str], quick: dict[str, Any]
) -> None:
    assert json.loads((pretrained / "metrics.json").read_text())["epochs"] == 3
    options = quick | {"model": TINY["model"], "model_options": TINY["model_options"], "weights": str(pretrained)}
    train(TrainOptions(table=folder / "table.csv", out=folder / "tuned", **options))
    stderr = capsys.readouterr().err
    new = next(line for line in stderr.splitlines() if line.startswith("new"))
    assert new.split()[2:] == ["head.weight,", "head.bias"], stderr
    assert next(line for line in stderr.splitlines() if line.startswith("dropped")).split()[1] == "0"


def test_only_the_training_split_is_seen(pretrained: Path) -> None:
    page = (pretrained / "report.html").read_text()
    assert "the 16 rows of split train, out of 32" in page
    assert "<img" not in page


def test_an_interrupted_pretraining_ends_in_the_same_bits(
    pretrained: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PretrainingModule.training_step

    def interrupted(self: PretrainingModule, batch: Any, number: int) -> torch.Tensor:
        if (self.current_epoch, number) == (1, 1):
            raise KeyboardInterrupt
        return original(self, batch, number)

    out = folder / "interrupted"
    with monkeypatch.context() as patched:
        patched.setattr(PretrainingModule, "training_step", interrupted)
        with pytest.raises(UserError, match="--resume"):
            pretrain(PretrainOptions(table=folder / "table.csv", out=out, **TINY))
    resume(out)
    assert same(pretrained, out)


def test_a_kill_after_the_last_checkpoint_loses_no_epoch(
    pretrained: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, written = AtomicCheckpointIO.save_checkpoint, []

    def save_and_kill(self: AtomicCheckpointIO, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        save(self, checkpoint, path, storage_options)
        written.append(path)
        if len(written) == TINY["epochs"]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", save_and_kill)
        with pytest.raises(UserError, match="stopped by Ctrl-C"):
            pretrain(PretrainOptions(table=folder / "table.csv", out=tmp_path / "out", **TINY))
    resume(tmp_path / "out")
    whole, again = RunDirectory(pretrained).read_history(), RunDirectory(tmp_path / "out").read_history()
    assert whole is not None
    assert again is not None
    assert whole.equals(again)
    assert again["epoch"].tolist() == [0, 1, 2]
    first, second = (json.loads((out / "metrics.json").read_text()) for out in (pretrained, tmp_path / "out"))
    assert first == second


def test_an_image_of_one_patch_is_left_out(tmp_path: Path) -> None:
    for number, side in enumerate((8, 16, 20)):
        Image.fromarray(np.arange(side * side, dtype=np.uint8).reshape(side, side)).save(tmp_path / f"{number}.png")
    native = {"resize_mode": "native", "batch_size": 1, "augment": False}
    options = PretrainOptions(table=tmp_path, out=tmp_path / "out", **(TINY | native))
    images = find_samples(options)
    preprocessing = create_preprocessing(options, images.sources)  # type: ignore[arg-type]
    model = build_autoencoder(encoder_arguments(options, preprocessing), options)
    dataset, left_out = read_samples(images, preprocessing, options, model)
    assert {index: str(error) for index, error in left_out.items()} == {
        0: f"{tmp_path / '0.png'}: is one patch, of which none can be hidden"
    }
    assert readable(dataset) == [1, 2]


def test_a_folder_needs_no_labels_and_bad_files_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images" / "deep"
    images.mkdir(parents=True)
    for number in range(8):
        Image.fromarray(np.full((40, 40), 20 * number, np.uint8)).save(images / f"{number}.png")
    (images / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    options = TINY | {"epochs": 1, "show_images": True}
    out = pretrain(PretrainOptions(table=tmp_path / "images", out=tmp_path / "out", **options))
    assert "1 images are left out" in capsys.readouterr().err
    assert (out / "report.html").read_text().count("<img") == 3 * 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "--epochs 0"),
        ({"mask_ratio": 1.0}, "--mask-ratio 1.0"),
        ({"decoder_dim": 20}, "--decoder-dim 20"),
        ({"model": "seqnorm_bag_nano"}, "not for bags of tiles"),
        ({"model": "seqnorm_vit_nano_patch9"}, "nano_patch9"),
        ({"resize_mode": "native"}, "native"),
        ({"model_options": {"pos_conv": True}}, "pos_conv"),
    ],
)
def test_what_cannot_work_is_refused_and_leaves_no_folder(
    folder: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    options = replace(PretrainOptions(table=folder / "table.csv", out=tmp_path / "out", **TINY), **change)
    with pytest.raises(UserError, match=words):
        pretrain(options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("count", "words"), [(0, "no"), (1, "1 images")])
def test_too_few_images_are_refused(tmp_path: Path, count: int, words: str) -> None:
    (tmp_path / "images").mkdir()
    for number in range(count):
        Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "images" / f"{number}.png")
    with pytest.raises(UserError, match=words):
        pretrain(PretrainOptions(table=tmp_path / "images", out=tmp_path / "out", **TINY))


def test_a_training_is_not_resumed_as_a_pretraining(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--resume", str(run.folder)]) == 2
    assert "softfree train --resume" in capsys.readouterr().err


def test_the_command_pretrains_volumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import nibabel

    rng = np.random.default_rng(0)
    (tmp_path / "volumes").mkdir()
    for number in range(4):
        voxels = rng.normal(size=(12, 12, 12)).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / "volumes" / f"{number}.nii.gz")
    given = ["pretrain", str(tmp_path / "volumes"), "--out", str(tmp_path / "out"), "--model", "seqnorm_vit3d_nano"]
    given += ["--shape", "[8, 16, 16]", "--model-options", "{depth: 1, embed_dim: 32, num_heads: 2}", "--epochs", "1"]
    given += ["--batch-size", "2", "--progress=false", "--accelerator", "cpu"]
    assert main(given) == 0
    assert "softfree train TABLE --weights" in capsys.readouterr().out
