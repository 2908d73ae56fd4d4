"""Images read band by band: arrays, memory-mapped files, or any other source of pixel rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from softfree_runtime.core.errors import UserError


class Rows(Protocol):
    """An image whose rows can be read in bands."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        ...

    def read(self, top: int, bottom: int) -> Tensor:
        """Return the rows from ``top`` up to ``bottom``, (channels, bottom - top, width), as the model expects them."""
        ...


class ArrayRows:
    """Rows of an array in memory or of a memory-mapped file.

    Args:
        array: (channels, H, W), or (1, channels, H, W); with ``channels_last`` (H, W, channels).
        channels_last: Whether channels are the last axis.
        prepare: Maps rows (channels, n, W) of the array's dtype to model input, pixel by pixel: scale, mean and
            standard deviation. Without it, the array must have a floating-point dtype.

    Raises:
        UserError: Another number of axes, or integers without ``prepare``.
    """

    def __init__(
        self,
        array: np.ndarray | Tensor,
        channels_last: bool = False,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if array.ndim == 4 and len(array) == 1:
            array = array[0]
        if array.ndim != 3 or 0 in array.shape:
            raise UserError(f"Got an image of shape {tuple(array.shape)}: expected one, (channels, height, width).")
        floating = array.is_floating_point() if isinstance(array, Tensor) else array.dtype.kind == "f"
        if prepare is None and not floating:
            raise UserError(f"Got pixels of {array.dtype}: expected a floating-point dtype, or prepare= to convert.")
        self.array, self.channels_last, self.prepare = array, channels_last, prepare
        first, second, third = (int(side) for side in array.shape)
        self.shape = (third, first, second) if channels_last else (first, second, third)

    def read(self, top: int, bottom: int) -> Tensor:
        """See :class:`Rows`."""
        band = self.array[top:bottom] if self.channels_last else self.array[:, top:bottom]
        rows = band if isinstance(band, Tensor) else torch.from_numpy(np.array(band))  # a memory map may be read-only
        if self.channels_last:
            rows = rows.permute(2, 0, 1)
        return rows if self.prepare is None else self.prepare(rows)
