"""The variants of a recipe that studies compare: named changes to the training options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softfree.attention import for_each_attention
from softfree_runtime.core.errors import UserError, unknown_name
from softfree_runtime.core.files import read_yaml

Overrides = dict[str, Any]
"""Options of ``softfree train``, and ``attention``: the same model with another attention method."""


def _seqnorm(**attention_options: Any) -> Overrides:
    return {"attention": "seqnorm", "attention_options": attention_options}


SOFTMAX: dict[str, Overrides] = {"softmax": {"attention": "softmax"}}


@dataclass(frozen=True)
class Preset:
    """Variants by name, the reference first, and the sides at which to test, relative to training."""

    variants: dict[str, Overrides]
    scales: tuple[float, ...] = (1.0,)


ZOO = dict(SOFTMAX)
for_each_attention(lambda name: ZOO.setdefault(name, {"attention": name}))

PRESETS: dict[str, Preset] = {
    # All attentions, one recipe.
    "zoo": Preset(ZOO),
    # Initial scales and shifts, and whether the mean of V is kept.
    "inits": Preset(
        SOFTMAX
        | {
            f"seqnorm {init}{'' if part == 'qkv' else f' {part}'}": _seqnorm(init=init, normalized=part)
            for part in ("qkv", "qk")
            for init in ("unit", "scaled", "open", "balanced", "first_order")
        }
    ),
    # Which of Q, K and V are normalized.
    "parts": Preset(
        SOFTMAX
        | {f"seqnorm {part}": _seqnorm(init="balanced", normalized=part) for part in ("qkv", "qk", "kv", "q", "k")}
    ),
    # What the paper leaves open: no gamma and beta, and normalization over batch or features instead.
    "norms": Preset(
        SOFTMAX
        | {"seqnorm": _seqnorm(), "seqnorm without gamma and beta": _seqnorm(affine=False)}
        | {f"seqnorm norm={norm}": _seqnorm(norm=norm) for norm in ("batch", "layer", "none")}
    ),
    # A class token, included in the statistics or not, and softmax with one.
    "class_token": Preset(
        {"softmax": {"attention": "softmax", "pool": "token"}, "seqnorm": _seqnorm() | {"pool": "token"}}
        | {"seqnorm token not counted": _seqnorm(class_token_in_statistics=False) | {"pool": "token"}}
    ),
    # The block around the attention.
    "block": Preset(
        SOFTMAX
        | {"seqnorm": _seqnorm()}
        | {f"seqnorm layer_scale={value:g}": _seqnorm() | {"layer_scale": value} for value in (0.1, 1e-4)}
        | {"seqnorm pos_conv": _seqnorm() | {"model_options": {"pos_conv": True}}}
        | {"softmax pos_conv": SOFTMAX["softmax"] | {"model_options": {"pos_conv": True}}}
    ),
    "rates": Preset(
        {
            f"{name} lr={rate:g}": {"attention": name, "lr": rate}
            for rate in (1e-3, 3e-4, 3e-3)
            for name in ("softmax", "seqnorm")
        }
    ),
    # Trained at one side, tested at others.
    "resolution": Preset(ZOO, scales=(0.5, 0.75, 1.0, 1.5, 2.0)),
}


def choose_variants(names: Sequence[str]) -> Preset:
    """Combine presets and YAML files of variants; the very first variant is the reference.

    Raises:
        UserError: No name, an unknown one, or a file without variants.
    """
    if not names:
        raise UserError(f"--variants is empty; expected some of: {', '.join(PRESETS)}, or a YAML file")
    presets = [_from_file(Path(name)) if name.endswith((".yaml", ".yml")) else _preset(name) for name in names]
    joined = {name: overrides for preset in presets for name, overrides in preset.variants.items()}
    return Preset(joined, tuple(sorted({scale for preset in presets for scale in preset.scales})))


def apply(recipe: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
    """Apply the changes of a variant to a recipe; dictionaries are merged."""
    merged = dict(recipe)
    for name, value in overrides.items():
        merged[name] = merged.get(name, {}) | value if isinstance(value, dict) else value
    attention = merged.pop("attention", None)
    if attention is not None:
        match = re.fullmatch(r".+?(_(?:vit|vit3d|bag)_.+)", str(merged.get("model", "")))
        if match is None:
            raise UserError(
                f"got model {merged.get('model')!r} in a recipe: expected a name such as any_vit_nano_patch16"
            )
        merged["model"] = f"{attention}{match[1]}"
    return merged


def _preset(name: str) -> Preset:
    if name not in PRESETS:
        raise unknown_name("variants", name, PRESETS)
    return PRESETS[name]


def _from_file(path: Path) -> Preset:
    variants = read_yaml(path, "--variants")
    if not isinstance(variants, dict) or not variants or not all(isinstance(v, dict) for v in variants.values()):
        raise UserError(f"--variants {path}: expected variants by name, each a mapping of options of softfree train")
    return Preset(variants)
