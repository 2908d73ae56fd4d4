import numpy as np
import torch
from torch import nn

from softfree.data.dataset import SampleDataset
from softfree.data.readers.picture import Picture
from softfree.data.transforms import Preprocessing
from softfree.inference import infer


class Mean(nn.Module):
    """Two numbers of a picture, and a record of the batches."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, pixels):
        self.batches.append(tuple(pixels.shape))
        return torch.stack([pixels.mean((1, 2, 3)), pixels.amax((1, 2, 3))], dim=1)


def picture(height: int, width: int, value: int) -> Picture:
    return Picture(np.full((height, width, 1), value, np.uint8), 0.0, 255.0, None, (), "8-bit")


def test_pictures_of_equal_shape_share_batches_and_keep_their_places(tmp_path):
    sources = [picture(20, 20, 10), picture(30, 20, 20), picture(20, 20, 30), str(tmp_path / "gone.png"),
               picture(30, 20, 40), picture(20, 20, 50)]  # fmt: skip
    preprocessing = Preprocessing.create("photo", 16, "native", 1)
    model = Mean()
    logits = infer(model, SampleDataset(sources, None, preprocessing), 2, batch=2)
    expected = [float(preprocessing(s).mean()) if isinstance(s, Picture) else np.nan for s in sources]
    np.testing.assert_allclose(logits.values[:, 0], expected, rtol=1e-6)
    assert logits.failed[3].status == "missing"
    assert sorted(model.batches) == [(1, 1, 20, 20), (2, 1, 20, 20), (2, 1, 30, 20)]
