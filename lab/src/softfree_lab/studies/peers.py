"""Models of timm, such as ``timm_resnet18``, for comparison with the same images, augmentation and budget.

Importing this module registers them by name, so that a variant of ``study ablation`` can be
``{model: timm_resnet18, drop_path: 0.0}``.
"""

from __future__ import annotations

from typing import Any

import timm
from torch import Tensor, nn

from softfree.models.registry import CLASSIFIERS, register_classifier

ARCHITECTURES = ("resnet18", "resnet50", "convnext_atto", "efficientnet_b0")


class TimmClassifier(nn.Module):
    """A model of timm, from scratch.

    Args:
        architecture: timm's name.
        img_size: Ignored: these models take any size.
        in_chans: Channels of the images.
        num_classes: Number of logits.
        drop_path_rate: Rate of stochastic depth.
    """

    def __init__(
        self,
        architecture: str = "resnet18",
        img_size: Any = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.model: Any = timm.create_model(
            architecture, pretrained=False, in_chans=in_chans, num_classes=num_classes, drop_path_rate=drop_path_rate
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, K)."""
        logits: Tensor = self.model(x)
        return logits

    def no_weight_decay(self) -> set[str]:
        """Return no parameters beyond those that the optimizer always excludes."""
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass."""
        self.model.set_grad_checkpointing(enable)


for architecture in ARCHITECTURES:
    if f"timm_{architecture}" not in CLASSIFIERS:
        register_classifier(f"timm_{architecture}", TimmClassifier, architecture=architecture)
