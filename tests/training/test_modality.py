from __future__ import annotations

from typing import Any

import pytest

from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.modalities.slide import SlidePreprocessing
from softfree.training.modality import modality_of, refuse_batches, training_preprocessing
from softfree_runtime.core.errors import UserError


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "image"),
        ({"mpp": 8.0}, "slide"),
        ({"model": "seqnorm_vit3d_nano"}, "volume"),
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
