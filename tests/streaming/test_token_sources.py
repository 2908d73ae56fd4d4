"""Images by bands: the same tokens as from the whole, and no more of it read than a chunk needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from softfree.models import VisionTransformer
from softfree.models.pos_embed import resize_positions
from softfree.streaming import ArrayRows, ImageTokens, Streaming, stream_forward
from softfree_runtime.core.errors import UserError

Make = Callable[..., VisionTransformer]


def whole(model: VisionTransformer, x: Tensor, mask: Tensor | None = None) -> Tensor:
    tokens, grid = model.patch_embed(x, mask)
    if model.cls_token is not None:
        tokens = torch.cat([model.cls_token, tokens], 1)
    if model.pos_embed is not None:
        tokens = tokens + resize_positions(model.pos_embed, model.grid_size, grid, model.num_prefix_tokens)
    return tokens


@pytest.mark.parametrize("chunk", [1, 12, 21, 1000])
@pytest.mark.parametrize("shape", [(3, 24, 24), (3, 41, 26), (1, 7, 9), (3, 3, 50)])
@pytest.mark.parametrize(
    "options",
    [{}, {"pool": "token", "pos": "sincos"}, {"stem": "conv"}, {"patch_size": 8, "stem": "conv"}, {"stem": "pool"}],
)
def test_bands_give_the_tokens_of_the_whole(
    options: dict[str, Any], shape: tuple[int, ...], chunk: int, make_model: Make
) -> None:
    model, x = make_model(**options), torch.randn(shape)
    source = ImageTokens(model, x, chunk)
    parts = [source.tokens(at) for at in range(len(source.sizes))]
    assert [part.shape[1] for part in parts] == list(source.sizes)
    torch.testing.assert_close(torch.cat(parts, 1), whole(model, x[None]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stem", ["patch", "conv", "pool"])
def test_masked_bands_are_not_read(stem: str, make_model: Make) -> None:
    model, x = make_model(stem=stem, class_token=True), torch.randn(1, 3, 40, 24)
    mask = torch.rand(60) < 0.4
    mask[:24] = False
    mask[36:48] = False
    mask[[24, 33, 50, 55]] = True  # one in each row of the others
    reading = Counting(x)
    source = ImageTokens(model, reading, 6, mask)
    parts = torch.cat([source.tokens(at) for at in range(len(source.sizes))], 1)
    want = whole(model, x, mask[None])
    torch.testing.assert_close(parts, want[:, torch.cat([torch.ones(1, dtype=torch.bool), mask])], rtol=1e-5, atol=1e-5)
    above, below = (4 * rows for rows in model.patch_embed.halo)
    bands = [(16, 20), (20, 24), (32, 36), (36, 40)]
    assert reading.asked == [(top - above, min(40, bottom + below)) for top, bottom in bands]


class Counting(ArrayRows):
    """Writes down which rows were read."""

    def __init__(self, array: Tensor) -> None:
        super().__init__(array)
        self.asked: list[tuple[int, int]] = []

    def read(self, top: int, bottom: int) -> Tensor:
        self.asked.append((top, bottom))
        return super().read(top, bottom)


def test_memory_mapped_bytes(make_model: Make, tmp_path: Path) -> None:
    """Pixels as most files hold them: (H, W, channels) in bytes, on disk, only for reading."""
    model, pixels = make_model(), np.random.default_rng(0).integers(0, 256, (50, 33, 3), np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    rows = ArrayRows(mapped, channels_last=True, prepare=lambda part: part.float() / 255)
    assert rows.shape == (3, 50, 33)
    want = model(torch.as_tensor(pixels).permute(2, 0, 1)[None].float() / 255)
    torch.testing.assert_close(stream_forward(model, rows, Streaming(chunk=20)), want, rtol=1e-5, atol=1e-5)


def test_plain_arrays_and_tensors_of_any_type(make_model: Make) -> None:
    model, x = make_model(), torch.randn(3, 24, 24)
    want = model(x[None])
    for image in (x, x[None], x.numpy(force=True), x.double().numpy(force=True)):
        torch.testing.assert_close(stream_forward(model, image), want, rtol=1e-5, atol=1e-5)


def test_slide_by_bands(make_model: Make, shared_data: Path) -> None:
    """A real slide at a coarse resolution, against the same pixels read at once."""
    from softfree.data.modalities.slide_rows import SlideRows
    from softfree.data.slide_readers.slide import open_slide

    files = sorted((shared_data / "wsi").glob("*.svs"))
    if not files:
        pytest.skip("no slide among the sample data")
    with open_slide(files[0]) as slide:
        mpp = 1000 * max(slide.size_mm) / 96
        rows = SlideRows(slide, mpp, lambda part: part.float() / 255)
        model = make_model(patch_size=8)
        pixels = torch.as_tensor(slide.read(0, 0, rows.shape[2], rows.shape[1], mpp)).permute(2, 0, 1)[None]
        want = model(pixels.float() / 255)
        torch.testing.assert_close(stream_forward(model, rows, Streaming(chunk=24)), want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (8, 8), (3, 0, 8)])
def test_wrong_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="expected one"):
        ArrayRows(torch.zeros(shape))


def test_bytes_without_preparation() -> None:
    with pytest.raises(UserError, match=r"uint8.*prepare="):
        ArrayRows(torch.zeros(3, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("mask", [torch.ones(35, dtype=torch.bool), torch.ones(36)])
def test_wrong_masks(mask: Tensor, make_model: Make) -> None:
    with pytest.raises(UserError, match="36 booleans"):
        ImageTokens(make_model(), torch.randn(3, 24, 24), 10, mask)
