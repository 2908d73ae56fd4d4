"""Tokenizer and positions of an image or a volume alone, for models that have several of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from softfree.models.classifier import Classifier
from softfree.models.encoder import Encoder
from softfree.models.vit import VisionTransformer
from softfree.models.vit3d import VolumeTransformer
from softfree_runtime.core.errors import unknown_name


class _TokenizerOnly(Classifier):
    """A transformer whose method ``embed`` is all that is used: without encoder, norm and head."""

    def add_encoder(self, *_: Any, **__: Any) -> None:
        """Only initialize the weights."""
        self.blocks = Encoder()
        self.norm, self.fc_norm, self.head = nn.Identity(), nn.Identity(), nn.Identity()
        self.init_weights()


class ImageTokenizer(_TokenizerOnly, VisionTransformer):
    """From an image to tokens."""


class VolumeTokenizer(_TokenizerOnly, VolumeTransformer):
    """From a volume to tokens."""


TOKENIZERS: dict[str, Any] = {"image": ImageTokenizer, "volume": VolumeTokenizer}


def create_tokenizer(kind: str, shape: Sequence[int], **options: Any) -> Classifier:
    """Create a tokenizer of images or volumes.

    Args:
        kind: A key of :data:`TOKENIZERS`.
        shape: Of an image, channels first; that of ``img_size`` and ``in_chans``.
        **options: Keywords of the transformer.

    Raises:
        UserError: Another kind.
    """
    if kind not in TOKENIZERS:
        raise unknown_name("kind of tokenizer", kind, TOKENIZERS)
    sizes: dict[str, Any] = {"img_size": tuple(shape[1:]), "in_chans": shape[0]}
    tokenizer: Classifier = TOKENIZERS[kind](**(sizes | options), num_classes=0, pool="avg")
    return tokenizer
