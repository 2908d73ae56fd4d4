from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from softfree.core.options import TrainOptions
from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.modalities.registry import MODALITIES, modality_of
from softfree.data.modalities.slide import SlidePreprocessing
from softfree.training.modality import refuse_batches, refuse_foreign_options, training_preprocessing
from softfree_runtime.core.errors import UserError


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "image"),
        ({"mpp": 8.0}, "slide"),
        ({"model": "seqnorm_vit3d_nano"}, "volume"),
        ({"model": "monai_3d_resnet18"}, "volume"),
        ({"model": "seqnorm_bag_nano", "mpp": 0.5}, "bag"),
    ],
)
def test_model_and_resolution_tell_the_kind(options_for, changes: dict[str, Any], kind: str) -> None:
    assert modality_of(options_for(**changes)).name == kind


def test_a_policy_takes_the_whole_image_and_nothing_else(options_for) -> None:
    padded = ImagePreprocessing.create("photo", 32, "pad")
    assert training_preprocessing(options_for(augment=False, auto_augment="rand-m9"), padded) == (padded, None)
    preprocessing, changes = training_preprocessing(options_for(), padded)
    assert preprocessing == padded
    assert changes is not None
    assert changes.in_words() == padded.augmentation().in_words()
    preprocessing, changes = training_preprocessing(options_for(auto_augment="rand-m9"), padded)
    assert isinstance(preprocessing, ImagePreprocessing)
    assert preprocessing.resize_mode == "native"
    assert changes is not None
    assert "rand-m9" in changes.in_words()
    with pytest.raises(UserError, match="--auto-augment is for images, not for samples of kind slide"):
        training_preprocessing(options_for(auto_augment="rand-m9"), SlidePreprocessing.create(8.0))


@pytest.mark.parametrize(
    ("changes", "named"), [({"resize_mode": "native"}, "--resize-mode native"), ({"mpp": 8.0}, "--mpp")]
)
def test_samples_of_unlike_shapes_come_one_by_one(options_for, changes: dict[str, Any], named: str) -> None:
    refuse_batches(options_for(**changes, batch_size=1))
    with pytest.raises(UserError, match=f"{named} gives images of different shapes"):
        refuse_batches(options_for(**changes, batch_size=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [8, 8, 8]}, "--shape is for volumes, and the samples of this run are images (--model "),
        ({"spacing": [1.0, 1.0, 1.0]}, "--spacing is for volumes"),
        ({"window": [0.0, 1.0]}, "--window is for volumes"),
        ({"series": Path("rules.yaml")}, "--series is for volumes"),
        ({"tissue": False}, "_vit_nano_patch8 without --mpp); leave it out or choose another model"),
        ({"mpp": 8.0, "modality": "ct"}, "are slides (--model seqnorm_vit_nano_patch8 with --mpp 8)"),
        ({"mpp": 8.0, "size": 64}, "--size is for images"),
        ({"model": "seqnorm_vit3d_nano", "mpp": 8.0}, "--mpp is for slides, and the samples of this run are volumes"),
        ({"model": "seqnorm_vit3d_nano", "resize_mode": "crop"}, "--resize-mode is for images"),
        ({"model": "seqnorm_bag_nano", "preset": "photo"}, "--preset is for images"),
    ],
    ids=str,
)
def test_options_of_another_kind_are_refused(changes: dict[str, Any], message: str) -> None:
    base = {"table": Path("t.csv"), "model": "seqnorm_vit_nano_patch8"}
    with pytest.raises(UserError) as raised:
        refuse_foreign_options(TrainOptions(**(base | changes)))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "photo", "size": 64, "resize_mode": "crop", "channels": 1},
        {"mpp": 8.0, "tissue": False, "size": 512},
        {
            "model": "seqnorm_vit3d_nano",
            "modality": "ct",
            "shape": [8, 8, 8],
            "spacing": [1.0] * 3,
            "window": [0.0, 1.0],
        },
        {"model": "seqnorm_bag_nano"},
    ],
    ids=str,
)
def test_options_of_the_own_kind_and_defaults_are_not(changes: dict[str, Any]) -> None:
    refuse_foreign_options(TrainOptions(**({"table": Path("t.csv"), "model": "seqnorm_vit_nano_patch8"} | changes)))


def test_the_options_of_all_kinds_exist() -> None:
    names = {field.name for field in fields(TrainOptions)}
    assert {name for modality in MODALITIES.values() for name in modality.options} <= names
