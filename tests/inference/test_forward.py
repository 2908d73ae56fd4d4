import numpy as np
import pytest
import torch
from torch import nn

from softfree.data.dataset import SampleDataset
from softfree.data.modalities.image import ImagePreprocessing
from softfree.inference.forward import infer
from softfree.inference.options import InferenceOptions
from softfree.models import create_model
from softfree_runtime.core.errors import UserError
from softfree_runtime.readers.image import DecodedImage


class Mean(nn.Module):
    """Two numbers of an image, and a record of the batches."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, pixels):
        self.batches.append(tuple(pixels.shape))
        return torch.stack([pixels.mean((1, 2, 3)), pixels.amax((1, 2, 3))], dim=1)


def image(height: int, width: int, value: int) -> DecodedImage:
    return DecodedImage(np.full((height, width, 1), value, np.uint8), 0.0, 255.0, None, (), "8-bit")


def test_images_of_equal_shape_share_batches_and_keep_their_places(tmp_path):
    sources = [image(20, 20, 10), image(30, 20, 20), image(20, 20, 30), str(tmp_path / "gone.png"),
               image(30, 20, 40), image(20, 20, 50)]  # fmt: skip
    preprocessing = ImagePreprocessing.create("photo", 16, "native", 1)
    model = Mean()
    logits = infer(
        model, SampleDataset(sources, None, preprocessing), 2, InferenceOptions(batch_size=2, progress=False)
    )
    expected = [float(preprocessing(s).mean()) if isinstance(s, DecodedImage) else np.nan for s in sources]
    np.testing.assert_allclose(logits.values[:, 0], expected, rtol=1e-6)
    assert logits.failed[3].status == "missing"
    assert sorted(model.batches) == [(1, 1, 20, 20), (2, 1, 20, 20), (2, 1, 30, 20)]


@pytest.mark.parametrize("stream", ["never", "always"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_is_near_float32_whole_and_streamed(stream, precision):
    torch.manual_seed(0)
    model = create_model("seqnorm_vit_nano_patch16", num_classes=3, in_chans=1, pos="sincos")
    rng = np.random.default_rng(0)
    images = [DecodedImage(rng.integers(0, 255, (s, 48, 1), np.uint8), 0.0, 255.0, None, (), "8-bit") for s in (64, 80)]
    dataset = SampleDataset(images, None, ImagePreprocessing.create("photo", 16, "native", 1))
    exact = infer(model, dataset, 3).values
    lower = infer(model, dataset, 3, InferenceOptions(precision=precision, stream=stream, progress=False)).values
    assert 0 < np.abs(lower - exact).max() < 0.03 * np.abs(exact).max()


class Overflowing(nn.Module):
    """Its logits are beyond float16 where an image is bright."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 2, bias=False)
        nn.init.constant_(self.head.weight, 3e4)

    def forward(self, pixels):
        return self.head(4 * pixels.amax((1, 2, 3))[:, None])


def test_a_image_without_finite_logits_is_a_row_with_its_reason():
    steps = ImagePreprocessing.create("photo", 16, "native", 1)
    dataset = SampleDataset([image(20, 20, 130), image(20, 20, 255)], None, steps)
    assert not infer(Overflowing(), dataset, 2).failed
    logits = infer(Overflowing(), dataset, 2, InferenceOptions(precision="fp16", progress=False))
    assert list(logits.failed) == [1]
    assert logits.failed[1].status == "not_finite"
    assert str(logits.failed[1]).endswith("infinite numbers in --precision fp16; use --precision fp32")
    assert np.isnan(logits.values).tolist() == [[False] * 2, [True] * 2]


def test_further_views_are_averaged_and_do_not_depend_on_the_order():
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (side, side, 1), np.uint8) for side in (24, 24, 31)]
    sources = [DecodedImage(values, 0.0, 255.0, None, (), "8-bit") for values in pixels]
    preprocessing = ImagePreprocessing.create("radiograph", 16, "native", 1)
    options = InferenceOptions(batch_size=2, progress=False, tta=3)
    logits = infer(Mean(), SampleDataset(sources, None, preprocessing), 2, options)
    augmentation = preprocessing.augmentation()
    for source, row in zip(sources, logits.values, strict=True):
        whole = torch.from_numpy(preprocessing.load(source))
        views = [whole, augmentation(whole, 1), augmentation(whole, 2)]
        assert not torch.equal(views[1], views[2])
        expected = np.mean([Mean()(view[None])[0].numpy() for view in views], axis=0)
        np.testing.assert_allclose(row, expected, rtol=1e-5)
    backwards = infer(Mean(), SampleDataset(sources[::-1], None, preprocessing), 2, options)
    np.testing.assert_allclose(backwards.values[::-1], logits.values, rtol=1e-6)
    with pytest.raises(UserError, match="--tta 0: expected 1 or more"):
        infer(Mean(), SampleDataset(sources, None, preprocessing), 2, InferenceOptions(tta=0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"batch_size": 0}, "--batch-size 0: expected 1 or more"), ({"num_workers": -1}, "--num-workers -1: expected 0")],
    ids=str,
)
def test_numbers_that_no_inference_can_have(changes, message):
    dataset = SampleDataset([image(16, 16, 1)], None, ImagePreprocessing.create("photo", 16, "native", 1))
    with pytest.raises(UserError, match=message):
        infer(Mean(), dataset, 2, InferenceOptions(progress=False, **changes))
