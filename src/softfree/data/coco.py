"""Images with objects from COCO files (Lin et al. 2014, arXiv:1405.0312), in the format of torchvision's detectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.transforms.v2.functional import get_size

from softfree_runtime.core.errors import UserError


class CocoObjects(Dataset):
    """A folder of images and a JSON file of their objects.

    In contrast to torchvision's own dataset, the targets of all images have the same keys, even without objects, and
    boxes without area, which detectors cannot handle, are dropped.

    Args:
        folder: Folder of the images, such as ``train2017``.
        instances: JSON file, such as ``annotations/instances_train2017.json``.
        crowds: Keep regions that stand for many objects, which the metric requires but training does not.
        transforms: Transforms of (image, target), such as those of ``torchvision.transforms.v2``.

    Each item is an image and its target: boxes (n, 4) as corners, labels (n,), masks (n, H, W) and iscrowd (n,).

    Raises:
        UserError: The package pycocotools is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        instances: str | Path,
        *,
        crowds: bool = False,
        transforms: Callable[..., Any] | None = None,
    ) -> None:
        try:
            images = CocoDetection(str(folder), str(instances), transforms=transforms)
        except ModuleNotFoundError as error:
            raise UserError(
                "COCO files need pycocotools, which is not installed; get it with: pip install 'softfree[dense]'"
            ) from error
        self.images = wrap_dataset_for_transforms_v2(images, target_keys=["boxes", "labels", "masks", "iscrowd"])
        self.crowds = crowds

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Tensor]]:
        image, annotation = self.images[index]
        boxes = torch.as_tensor(annotation.get("boxes", torch.zeros(0, 4)))
        target = {
            "boxes": boxes,
            "labels": torch.as_tensor(annotation.get("labels", ()), dtype=torch.int64),
            "masks": torch.as_tensor(annotation.get("masks", torch.zeros(0, *get_size(image), dtype=torch.uint8))),
            "iscrowd": torch.as_tensor(annotation.get("iscrowd", ()), dtype=torch.int64),
        }
        valid = (boxes[:, 2:] > boxes[:, :2]).all(1)
        if not self.crowds:
            valid &= target["iscrowd"] == 0
        return image, {name: value[valid] for name, value in target.items()}
