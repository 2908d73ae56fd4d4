import numpy as np
import pytest
import torch

from softfree.data.modalities.image import ImagePreprocessing
from softfree.training.progressive_size import SizeSchedule, check_start_size
from softfree_runtime.core.errors import UserError
from softfree_runtime.readers.image import DecodedImage


def test_the_first_half_of_the_epochs_is_shared_by_the_smaller_sides(options_for):
    schedule = SizeSchedule.of(options_for(size=128, start_size=32, epochs=8))
    assert [schedule.side(epoch) for epoch in range(8)] == [32, 32, 64, 64, 128, 128, 128, 128]
    assert [schedule.work(epoch) for epoch in (0, 2, 7)] == [1 / 16, 1 / 4, 1]
    assert schedule.in_words() == "32 pixels from epoch 1 on, 64 pixels from epoch 3 on, 128 pixels from epoch 5 on"


@pytest.mark.parametrize(
    ("size", "start", "epochs", "sides"),
    [
        (100, 48, 4, [48, 96, 100, 100]),
        (64, 32, 1, [64]),
        (64, 16, 3, [16, 64, 64]),  # an epoch is the least
        (64, None, 2, [64, 64]),
    ],
)
def test_sides_of_odd_sizes_and_few_epochs(options_for, size, start, epochs, sides):
    schedule = SizeSchedule.of(options_for(size=size, start_size=start, epochs=epochs))
    assert [schedule.side(epoch) for epoch in range(epochs)] == sides


@pytest.mark.parametrize("preset", ["radiograph", "photo"])
@pytest.mark.parametrize("resize_mode", ["stretch", "pad"])
def test_a_reduced_image_is_what_preparation_at_that_side_gives(options_for, preset, resize_mode):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (64, 48 if resize_mode == "pad" else 64, 3), dtype=np.uint8)
    image = DecodedImage(pixels, 0, 255, None, (), "8-bit RGB")
    full, small = (
        torch.from_numpy(ImagePreprocessing.create(preset, side, resize_mode)(image))[None] for side in (64, 32)
    )
    schedule = SizeSchedule.of(options_for(size=64, start_size=32, epochs=2, preset=preset))
    inner = slice(6, 26)  # at the border of padding, pixels of both are averaged
    found, expected = (some[..., inner] for some in (schedule(full, 0), small))
    torch.testing.assert_close(found, expected, atol=0.05 if preset == "radiograph" else 1e-5, rtol=1e-4)
    assert schedule(full, 1) is full


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_size": 32}, "less than --size 32"),
        ({"start_size": 8}, "at least 16 pixels"),
        ({"start_size": 16, "resize_mode": "native", "batch_size": 1}, "images of one size"),
    ],
)
def test_a_start_size_that_cannot_work_is_refused(options_for, changes, message):
    with pytest.raises(UserError, match=message):
        check_start_size(options_for(**changes), "image")
