"""The pixel road: a slide as one tensor."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from softfree.data.modalities.registry import preprocessing_from_config, preprocessing_to_config
from softfree.data.modalities.slide import SlidePreprocessing
from softfree.data.modalities.tissue import find_tissue
from softfree.data.slide_readers.slide import open_slide
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.sources.sample_source import SourceFile

NAMES = ["CMU-1-Small-Region.svs", "CMU-1-Small-Region_pyramid.tiff", "cptac-brca_15BR001_level.dcm"]


@pytest.fixture
def svs(shared_data: Path) -> str:
    return str(shared_data / "wsi" / NAMES[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mpp", [32, 64])
def test_real_slides_become_tensors(shared_data: Path, name: str, mpp: float) -> None:
    path = shared_data / "wsi" / name
    got = SlidePreprocessing.create(mpp, tissue=False).load(str(path))
    pixels = open_slide(path).thumbnail(mpp)
    assert got.dtype == np.float32
    expected = (pixels / 255.0 - IMAGENET_DEFAULT_MEAN) / IMAGENET_DEFAULT_STD
    np.testing.assert_allclose(got, expected.transpose(2, 0, 1), atol=1e-5)


def test_the_box_of_the_tissue(svs: str) -> None:
    slide = open_slide(svs)
    left, top, right, bottom = find_tissue(slide).box_mm()
    got = SlidePreprocessing.create(4).load(svs)
    assert got.shape == (3, int(np.ceil((bottom - top) * 250)), int(np.ceil((right - left) * 250)))
    whole = SlidePreprocessing.create(4, tissue=False).load(svs)
    assert got.size < whole.size


def test_the_row_s_resolution_wins(svs: str) -> None:
    preprocessing = SlidePreprocessing.create(8, tissue=False)
    halves = preprocessing.load(SourceFile(svs, 0.2495)).shape
    assert [2 * side - whole for side, whole in zip(halves[1:], preprocessing.load(svs).shape[1:], strict=True)] in (
        [0, 0],
        [0, 1],
        [1, 0],
        [1, 1],
    )


def test_a_file_name_gives_no_resolution(svs: str, tmp_path: Path) -> None:
    path = tmp_path / "a;b.svs#mpp=0.2495"
    path.symlink_to(svs)
    preprocessing = SlidePreprocessing.create(16, tissue=False)
    np.testing.assert_array_equal(preprocessing.load(str(path)), preprocessing.load(svs))


def test_a_slide_that_does_not_fit_says_what_would(svs: str) -> None:
    with pytest.raises(ReadError, match="more than 100 along a side; --mpp") as caught:
        SlidePreprocessing(1.0, tissue=False, max_side=100).load(svs)
    assert caught.value.status == "too_large"
    fits = float(re.findall(r"--mpp (\S+)", str(caught.value))[0])
    assert 90 < max(SlidePreprocessing(fits, tissue=False, max_side=100).load(svs).shape) <= 100


def test_detail_that_the_slide_does_not_have(svs: str) -> None:
    with pytest.raises(ReadError, match="finest level"):
        SlidePreprocessing.create(0.25).load(svs)


@pytest.mark.parametrize("mpp", [0, -1, float("nan"), float("inf")])
def test_no_resolution(mpp: float) -> None:
    with pytest.raises(UserError, match="--mpp"):
        SlidePreprocessing.create(mpp)


def test_the_contract() -> None:
    preprocessing = SlidePreprocessing.create(4, tissue=False)
    assert preprocessing_from_config(preprocessing_to_config(preprocessing)) == preprocessing
    assert preprocessing.model_arguments() == {"img_size": 1024, "in_chans": 3}
    assert preprocessing.sample_bytes() is None
    assert "whole slide at 4 micrometers" in preprocessing.in_words()[0]


def test_augmentation_turns_and_colors_and_depends_on_its_seed_alone(svs: str) -> None:
    preprocessing = SlidePreprocessing.create(16)
    pixels = torch.from_numpy(preprocessing.load(svs))
    change = preprocessing.augmentation()
    torch.testing.assert_close(change(pixels, 5), change(pixels, 5), rtol=0, atol=0)
    shapes = {tuple(change(pixels, seed).shape) for seed in range(12)}
    assert shapes == {tuple(pixels.shape), (3, pixels.shape[2], pixels.shape[1])}
    assert len({float(change(pixels, seed).sum()) for seed in range(6)}) == 6
    assert change.in_words() == "flips, quarter turns, color"
