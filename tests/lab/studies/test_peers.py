from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from softfree import load
from softfree.core.options import TrainOptions
from softfree.models import create_model
from softfree.models.registry import CLASSIFIERS, register_classifier
from softfree.training.loop import train
from softfree_lab.studies.peers import MonaiClassifier, TimmClassifier
from softfree_runtime.core.errors import UserError


@pytest.fixture
def small_model() -> Iterator[str]:
    """The name of a ResNet of half a million parameters."""
    register_classifier("timm_test_resnet", TimmClassifier, architecture="test_resnet")
    yield "timm_test_resnet"
    del CLASSIFIERS["timm_test_resnet"]


def test_a_model_of_timm_is_trained_and_predicts_like_any_other(
    small_table: Path, quick: dict[str, Any], tmp_path: Path, small_model: str
) -> None:
    options = quick | {"model": small_model, "model_options": {}, "drop_path": 0.0}
    run = train(TrainOptions(table=small_table, out=tmp_path / "run", **options)).run
    assert isinstance(run.model, TimmClassifier)
    rows = load(run.folder).predict([small_table.parent / "00.png"])
    assert 0 <= rows["p_high"].iloc[0] <= 1


def test_a_3d_network_of_monai_takes_volumes(shared_data: Path, quick: dict[str, Any], tmp_path: Path) -> None:
    rows = pd.read_csv(shared_data / "nifti" / "manifest.csv").dropna(subset="label").groupby("label").head(3)
    rows["split"] = ["train", "val", "test"] * 2
    rows[["path", "label", "patient_id", "split"]].to_csv(tmp_path / "table.csv", index=False)
    options = quick | {"model": "monai_3d_resnet10", "model_options": {}, "drop_path": 0.0, "shape": [24, 32, 24]}
    options |= {"table": tmp_path / "table.csv", "image_root": shared_data / "nifti", "out": tmp_path / "run"}
    del options["size"]
    run = train(TrainOptions(**options)).run
    assert isinstance(run.model, MonaiClassifier)
    assert run.config["preprocessing"]["kind"] == "volume"
    assert 0 <= load(run.folder).predict([shared_data / "nifti" / rows["path"].iloc[0]])["p_small"].iloc[0] <= 1


def test_what_monai_networks_lack_is_refused() -> None:
    with pytest.raises(UserError, match=r"drop_path_rate=0\.1 for MONAI's resnet18: expected 0"):
        create_model("monai_3d_resnet18", drop_path_rate=0.1)
    with pytest.raises(UserError, match="cannot recompute activations"):
        create_model("monai_3d_resnet10", num_classes=2).set_grad_checkpointing()


def test_options_that_it_does_not_have_are_refused(small_table: Path, quick: dict[str, Any], tmp_path: Path) -> None:
    options = quick | {"model": "timm_resnet18", "model_options": {}, "stem": "conv"}
    with pytest.raises(UserError, match="--stem conv with --model timm_resnet18: it has no such option"):
        train(TrainOptions(table=small_table, out=tmp_path / "run", **options))


def test_it_is_the_model_of_timm() -> None:
    model = create_model("timm_resnet18", in_chans=1, num_classes=3)
    assert model(torch.zeros(2, 1, 40, 64)).shape == (2, 3)
    assert sum(p.numel() for p in model.parameters()) == 11_171_779, "resnet18 with one channel and three classes"


@pytest.mark.parametrize("name", ["seqnorm_vit_nano_patch16", "timm_resnet18", "resnet18"])
def test_a_name_is_given_once(name: str) -> None:
    with pytest.raises(UserError, match="expected one that no model has, including timm's"):
        register_classifier(name, TimmClassifier)
