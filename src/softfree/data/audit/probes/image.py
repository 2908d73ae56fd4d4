"""What an audit keeps of an image."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np

from softfree.data.audit.near_duplicates import thumbnail
from softfree.data.audit.probes.probe import BLOCK, Probe, digest_file
from softfree_runtime.readers import DecodedImage, read_image


def probe_image(file: str, frame: int | None) -> Probe:
    """Read an image and keep its facts.

    Raises:
        ReadError: it cannot be read.
    """
    image = read_image(file, frame=frame)
    size, file_digest = digest_file(Path(file))
    height, width, channels = image.pixels.shape
    return Probe(
        "ok",
        "",
        size,
        height,
        width,
        channels,
        image.stored,
        image.spacing,
        _is_blank(image),
        _digest_pixels(image),
        file_digest,
        image.corrections,
        thumbnail(image.pixels, image.low, image.high),
    )


def _is_blank(image: DecodedImage) -> bool:
    """Whether a model sees one value: what lies beyond black and white is cut off."""
    extremes = np.stack([image.pixels.min(keepdims=True), image.pixels.max(keepdims=True)])
    seen = replace(image, pixels=extremes).unit()
    return bool(seen.min() == seen.max())


def _digest_pixels(image: DecodedImage) -> bytes:
    """Hash shape and values, a block of rows at a time."""
    pixels = image.pixels[..., :1] if image.stored.endswith("(gray)") else image.pixels
    kind = _narrowest(pixels)
    digest = blake2b(str(pixels.shape).encode(), digest_size=16)
    step = max(1, BLOCK // max(1, pixels[0].size))
    for start in range(0, len(pixels), step):
        digest.update(pixels[start : start + step].astype(kind).tobytes())
    return digest.digest()


def _narrowest(pixels: np.ndarray) -> str:
    """Choose a type by the values alone, so that equal values have equal bytes whatever type they are stored in."""
    whole = pixels.dtype.kind in "ui" or bool((pixels == np.rint(pixels)).all())
    for kind, limit in (("u1", 1 << 8), ("<u2", 1 << 16)):
        if whole and pixels.min() >= 0 and pixels.max() < limit:
            return kind
    return "<f4"
