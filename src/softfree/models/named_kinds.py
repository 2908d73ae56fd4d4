"""Named models of volumes, ``{attention}_vit3d_{size}``, and of bags, ``{attention}_bag_{size}``; timm knows them.

The sizes are those of the images' models. Neither name holds a patch size: a bag has none, and a volume's three sides
are an option, ``patch_size=(8, 8, 8)``.
"""

from __future__ import annotations

from collections.abc import Callable

from softfree.attention import ATTENTIONS
from softfree.models.bag import BagTransformer
from softfree.models.named import SIZES, entry_point
from softfree.models.vit3d import VolumeTransformer

VOLUMES: dict[str, Callable[..., VolumeTransformer]] = {
    name: entry_point(VolumeTransformer, name, attention=attention, **shape)
    for attention in ATTENTIONS
    for size, shape in SIZES.items()
    for name in [f"{attention}_vit3d_{size}"]
}
BAGS: dict[str, Callable[..., BagTransformer]] = {
    name: entry_point(BagTransformer, name, attention=attention, **shape)
    for attention in ATTENTIONS
    for size, shape in SIZES.items()
    for name in [f"{attention}_bag_{size}"]
}
