"""Renaming of vision transformer weights from other libraries to timm's names.

Supported are checkpoints of self-supervised training, where the encoder is part of a larger model
("teacher.backbone.blocks.0..."), and ViT and DINOv2 in Hugging Face's transformers library. A name without a
counterpart is kept, so that the loader can report it.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

Weights = dict[str, Tensor]

# Weights that identify an encoder, after the prefix of the whole model.
ANCHORS = re.compile(
    r"^((?:.*?\.)?)(?:blocks\.0\.(?:0\.)?norm1|encoder\.layer\.0\.(?:layernorm_before|norm1))\.weight$"
)
# In order of preference: a self-distilled teacher is a moving average of its student, and better.
PREFERRED = ("teacher", "ema", "")

TRANSFORMERS_RULES = (
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
DINO_RULES = (
    # Blocks in chunks, as in the training of large models.
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
    (r"^register_tokens$", "reg_token"),
)
QKV_PART = re.compile(r"^encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)$")


def to_timm(weights: Weights) -> Weights:
    """Rename the weights of a vision transformer, as far as their names are known.

    Args:
        weights: Tensors by name.

    Returns:
        The same tensors by timm's names, with query, key and value concatenated to ``qkv``.
    """
    weights = _without_prefix(weights)
    if any(name.startswith("encoder.layer.") for name in weights):
        return _rename(_join_qkv(weights), TRANSFORMERS_RULES)
    return _rename(weights, DINO_RULES)


def _without_prefix(weights: Weights) -> Weights:
    """Remove the prefix from the names of the encoder; if there are several, of the preferred one."""
    prefixes = {match.group(1) for name in weights if (match := ANCHORS.match(name))}
    if not prefixes or "" in prefixes:
        return weights
    prefix = min(prefixes, key=lambda p: (next(i for i, word in enumerate(PREFERRED) if word in p), len(p)))
    encoder = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
    return encoder | {name: t for name, t in weights.items() if not name.startswith(prefix) and name not in encoder}


def _join_qkv(weights: Weights) -> Weights:
    """Concatenate query, key and value of each layer; a missing bias becomes zero."""
    parts: dict[tuple[str, str], dict[str, Tensor]] = {}
    rest = {}
    for name, tensor in weights.items():
        if match := QKV_PART.match(name):
            parts.setdefault((match.group(1), match.group(3)), {})[match.group(2)] = tensor
        else:
            rest[name] = tensor
    for (layer, kind), tensors in parts.items():
        like = next(iter(tensors.values()))
        rest[f"blocks.{layer}.attn.qkv.{kind}"] = torch.cat(
            [tensors.get(part, torch.zeros_like(like)) for part in ("query", "key", "value")]
        )
    return rest


def _rename(weights: Weights, rules: tuple[tuple[str, str], ...]) -> Weights:
    renamed = {}
    for name, tensor in weights.items():
        for pattern, timm_name in rules:
            name = re.sub(pattern, timm_name, name)
        renamed[name] = tensor
    return renamed
