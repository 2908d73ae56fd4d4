"""Reading and encoding the tiles of one slide in batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from softfree.core.precision import products_in
from softfree.data.slide_readers.slide import Slide, open_slide
from softfree.features.encoders import TileEncoder
from softfree_runtime.core.errors import ReadError, UserError


class TileDataset(Dataset):
    """Prepared tiles of a slide, or the error from reading one.

    Args:
        path: The slide.
        slide_mpp: Micrometers per pixel that override the file's own, or None.
        centers: (N, 2), x and y in millimeters.
        side: Side of a tile in pixels.
        mpp: Micrometers per pixel of a tile.
        prepare: Maps uint8 (side, side, 3) to a tensor.
    """

    def __init__(
        self,
        path: str,
        slide_mpp: float | None,
        centers: np.ndarray,
        side: int,
        mpp: float,
        prepare: Callable[[np.ndarray], Tensor],
    ) -> None:
        self.path, self.slide_mpp, self.centers = path, slide_mpp, centers
        self.side, self.mpp, self.prepare = side, mpp, prepare
        self._slide: Slide | None = None

    def __len__(self) -> int:
        return len(self.centers)

    def __getitem__(self, index: int) -> Tensor | ReadError:
        """Return the prepared tile, or the error: raised in a worker process, it would lose its status."""
        try:
            if self._slide is None:  # opened in the worker process
                self._slide = open_slide(self.path, self.slide_mpp)
            left, top = self.centers[index] - self.side * self.mpp / 2000
            return self.prepare(self._slide.read(left, top, self.side, self.side, self.mpp))
        except ReadError as error:
            return error

    def close(self) -> None:
        """Close the slide."""
        if self._slide is not None:
            self._slide.close()
            self._slide = None


def encode_tiles(
    tiles: TileDataset,
    encoder: TileEncoder,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    precision: str = "fp32",
) -> np.ndarray:
    """Encode all tiles in order.

    Args:
        tiles: Tiles of one slide.
        encoder: The encoder, with its module on the device to use.
        batch_size: Tiles per batch.
        num_workers: Processes that read tiles.
        precision: ``fp32``, ``bf16`` or ``fp16``.

    Returns:
        float32 (N, F), or float16 with 16-bit precision.

    Raises:
        ReadError: A tile that cannot be read, or features that are not finite.
    """
    device = next((parameter.device for parameter in encoder.module.parameters()), torch.device("cpu"))
    batches: list[np.ndarray] = []
    loader = DataLoader(tiles, batch_size=batch_size, num_workers=num_workers, collate_fn=_collate)
    try:
        for images in loader:
            if isinstance(images, ReadError):
                raise images
            batches.append(_encode(encoder, images.to(device), precision))
    finally:
        tiles.close()
    features = np.concatenate(batches)
    if not np.isfinite(features).all():
        raise ReadError(
            "the encoder returned NaN or infinite features; use --precision fp32", "not_finite", path=tiles.path
        )
    return features


def _encode(encoder: TileEncoder, images: Tensor, precision: str) -> np.ndarray:
    try:
        with torch.inference_mode(), products_in(precision, images.device):
            features = encoder.module(images)
    except torch.OutOfMemoryError:
        raise UserError(f"{len(images)} tiles do not fit in the device's memory; use a smaller --batch-size") from None
    if features.ndim != 2:
        raise UserError(
            f"--encoder {encoder.name} returns {tuple(features.shape)}, expected one vector per tile; choose another"
        )
    return features.to(torch.float32 if precision == "fp32" else torch.float16).cpu().numpy()


def _collate(items: list[Tensor | ReadError]) -> Tensor | ReadError:
    error = next((item for item in items if isinstance(item, ReadError)), None)
    return torch.stack([item for item in items if isinstance(item, Tensor)]) if error is None else error
