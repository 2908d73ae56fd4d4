"""What every classifier has at its end: one linear layer that timm can ask for and replace."""

from __future__ import annotations

from typing import cast

from huggingface_hub import PyTorchModelHubMixin
from timm.layers import trunc_normal_
from torch import Tensor, nn

from softfree.attention.base import widen


class HeadedModel(nn.Module, PyTorchModelHubMixin, library_name="softfree", tags=["image-classification"]):
    """Base of all classifiers: ``head`` with timm's ``get_classifier`` and ``reset_classifier``, and the hub's methods.

    Attributes:
        num_classes: Number of logits; 0 for pooled features instead.
        num_features: Width of the pooled features.
        head: A linear layer, or nothing for features.
    """

    num_classes: int
    num_features: int
    head: nn.Module

    def make_head(self) -> nn.Module:
        """Make the last layer for ``num_classes``."""
        return nn.Linear(self.num_features, self.num_classes) if self.num_classes else nn.Identity()

    def classify(self, pooled: Tensor) -> Tensor:
        """Give the logits (..., K) of features (..., C), under autocast too in the type of the head's weights.

        The product is nothing beside the rest, and bfloat16 would make equal what a ranking, as AUROC's, tells apart.
        """
        weight = next(self.head.parameters(), pooled)
        _, exact = widen(pooled)
        with exact:
            return cast(Tensor, self.head(pooled.to(weight.dtype)))

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Make a new head for another number of classes; 0 for none."""
        self.num_classes = num_classes
        if isinstance(self._hub_mixin_config, dict):
            self._hub_mixin_config["num_classes"] = num_classes  # what save_pretrained writes
        like = next(self.parameters())
        self.head = self.make_head().apply(init_linear).to(like.device, like.dtype)


def init_linear(module: nn.Module) -> None:
    """Start a linear layer as timm does: truncated normal of deviation 0.02, zero bias; leave others alone."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
