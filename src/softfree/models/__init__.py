"""Models: tokenizers, encoder, vision transformers and pyramids by name, published weights."""

from __future__ import annotations

from typing import Any

from softfree.errors import unknown_name
from softfree.models.encoder import Block, Encoder
from softfree.models.named import NAMED
from softfree.models.pretrained import WeightReport, load_pretrained
from softfree.models.pyramid import SoftPyramid
from softfree.models.pyramid_names import PYRAMIDS
from softfree.models.vit import VisionTransformer

__all__ = [
    "Block",
    "Encoder",
    "SoftPyramid",
    "VisionTransformer",
    "WeightReport",
    "create_model",
    "list_models",
    "load_pretrained",
]


def list_models() -> list[str]:
    """Names that :func:`create_model` knows."""
    return [*NAMED, *PYRAMIDS]


def create_model(name: str, **options: Any) -> Any:
    """Make a named model, e.g. ``create_model("seqnorm_vit_small_patch16", img_size=1024, num_classes=2)``.

    Args:
        name: One of :func:`list_models`.
        **options: Keywords of :class:`VisionTransformer`, or of :class:`SoftPyramid` for its names; they win over
            those that the name stands for.

    Returns:
        A :class:`VisionTransformer` or a :class:`SoftPyramid`.

    Raises:
        UserError: an unknown name or option.
    """
    if name not in list_models():
        raise unknown_name("model", name, list_models())
    make = NAMED.get(name) or PYRAMIDS[name]
    return make(**options)
