"""CNNs of timm and MONAI, for comparison with the same images or volumes, augmentation and budget.

Importing this module registers them by name, so that a variant of ``study ablation`` can be
``{model: timm_resnet18, drop_path: 0.0}`` or, for volumes, ``{model: monai_3d_resnet18, drop_path: 0.0}``.
"""

from __future__ import annotations

from typing import Any

import timm
from monai.networks import nets
from torch import Tensor, nn

from softfree.models.registry import CLASSIFIERS, register_classifier
from softfree_runtime.core.errors import UserError

OF_TIMM = ("resnet18", "resnet50", "convnext_atto", "efficientnet_b0")
OF_MONAI = ("resnet10", "resnet18")


class Peer(nn.Module):
    """A network of another library, from scratch, with what training expects of a model."""

    model: Any

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) or volumes (B, C, D, H, W) to logits (B, K)."""
        logits: Tensor = self.model(x)
        return logits

    def no_weight_decay(self) -> set[str]:
        """Return no parameters beyond those that the optimizer always excludes."""
        return set()


class TimmClassifier(Peer):
    """A model of timm.

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
        self.model = timm.create_model(
            architecture, pretrained=False, in_chans=in_chans, num_classes=num_classes, drop_path_rate=drop_path_rate
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass."""
        self.model.set_grad_checkpointing(enable)


class MonaiClassifier(Peer):
    """A 3D ResNet of MONAI.

    Args:
        architecture: MONAI's name.
        img_size: Ignored: these models take any size.
        in_chans: Channels of the volumes.
        spacing: Ignored: these models do not know it.
        num_classes: Number of logits.
        drop_path_rate: Must be 0: these models have no stochastic depth.
    """

    def __init__(
        self,
        architecture: str = "resnet18",
        img_size: Any = 64,
        in_chans: int = 1,
        spacing: Any = 1.0,
        num_classes: int = 1000,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if drop_path_rate:
            raise UserError(f"Got drop_path_rate={drop_path_rate} for MONAI's {architecture}: expected 0.")
        create = getattr(nets, architecture)
        self.model = create(spatial_dims=3, n_input_channels=in_chans, num_classes=num_classes)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refuse: MONAI's networks cannot."""
        if enable:
            raise UserError("MONAI's networks cannot recompute activations: leave grad_checkpointing out.")


for name, cls, architectures in (("timm", TimmClassifier, OF_TIMM), ("monai_3d", MonaiClassifier, OF_MONAI)):
    for architecture in architectures:
        if f"{name}_{architecture}" not in CLASSIFIERS:
            register_classifier(f"{name}_{architecture}", cls, architecture=architecture)
