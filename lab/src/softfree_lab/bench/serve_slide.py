"""A computed slide of any size, and a run with random weights that takes slides, for ``softfree-lab bench serve``."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
import torch
from numpy.random import default_rng
from PIL import Image

from softfree.data.modalities.registry import preprocessing_to_config
from softfree.data.modalities.slide import SlidePreprocessing
from softfree.inference.run_directory import RunDirectory
from softfree.models.registry import build_model

TILE = 256
_MPP = 0.25  # micrometers per pixel of the finest level
_STEP = 4  # between levels
_KINDS = 32  # different tiles


def write_slide(path: Path, side: int) -> Path:
    """Write a pyramid of tiles, JPEG in TIFF; the same few tiles are used again and again, so that the file is small.

    Args:
        path: The file.
        side: Of the finest level, in pixels.
    """
    tiles = [_tile(number) for number in range(_KINDS)]
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        factor = 1
        while side // factor >= TILE:
            sides = side // factor
            per_centimeter = 1e4 / (_MPP * factor)
            file.write(
                _encoded(tiles, math.ceil(sides / TILE) ** 2),
                shape=(sides, sides, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                resolution=(per_centimeter, per_centimeter),
                resolutionunit="CENTIMETER",
                subfiletype=int(factor > 1),
                metadata=None,
            )
            factor *= _STEP
    return path


def _tile(number: int) -> bytes:
    """Encode one tile: purple nuclei on pink, as stained tissue looks from afar."""
    rng = default_rng(number)
    rows, columns = np.mgrid[:TILE, :TILE]
    pixels = np.full((TILE, TILE, 3), (235, 190, 215), np.uint8)
    for x, y, radius in zip(rng.uniform(0, TILE, 40), rng.uniform(0, TILE, 40), rng.uniform(3, 9, 40), strict=True):
        pixels[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = (110, 60, 140)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "jpeg", quality=80, subsampling="4:2:0")
    return encoded.getvalue()


def _encoded(tiles: list[bytes], count: int) -> Iterator[bytes]:
    for number in range(count):
        yield tiles[number * 2654435761 % 2**32 % len(tiles)]  # without a pattern of rows


def write_slide_run(folder: Path, mpp: float) -> Path:
    """Write a run with random weights that takes slides at ``mpp`` micrometers per pixel."""
    preprocessing = SlidePreprocessing.create(mpp, tissue=False)
    config = {
        "task": {"kind": "binary", "classes": ["without", "with"]},
        "preprocessing": preprocessing_to_config(preprocessing),
        "model": {"name": "seqnorm_vit_nano_patch16", "num_classes": 2, **preprocessing.model_arguments(), "depth": 2},
        "options": {},
    }
    folder.mkdir()
    torch.manual_seed(0)
    RunDirectory(folder).write_config(config)
    RunDirectory(folder).write_weights(build_model(config).state_dict())
    return folder
