"""Named models, ``{attention}_vit_{size}_patch{side}``, known to timm once this module is imported."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from timm.models import register_model

from softfree.attention import ATTENTIONS
from softfree.errors import UserError, unknown_name
from softfree.models.vit import VisionTransformer

SIZES: dict[str, dict[str, int]] = {
    "nano": {"embed_dim": 128, "depth": 6, "num_heads": 4},
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}
PATCH_SIZES = (8, 16, 32)
OPTIONS = tuple(inspect.signature(VisionTransformer).parameters)

__all__: list[str] = ["NAMED"]


def _entry_point(name: str, **shape: Any) -> Callable[..., VisionTransformer]:
    """Register with timm, under ``name``, the function that makes the model."""

    def create(
        pretrained: bool = False,
        pretrained_cfg: object = None,
        pretrained_cfg_overlay: object = None,
        cache_dir: object = None,
        **options: Any,
    ) -> VisionTransformer:
        if pretrained:
            raise UserError(f"{name} has no published weights: make it without and call load_pretrained on it.")
        for option in options:
            if option not in OPTIONS:
                raise unknown_name(f"option of {name}:", option, OPTIONS)
        return VisionTransformer(**{**shape, **options})

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"VisionTransformer with {shape}."
    globals()[name] = create  # where timm's __all__ expects it
    return register_model(create)


NAMED: dict[str, Callable[..., VisionTransformer]] = {
    name: _entry_point(name, attention=attention, patch_size=patch, **shape)
    for attention in ATTENTIONS
    for size, shape in SIZES.items()
    for patch in PATCH_SIZES
    for name in [f"{attention}_vit_{size}_patch{patch}"]
}
