from __future__ import annotations

import numpy as np
import pytest
import torch

from softfree.data.dataset import SampleDataset
from softfree.data.modalities.image import ImagePreprocessing
from softfree.training.mixup import MixedSamples
from softfree_runtime.sources.inputs import as_image

SIDE = 32


@pytest.fixture(scope="module")
def samples() -> SampleDataset:
    """Seven images of one gray each, brighter with their number, of three classes in turn."""
    images = [as_image(np.full((SIDE, SIDE, 3), 30 * number, np.uint8)) for number in range(7)]
    steps = ImagePreprocessing.create("photo", SIDE, "pad")
    return SampleDataset(images, np.arange(7) % 3, steps, seed=5)


def gray(image: torch.Tensor, samples: SampleDataset) -> torch.Tensor:
    """Which image each pixel is of, as far as its brightness says: (H, W), fractions between."""
    black, white = samples[0]["image"][0, 0, 0], samples[6]["image"][0, 0, 0]
    return (image[0] - black) / (white - black) * 6


def test_images_and_targets_are_mixed_in_the_same_share(samples: SampleDataset) -> None:
    mixed = MixedSamples(samples, 3, [3], mixup=0.8, cutmix=0.0)  # every partner is image 3, of class 0
    for index in range(7):
        one = mixed[0, index]
        own = index % 3
        share = float(one["target"][own]) if own else None
        assert one["target"].sum() == pytest.approx(1)
        values = gray(one["image"], samples)
        if share is None:
            assert one["target"].tolist() == [1, 0, 0]
        else:
            torch.testing.assert_close(
                values, torch.full_like(values, share * index + (1 - share) * 3), atol=1e-4, rtol=0
            )


def test_a_cut_box_has_the_area_that_the_target_says(samples: SampleDataset) -> None:
    mixed = MixedSamples(samples, 3, [3], mixup=0.0, cutmix=1.0)
    boxes = []
    for epoch in range(5):
        one = mixed[epoch, 4]  # class 1
        values = gray(one["image"], samples)
        assert set(values.round().unique().tolist()) <= {3.0, 4.0}
        assert (values > 3.5).float().mean().item() == pytest.approx(float(one["target"][1]), abs=1e-6)
        boxes.append(float(one["target"][1]))
    assert len(set(boxes)) == 5


def test_an_image_is_mixed_alike_in_any_batch_and_process(samples: SampleDataset) -> None:
    mixed = MixedSamples(samples, 3, range(7), mixup=0.5, cutmix=0.5)
    first = [mixed[2, index] for index in range(7)]
    torch.manual_seed(9)
    np.random.seed(9)  # noqa: NPY002
    again = [mixed[2, index] for index in reversed(range(7))][::-1]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["target"], other["target"])
    assert not torch.equal(mixed[3, 0]["image"], first[0]["image"])
