"""Images with a class per pixel, in the folder layout of ADE20K scene parsing (Zhou et al. 2017, CVPR)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.datasets import VisionDataset

from softfree_runtime.core.errors import UserError

# Pixels that a loss ignores: ``torch.nn.functional.cross_entropy(..., ignore_index=IGNORED)``.
IGNORED = 255


class Scenes(VisionDataset):
    """``images/{split}/NAME.jpg`` with ``annotations/{split}/NAME.png``, whose pixels are 0 for no class, or a class.

    Args:
        root: Folder with ``images`` and ``annotations``.
        split: "training" or "validation".
        transforms: Transforms of (image, classes), such as those of ``torchvision.transforms.v2``.

    Each item is an image (3, H, W) of uint8 and its classes (H, W) of int64, counted from 0, with :data:`IGNORED` for
    no class, as ``tv_tensors``, which torchvision's transforms distinguish.

    Raises:
        UserError: No images, or an image without its annotation.
    """

    def __init__(
        self,
        root: str | Path,
        split: Literal["training", "validation"] = "training",
        transforms: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(root, transforms)
        folder = Path(root) / "images" / split
        self.images = sorted(path for path in folder.glob("*") if path.suffix in (".jpg", ".png"))
        if not self.images:
            raise UserError(f"no images in {folder}; expected images/{split}/*.jpg below {root}")
        self.annotations = [Path(root) / "annotations" / split / f"{path.stem}.png" for path in self.images]
        for path in self.annotations:
            if not path.is_file():
                raise UserError(f"no {path}; expected a PNG of the same name for each image in {folder}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        with Image.open(self.images[index]) as file:
            image = tv_tensors.Image(file.convert("RGB"))
        with Image.open(self.annotations[index]) as file:
            numbers = torch.from_numpy(np.array(file, dtype=np.int64))
        classes = tv_tensors.Mask((numbers - 1).where(numbers > 0, IGNORED))
        return (image, classes) if self.transforms is None else self.transforms(image, classes)
