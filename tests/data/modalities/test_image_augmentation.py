import random
from pathlib import Path

import numpy as np
import pytest
import torch

from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.modalities.image_augmentation import PolicyAugmentation, whole
from softfree_runtime.core.errors import UserError

STEPS = ImagePreprocessing.create("photo", 48, "crop")
POLICY = "rand-m9-mstd0.5-inc1"


@pytest.fixture
def image(shared_data: Path) -> torch.Tensor:
    file = sorted((shared_data / "blood_cells" / "images").rglob("*.jpg"))[0]
    return torch.from_numpy(whole(STEPS).load(str(file)))


def test_a_whole_image_becomes_one_of_the_size(image):
    assert image.shape[-1] > 300  # as in its file
    changed = PolicyAugmentation(STEPS, POLICY, 0.25)(image, 3)
    assert changed.shape == (3, 48, 48)
    assert changed.dtype == torch.float32
    assert abs(changed.mean()) < 3


def test_equal_seeds_give_equal_images_and_others_differ(image):
    first, second = PolicyAugmentation(STEPS, POLICY, 0.5), PolicyAugmentation(STEPS, POLICY, 0.5)
    torch.testing.assert_close(first(image, 7), second(image, 7), rtol=0, atol=0)
    assert not torch.equal(first(image, 7), first(image, 8))


def test_the_generators_of_others_are_left_alone(image):
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)

    seed()
    wanted = draw()
    seed()
    PolicyAugmentation(STEPS, POLICY, 1.0)(image, 5)
    assert draw() == wanted


def test_without_changes_the_image_is_cropped_and_standardized(image):
    """A policy of no strength keeps the colors: what was standardized comes back."""
    changed = PolicyAugmentation(STEPS, "rand-m1-n1-p0.0", 0.0)
    means = torch.stack([changed(image, seed).mean((1, 2)) for seed in range(40)]).mean(0)
    torch.testing.assert_close(means, image.mean((1, 2)), atol=0.35, rtol=0)


@pytest.mark.parametrize(
    ("preprocessing", "policy", "message"),
    [
        (STEPS, "nonsense", "timm has no such policy"),
        (ImagePreprocessing.create("radiograph", 48, "crop"), POLICY, "for color"),
    ],
)
def test_what_cannot_work_is_one_line(preprocessing, policy, message):
    with pytest.raises(UserError, match=message):
        PolicyAugmentation(preprocessing, policy, 0.25)
