"""Models: tokenizers, encoder, transformers of images, volumes and bags and pyramids by name, published weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from softfree.models.bag import BagTransformer, collate_bags
from softfree.models.encoder import Block, Encoder
from softfree.models.named import NAMED
from softfree.models.named_kinds import BAGS, VOLUMES
from softfree.models.pyramid import SoftPyramid
from softfree.models.pyramid_names import PYRAMIDS
from softfree.models.vit import VisionTransformer
from softfree.models.vit3d import VolumeTransformer
from softfree.models.weights.inflate import load_inflated
from softfree.models.weights.load import WeightReport, load_pretrained
from softfree_runtime.core.errors import unknown_name

__all__ = [
    "BagTransformer",
    "Block",
    "Encoder",
    "SoftPyramid",
    "VisionTransformer",
    "VolumeTransformer",
    "WeightReport",
    "collate_bags",
    "create_model",
    "list_models",
    "load_inflated",
    "load_pretrained",
]


MODELS: dict[str, Callable[..., Any]] = {**NAMED, **VOLUMES, **BAGS, **PYRAMIDS}


def list_models() -> list[str]:
    """Names that :func:`create_model` knows."""
    return [*MODELS]


def create_model(name: str, **options: Any) -> Any:
    """Make a named model, e.g. ``create_model("seqnorm_vit_small_patch16", img_size=1024, num_classes=2)``.

    Args:
        name: One of :func:`list_models`.
        **options: Keywords of the class that the name stands for; they win over those that the name stands for.

    Returns:
        A :class:`VisionTransformer`, :class:`VolumeTransformer`, :class:`BagTransformer` or :class:`SoftPyramid`.

    Raises:
        UserError: an unknown name or option.
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    return MODELS[name](**options)
