"""The preparation that a file describes."""

import sys

import pytest

from softfree.data.modalities.bag import BagPreprocessing
from softfree_runtime.core.errors import UserError
from softfree_runtime.preprocessing.image import Preparation
from softfree_runtime.preprocessing.modalities import restore

IMAGE = {"size": 32, "fit": "pad", "channels": 1, "mean": None, "deviation": None}


def test_files_of_earlier_versions_are_of_images() -> None:
    assert restore(IMAGE) == restore({"kind": "image"} | IMAGE) == Preparation(32, "pad", 1, None, None)


def test_slides_and_bags_have_one_preparation() -> None:
    assert restore({"kind": "bag", "in_features": 8}) == BagPreprocessing(8)
    with pytest.raises(TypeError):
        restore({"kind": "slide", "microns": 2})


def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "softfree_runtime.preprocessing.volume", None)
    with pytest.raises(UserError, match=r"kind volume need .* pip install nibabel scipy"):
        restore({"kind": "volume"})
