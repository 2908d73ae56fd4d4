"""The tiles of one slide, read beside the encoder and encoded in batches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from softfree.core.precision import products_in
from softfree.data.slide_readers.slide import Slide, open_slide
from softfree.features.encoders import Encoder
from softfree_runtime.core.errors import ReadError, UserError


class TileDataset(Dataset):
    """Prepared tiles of a slide, or the error that reading one gave.

    Args:
        path: The slide.
        given: Micrometers per pixel that hold instead of the file's own, or None.
        centers: (N, 2), x and y in millimeters.
        side: Of a tile in pixels.
        mpp: Micrometers per pixel of a tile.
        prepare: From uint8 (side, side, 3) to a tensor.
    """

    def __init__(
        self,
        path: str,
        given: float | None,
        centers: np.ndarray,
        side: int,
        mpp: float,
        prepare: Callable[[np.ndarray], Tensor],
    ) -> None:
        self.path, self.given, self.centers = path, given, centers
        self.side, self.mpp, self.prepare = side, mpp, prepare
        self._slide: Slide | None = None

    def __len__(self) -> int:
        return len(self.centers)

    def __getitem__(self, index: int) -> Tensor | ReadError:
        """Return the prepared tile, or why there is none: an error raised in a worker would lose its status."""
        try:
            if self._slide is None:  # opened by the process that reads
                self._slide = open_slide(self.path, self.given)
            left, top = self.centers[index] - self.side * self.mpp / 2000
            return self.prepare(self._slide.read(left, top, self.side, self.side, self.mpp))
        except ReadError as error:
            return error

    def close(self) -> None:
        """Return the file back."""
        if self._slide is not None:
            self._slide.close()
            self._slide = None


def encode_tiles(
    tiles: TileDataset,
    encoder: Encoder,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    precision: str = "fp32",
    done: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Encode all tiles, in their order.

    Args:
        tiles: Of one slide.
        encoder: Its module is on the device to use.
        batch_size: Tiles at once.
        num_workers: Processes that read.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        done: Called with the number of tiles of each batch.

    Returns:
        float32 (N, F), or float16 with 16-bit precision.

    Raises:
        ReadError: A tile that cannot be read, or features that are not finite.
    """
    device = next((parameter.device for parameter in encoder.module.parameters()), torch.device("cpu"))
    found: list[np.ndarray] = []
    loader = DataLoader(tiles, batch_size=batch_size, num_workers=num_workers, collate_fn=_collate)
    try:
        for images in loader:
            if isinstance(images, ReadError):
                raise images
            found.append(_encode(encoder, images.to(device), precision))
            done(len(images))
    finally:
        tiles.close()
    features = np.concatenate(found)
    if not np.isfinite(features).all():
        raise ReadError(f"{tiles.path}: the encoder gave NaN or infinite features; use --precision fp32", "not_finite")
    return features


def _encode(encoder: Encoder, images: Tensor, precision: str) -> np.ndarray:
    try:
        with torch.inference_mode(), products_in(precision, images.device):
            features = encoder.module(images)
    except torch.OutOfMemoryError:
        raise UserError(f"{len(images)} tiles do not fit in the device's memory; use a smaller --batch-size") from None
    if features.ndim != 2:
        raise UserError(
            f"--encoder {encoder.name} gives {tuple(features.shape)}, not one vector a tile; choose another"
        )
    return features.to(torch.float32 if precision == "fp32" else torch.float16).cpu().numpy()


def _collate(items: list[Tensor | ReadError]) -> Tensor | ReadError:
    error = next((item for item in items if isinstance(item, ReadError)), None)
    return torch.stack([item for item in items if isinstance(item, Tensor)]) if error is None else error
