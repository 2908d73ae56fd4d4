"""Features of the tiles of whole slides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from softfree.training.options import Precision


@dataclass(kw_only=True)
class FeatureOptions:
    """Whole slides cut into tiles, each tile encoded, the features kept in a folder.

    Attributes:
        encoder: A timm model, such as vit_small_patch16_224; 'hf-hub:owner/name'; a run directory of softfree; or
            'pixels' for plain color statistics, which need no weights.
        out: Folder for the features, one file a slide, and their table; a run that was stopped goes on there.
        weights: Weights of a timm model: a .safetensors file.
        image_root: Folder that the table's paths start from and must lie in; default: the table's folder.
        mpp: Micrometers per pixel at which tiles are read.
        side: Side of a tile in pixels.
        step: Pixels from one tile to the next; default: side, without overlap.
        tissue: Take only tiles with tissue.
        share: Least part of a tile that must be tissue.
        batch_size: Tiles at once.
        num_workers: Processes that read tiles.
        shard: This machine's part of the slides, such as 0/4, 1/4, 2/4 and 3/4 for four machines with one folder.
        precision: Arithmetic of the encoder; with bf16 or fp16, features are stored with 16 bits.
        progress: Show progress bars.
    """

    encoder: str
    out: Path
    weights: Path | None = None
    image_root: Path | None = None
    mpp: float = 0.5
    side: int = 224
    step: int | None = None
    tissue: bool = True
    share: float = 0.25
    batch_size: int = 64
    num_workers: int = 0
    shard: str | None = None
    precision: Precision = "fp32"
    progress: bool = True
