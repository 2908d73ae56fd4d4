"""Models of images, volumes and bags, and pyramids, by name; their tokenizers and encoder; published weights."""

from __future__ import annotations

import softfree.attention  # noqa: F401 - first: its plugins may import models
from softfree.models.bag import BagTransformer, collate_bags
from softfree.models.encoder import Block, Encoder
from softfree.models.pyramid import SoftPyramid
from softfree.models.registry import create_model, list_models
from softfree.models.vit import VisionTransformer
from softfree.models.vit3d import VolumeTransformer
from softfree.models.weights.inflate import load_inflated
from softfree.models.weights.load import WeightReport, load_pretrained

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
