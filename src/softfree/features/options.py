"""Options of feature extraction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from softfree.core.options import Precision


@dataclass(kw_only=True)
class FeatureOptions:
    """Feature extraction.

    Attributes:
        encoder: A timm model, such as vit_small_patch16_224; 'hf-hub:owner/name'; a run directory of softfree; or
            'pixels' for simple color statistics without weights.
        out: Folder for the features, one file per slide, and their table; an interrupted extraction resumes there.
        weights: Weights of a timm model: a safetensors file.
        image_root: Folder that relative paths start from and that must contain all files; default: the table's folder.
        mpp: Resolution at which tiles are read, in micrometers per pixel.
        side: Side of a tile in pixels.
        step: Distance between tiles in pixels; default: side, so that tiles do not overlap.
        tissue: Encode only tiles with tissue.
        share: Minimum fraction of a tile that must be tissue.
        batch_size: Tiles per batch.
        num_workers: Number of processes that read tiles.
        shard: This machine's share of the slides: 0/4, 1/4, 2/4 or 3/4 for four machines that share a folder.
        precision: Arithmetic of the encoder; with bf16 or fp16, features are stored as float16.
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
