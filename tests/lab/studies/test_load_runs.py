from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from softfree.data.modalities.image import ImagePreprocessing
from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree_lab.studies.load_runs import attention_names, open_runs
from softfree_runtime.core.errors import UserError

IMAGES = {"kind": "image", **ImagePreprocessing.create("radiograph", 32, "pad").to_dict()}


def write(folder: Path, *classes: str, preprocessing: Mapping[str, object] = IMAGES) -> Path:
    """A run directory as far as it is read before its model is made."""
    folder.mkdir()
    task = {"kind": "binary", "classes": list(classes)}
    model = {"name": "seqnorm_vit_nano_patch16", "num_classes": 2}
    config = {"task": task, "preprocessing": dict(preprocessing), "model": model, "options": {}}
    RunDirectory(folder).write_config(config)
    (folder / "model.safetensors").touch()
    return folder


def test_runs_are_opened_in_their_order(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, "well", "ill") for name in "ba"]
    assert [run.folder for run in open_runs(folders)] == folders


def test_runs_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    first, other = write(tmp_path / "first", "well", "ill"), write(tmp_path / "other", "ill", "well")
    with pytest.raises(UserError, match="named twice"):
        open_runs([first, tmp_path / "other" / ".." / "first"])
    with pytest.raises(UserError, match=r"other distinguishes ill, well .*first well, ill .*expected runs of one task"):
        open_runs([first, other])
    bags = write(tmp_path / "bags", "well", "ill", preprocessing={"kind": "bag", "in_features": 8})
    with pytest.raises(UserError, match="this needs a run on images"):
        open_runs([first, bags])


def settings(name: str, **options: object) -> Run:
    return Run(Path("unused"), {"model": {"name": name}, "options": options})


def test_seeds_are_repetitions_and_other_settings_are_told():
    runs = [
        settings("softmax_vit_nano_patch16", seed=0, epochs=5, attention_options={}),
        settings("seqnorm_vit_nano_patch16", seed=0, epochs=3, attention_options={"affine": False}),
        settings("seqnorm_vit_nano_patch16", seed=1, epochs=3, num_workers=2, attention_options={"affine": False}),
        settings("seqnorm_vit_tiny_patch16", seed=0, epochs=3, attention_options={}),
    ]
    assert attention_names(runs[:3]) == ["softmax", "seqnorm", "seqnorm"]
    told = ["seqnorm (model=nano_patch16, affine=False)"] * 2 + ["seqnorm (model=tiny_patch16)"]
    assert attention_names(runs) == ["softmax", *told]
