"""Images with objects, in COCO's files (Lin et al. 2014, arXiv:1405.0312), as torchvision's detectors take them."""

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

    Beside torchvision's own dataset, whose targets it takes, all images have the same keys, those without objects
    too, and boxes without area, on which detectors stumble, are left out.

    Args:
        folder: The images, such as ``train2017``.
        instances: The file, such as ``annotations/instances_train2017.json``.
        crowds: Keep regions that stand for many objects: the metric wants them, training does not.
        transforms: Of (image, target), such as those of ``torchvision.transforms.v2``.

    Each item is an image and its target: boxes (n, 4) as corners, labels (n,), masks (n, H, W) and iscrowd (n,).

    Raises:
        UserError: Pycocotools is not installed.
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
            read = CocoDetection(str(folder), str(instances), transforms=transforms)
        except ModuleNotFoundError as error:
            raise UserError(
                "COCO's files need pycocotools, which is not installed: pip install 'softfree[dense]'"
            ) from error
        self.read = wrap_dataset_for_transforms_v2(read, target_keys=["boxes", "labels", "masks", "iscrowd"])
        self.crowds = crowds

    def __len__(self) -> int:
        return len(self.read)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Tensor]]:
        image, found = self.read[index]
        boxes = torch.as_tensor(found.get("boxes", torch.zeros(0, 4)))
        target = {
            "boxes": boxes,
            "labels": torch.as_tensor(found.get("labels", ()), dtype=torch.int64),
            "masks": torch.as_tensor(found.get("masks", torch.zeros(0, *get_size(image), dtype=torch.uint8))),
            "iscrowd": torch.as_tensor(found.get("iscrowd", ()), dtype=torch.int64),
        }
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
        if not self.crowds:
            kept &= target["iscrowd"] == 0
        return image, {name: value[kept] for name, value in target.items()}
