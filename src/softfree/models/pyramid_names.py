"""Named pyramids, ``soft_{size}`` and ``soft_norm_{size}``, known to timm once this module is imported."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from softfree.models.pyramid import METHODS, SoftPyramid
from softfree_runtime.core.errors import UserError, unknown_name

# Lu et al. 2021, table 1. The official code has 20 blocks in stage 3 of "small", which gives 39 M parameters; the
# paper's 7 give the 24 M that both state.
SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "tiny": {"embed_dims": (64, 128, 320, 512), "depths": (1, 2, 3, 2), "num_heads": (2, 4, 10, 16)},
    "small": {"embed_dims": (64, 128, 320, 512), "depths": (1, 3, 7, 4), "num_heads": (2, 4, 10, 16)},
    "medium": {"embed_dims": (64, 128, 288, 512), "depths": (1, 3, 29, 5), "num_heads": (2, 4, 9, 16)},
    "large": {"embed_dims": (64, 128, 320, 512), "depths": (1, 3, 40, 5), "num_heads": (2, 4, 10, 16)},
    "huge": {"embed_dims": (64, 128, 352, 512), "depths": (1, 5, 49, 5), "num_heads": (2, 4, 11, 16)},
}
OPTIONS = tuple(inspect.signature(SoftPyramid).parameters)
OF_TIMM = ("features_only", "out_indices", "feature_cls")

__all__: list[str] = ["PYRAMIDS"]

default_cfgs = generate_default_cfgs(
    {
        f"{method}_{size}": {"first_conv": "stages.0.embed.0.conv", "classifier": "head"}
        for method in METHODS
        for size in SIZES
    }
)


def _entry_point(name: str, **shape: Any) -> Callable[..., Any]:
    """Register with timm, under ``name``, the function that makes the model or its feature extractor."""

    def create(pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise UserError(f"{name} has no weights on a hub: make it without and call load_pretrained on it.")
        config = {key: options.pop(key, None) for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")}
        for option in options:
            if option not in OPTIONS + OF_TIMM:
                raise unknown_name(f"option of {name}:", option, OPTIONS)
        features = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
        return build_model_with_cfg(SoftPyramid, name, False, feature_cfg=features, **config, **{**shape, **options})

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"SoftPyramid with {shape}."
    globals()[name] = create  # where timm's __all__ expects it
    return register_model(create)


PYRAMIDS: dict[str, Callable[..., Any]] = {
    f"{method}_{size}": _entry_point(f"{method}_{size}", attention=method, **shape)
    for method in METHODS
    for size, shape in SIZES.items()
}
