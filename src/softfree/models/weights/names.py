"""Names of vision transformer weights in other code, brought to timm's.

Understood are the checkpoints of self-supervised training, where the encoder is a part of something larger
("teacher.backbone.blocks.0..."), and ViT and DINOv2 as Hugging Face's transformers library names them. A name with no
counterpart stays as it is, so that whoever loads the weights can say that it had no place.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

Weights = dict[str, Tensor]

# What an encoder is recognized by; in front of it stands the prefix of the whole.
ANCHORS = re.compile(
    r"^((?:.*?\.)?)(?:blocks\.0\.(?:0\.)?norm1|encoder\.layer\.0\.(?:layernorm_before|norm1))\.weight$"
)
# In order of preference: a self-distilled teacher is an average of its student and the better one.
PREFERRED = ("teacher", "ema", "")

OF_TRANSFORMERS = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.mask_token$", "mask_token"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layer\.(\d+)\.(?:layernorm_before|norm1)\.", r"blocks.\1.norm1."),
    (r"^encoder\.layer\.(\d+)\.(?:layernorm_after|norm2)\.", r"blocks.\1.norm2."),
    (r"^encoder\.layer\.(\d+)\.intermediate\.dense\.", r"blocks.\1.mlp.fc1."),
    (r"^encoder\.layer\.(\d+)\.output\.dense\.", r"blocks.\1.mlp.fc2."),
    (r"^encoder\.layer\.(\d+)\.mlp\.(fc1|fc2)\.", r"blocks.\1.mlp.\2."),
    (r"^encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)
OF_DINO = (
    # Blocks in chunks, as large models are trained.
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
    (r"^register_tokens$", "reg_token"),
)
PART = re.compile(r"^encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)$")


def to_timm(weights: Weights) -> Weights:
    """Rename the weights of a vision transformer as far as they are understood.

    Args:
        weights: Tensors by name.

    Returns:
        The same under timm's names, query, key and value joined to ``qkv``.
    """
    weights = _without_prefix(weights)
    if any(name.startswith("encoder.layer.") for name in weights):
        return _renamed(_joined(weights), OF_TRANSFORMERS)
    return _renamed(weights, OF_DINO)


def _without_prefix(weights: Weights) -> Weights:
    """Take the prefix from the names of the encoder; where there are several encoders, of the preferred one."""
    found = {match.group(1) for name in weights if (match := ANCHORS.match(name))}
    if not found or "" in found:
        return weights
    prefix = min(found, key=lambda p: (next(i for i, word in enumerate(PREFERRED) if word in p), len(p)))
    own = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
    return own | {name: t for name, t in weights.items() if not name.startswith(prefix) and name not in own}


def _joined(weights: Weights) -> Weights:
    """Put query, key and value of each layer into one; a bias that only some have is zero for the others."""
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    rest = {}
    for name, tensor in weights.items():
        if match := PART.match(name):
            parts.setdefault((match.group(1), match.group(3)), {})[match.group(2)] = tensor
        else:
            rest[name] = tensor
    for (layer, kind), three in parts.items():
        like = next(iter(three.values()))
        rest[f"blocks.{layer}.attn.qkv.{kind}"] = torch.cat(
            [three.get(part, torch.zeros_like(like)) for part in ("query", "key", "value")]
        )
    return rest


def _renamed(weights: Weights, rules: tuple[tuple[str, str], ...]) -> Weights:
    renamed = {}
    for name, tensor in weights.items():
        for pattern, theirs in rules:
            name = re.sub(pattern, theirs, name)
        renamed[name] = tensor
    return renamed
