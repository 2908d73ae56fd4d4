"""Named models, ``{attention}_vit_{size}_patch{side}``, known to timm once this module is imported."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from timm.models import register_model

from softfree.attention import ATTENTIONS
from softfree.models.classifier import Classifier
from softfree.models.vit import VisionTransformer
from softfree_runtime.core.errors import UserError, unknown_name

SIZES: dict[str, dict[str, int]] = {
    "nano": {"embed_dim": 128, "depth": 6, "num_heads": 4},
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}
PATCH_SIZES = (8, 16, 32)
Model = TypeVar("Model", bound=Classifier)

__all__: list[str] = ["NAMED"]


def entry_point(model: type[Model], name: str, **shape: Any) -> Callable[..., Model]:
    """Register with timm, under ``name``, the function that makes a ``model`` with ``shape`` as its options."""
    known = tuple(inspect.signature(model).parameters)

    def create(
        pretrained: bool = False,
        pretrained_cfg: object = None,
        pretrained_cfg_overlay: object = None,
        cache_dir: object = None,
        **options: Any,
    ) -> Model:
        if pretrained:
            raise UserError(f"{name} has no published weights: make it without and call load_pretrained on it.")
        for option in options:
            if option not in known:
                raise unknown_name(f"option of {name}:", option, known)
        return model(**{**shape, **options})

    create.made = model  # type: ignore[attr-defined]  # what a stored configuration is checked against
    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{model.__name__} with {shape}."
    globals()[name] = create  # where timm's __all__ expects it
    return register_model(create)


NAMED: dict[str, Callable[..., VisionTransformer]] = {
    name: entry_point(VisionTransformer, name, attention=attention, patch_size=patch, **shape)
    for attention in ATTENTIONS
    for size, shape in SIZES.items()
    for patch in PATCH_SIZES
    for name in [f"{attention}_vit_{size}_patch{patch}"]
}
