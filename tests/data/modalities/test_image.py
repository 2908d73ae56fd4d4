from dataclasses import replace

import numpy as np
import pytest
import torch

from softfree.data.modalities.image import ImageAugmentation, ImagePreprocessing
from softfree_runtime.core.errors import UserError
from softfree_runtime.readers.image import DecodedImage


def image(height: int, width: int, channels: int = 1, seed: int = 0) -> DecodedImage:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return DecodedImage(pixels, 0.0, 255.0, None, (), "8-bit")


@pytest.mark.parametrize("preset", ["radiograph", "photo", "microscopy"])
@pytest.mark.parametrize("resize_mode", ["pad", "stretch", "crop"])
@pytest.mark.parametrize("shape", [(40, 93, 1), (93, 40, 3), (17, 17, 1), (200, 201, 3)])
def test_every_image_gets_the_asked_shape(preset, resize_mode, shape):
    preprocessing = ImagePreprocessing.create(preset, 64, resize_mode)
    prepared = preprocessing(image(*shape))
    assert prepared.shape == (preprocessing.channels, 64, 64)
    assert prepared.dtype == np.float32
    assert np.isfinite(prepared).all()


def test_native_keeps_the_size_and_the_values():
    given = image(40, 93, 3)
    prepared = ImagePreprocessing.create("photo", 64, "native")(given)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((given.pixels / 255.0 - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(prepared, expected, atol=1e-5)


def test_radiographs_have_mean_0_and_standard_deviation_1_whatever_the_exposure():
    given = image(64, 64)
    dark = DecodedImage(given.pixels // 3, 0.0, 255.0, None, (), "8-bit")
    preprocessing = ImagePreprocessing.create("radiograph", 64, "stretch")
    prepared = preprocessing(given)
    assert abs(prepared.mean()) < 1e-5
    assert abs(prepared.std() - 1) < 1e-4
    np.testing.assert_allclose(preprocessing(dark), prepared, atol=0.05)


def test_a_blank_film_stays_finite():
    blank = DecodedImage(np.full((32, 32, 1), 7, np.uint8), 0.0, 255.0, None, (), "8-bit")
    assert np.abs(ImagePreprocessing.create("radiograph", 32, "pad")(blank)).max() < 1e-2


def test_padding_is_centered_and_loses_nothing():
    white = DecodedImage(np.full((32, 64, 1), 255, np.uint8), 0.0, 255.0, None, (), "8-bit")
    prepared = ImagePreprocessing.create("photo", 64, "pad", 1)(white)[0]
    assert (prepared[16:48] > 1).all()
    assert (prepared[:16] == 0).all()
    assert (prepared[48:] == 0).all()


def test_crop_keeps_the_center():
    pixels = np.zeros((64, 128, 1), np.uint8)
    pixels[:, 32:96] = 255
    prepared = ImagePreprocessing.create("photo", 64, "crop", 1)(DecodedImage(pixels, 0.0, 255.0, None, (), "8-bit"))
    assert (prepared > 1).all()


def test_reducing_averages_rather_than_skips():
    pixels = np.zeros((64, 64, 1), np.uint8)
    pixels[::2, ::2] = 255  # every fourth pixel
    prepared = ImagePreprocessing.create("photo", 16, "stretch", 1)(DecodedImage(pixels, 0.0, 255.0, None, (), "8-bit"))
    unit = prepared * 0.2260 + 0.4490
    assert abs(unit[0, 4:-4, 4:-4].mean() - 0.25) < 0.01
    assert unit[0, 4:-4, 4:-4].std() < 0.02


@pytest.mark.parametrize("long", [(90, 1), (90, 2), (20, 2), (45, 8), (90, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_rows_are_resized_as_columns(long, channels):
    preprocessing = ImagePreprocessing.create("photo", 16, "pad", channels)
    upright = image(*long, channels)
    lying = replace(upright, pixels=np.ascontiguousarray(upright.pixels.swapaxes(0, 1)))
    np.testing.assert_allclose(preprocessing(upright), preprocessing(lying).swapaxes(1, 2), atol=1e-5)


def test_gray_from_color_is_luma_and_color_from_gray_is_copied():
    red = DecodedImage(np.dstack([np.full((16, 16), 255), np.zeros((16, 16)), np.zeros((16, 16))]).astype(np.uint8),
                  0.0, 255.0, None, (), "8-bit RGB")  # fmt: skip
    gray = ImagePreprocessing.create("photo", 16, "native", 1)(red)
    np.testing.assert_allclose(gray * 0.2260 + 0.4490, 0.299, atol=1e-3)
    color = ImagePreprocessing.create("radiograph", 16, "native", 3)(image(16, 16))
    np.testing.assert_array_equal(color[0], color[2])


@pytest.mark.parametrize("preset", ["radiograph", "photo", "microscopy"])
def test_augmentation_is_a_function_of_image_and_seed(preset):
    preprocessing = ImagePreprocessing.create(preset, 48, "pad")
    prepared = torch.from_numpy(preprocessing(image(50, 40, 3)))
    before = torch.get_rng_state()
    first = ImageAugmentation(preprocessing)(prepared, 3)
    torch.rand(5)
    other = ImageAugmentation(preprocessing)
    other(prepared, 8)
    assert torch.equal(other(prepared, 3), first)
    assert not torch.equal(other(prepared, 4), first)
    assert first.shape == prepared.shape
    assert type(first) is torch.Tensor
    torch.set_rng_state(before)
    ImageAugmentation(preprocessing)(prepared, 3)
    assert torch.equal(torch.get_rng_state(), before), "the global random state has moved"


def test_augmentation_of_native_sizes():
    preprocessing = ImagePreprocessing.create("microscopy", 64, "native")
    assert ImageAugmentation(preprocessing)(torch.rand(3, 40, 40), 0).shape == (3, 40, 40)


def disc(aspect: float) -> DecodedImage:
    """A disc 36 units across in a square of 60, of pixels whose finer side is 1 unit."""
    height, width = max(aspect, 1.0), max(1 / aspect, 1.0)
    y, x = np.mgrid[: round(60 / height), : round(60 / width)] + 0.5
    inside = (y * height - 30) ** 2 + (x * width - 30) ** 2 < 18**2
    return DecodedImage(
        np.where(inside, 255, 0).astype(np.uint8)[..., None], 0.0, 255.0, None, (), "8-bit", aspect=aspect
    )


@pytest.mark.parametrize("resize_mode", ["pad", "crop", "native", "stretch"])
@pytest.mark.parametrize("aspect", [2.0, 0.4, 1.0])
def test_a_disc_is_round_whatever_the_sides_of_a_pixel(resize_mode, aspect):
    prepared = ImagePreprocessing.create("photo", 48, resize_mode, 1)(disc(aspect))[0]
    assert prepared.shape == ((60, 60) if resize_mode == "native" else (48, 48))
    bright = prepared > prepared.max() / 2 + prepared.min() / 2
    across = 0.6 * len(prepared)
    assert bright.any(0).sum() == pytest.approx(across, abs=2)
    assert bright.any(1).sum() == pytest.approx(across, abs=2)


def test_a_size_too_small_is_refused():
    with pytest.raises(UserError, match="at least 16"):
        ImagePreprocessing.create("photo", 8, "pad")


def test_words_name_what_is_done():
    assert "padded" in " ".join(ImagePreprocessing.create("radiograph", 512, "pad").in_words())
