"""The preprocessing that a file describes."""

import sys

import pytest

from softfree.data.modalities.bag import BagPreprocessing
from softfree_runtime.core.errors import UserError
from softfree_runtime.preprocessing.image import NumpyImagePreprocessing
from softfree_runtime.preprocessing.modalities import preprocessing_from_config

IMAGE = {"size": 32, "resize_mode": "pad", "channels": 1, "mean": None, "std": None}


def test_files_of_earlier_versions_are_of_images() -> None:
    assert (
        preprocessing_from_config(IMAGE)
        == preprocessing_from_config({"kind": "image"} | IMAGE)
        == NumpyImagePreprocessing(32, "pad", 1, None, None)
    )


def test_slides_and_bags_have_one_preprocessing() -> None:
    assert preprocessing_from_config({"kind": "bag", "in_features": 8}) == BagPreprocessing(8)
    with pytest.raises(TypeError):
        preprocessing_from_config({"kind": "slide", "microns": 2})


def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "softfree_runtime.preprocessing.volume", None)
    with pytest.raises(UserError, match=r"kind volume need .* pip install nibabel scipy"):
        preprocessing_from_config({"kind": "volume"})
