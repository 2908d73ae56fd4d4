"""Tiles read and encoded."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from softfree.data.modalities.tiles import tile_centers
from softfree.data.slide_readers.slide import open_slide
from softfree.features.encoders import PixelEncoder
from softfree.features.tiles import TileDataset, encode_tiles
from softfree_runtime.core.errors import ReadError, UserError


@pytest.fixture
def tiles(tmp_path: Path, make_slide: Callable[..., None]) -> TileDataset:
    make_slide(tmp_path / "a.tiff")
    centers = tile_centers(open_slide(tmp_path / "a.tiff").size_mm, 32, 8.0)
    return TileDataset(str(tmp_path / "a.tiff"), None, centers, 32, 8.0, PixelEncoder().prepare)


def test_each_tile_is_what_its_center_says(tiles: TileDataset) -> None:
    whole = open_slide(tiles.path).thumbnail(8.0) / 255.0
    got = encode_tiles(tiles, PixelEncoder(), batch_size=5)
    assert got.shape == (24, 54)
    expected = [whole[y : y + 32, x : x + 32].mean((0, 1)) for y in range(0, 128, 32) for x in range(0, 192, 32)]
    np.testing.assert_allclose(got[:, :3], expected, atol=1e-6)


def test_workers_change_nothing(tiles: TileDataset) -> None:
    alone = encode_tiles(tiles, PixelEncoder(), batch_size=7)
    np.testing.assert_array_equal(encode_tiles(tiles, PixelEncoder(), batch_size=7, num_workers=2), alone)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_is_stored_with_16_bits(tiles: TileDataset, precision: str) -> None:
    got = encode_tiles(tiles, PixelEncoder(), precision=precision)
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, encode_tiles(tiles, PixelEncoder()), atol=0.01)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_tile_that_cannot_be_read_keeps_its_reason(tiles: TileDataset, num_workers: int) -> None:
    content = Path(tiles.path).read_bytes()
    Path(tiles.path).write_bytes(content[:12_000] + bytes(len(content) - 12_000))
    with pytest.raises(ReadError) as caught:
        encode_tiles(tiles, PixelEncoder(), num_workers=num_workers)
    assert caught.value.status == "corrupt"


def test_what_an_encoder_must_not_give(tiles: TileDataset) -> None:
    encoder = PixelEncoder()
    encoder.module = torch.nn.Identity()
    with pytest.raises(UserError, match="expected one vector per tile"):
        encode_tiles(tiles, encoder)
    encoder.module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Threshold(2.0, float("nan")))
    with pytest.raises(ReadError, match="NaN or infinite"):
        encode_tiles(tiles, encoder)
