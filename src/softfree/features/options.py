"""Options of feature extraction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from softfree.core.options import BulkOptions, Precision


@dataclass(kw_only=True)
class FeatureOptions(BulkOptions):
    """Feature extraction.

    Attributes:
        encoder: A timm model, such as vit_small_patch16_224; 'hf-hub:owner/name'; a run or study of softfree; or
            'pixels' for simple color statistics without weights.
        out: Folder for the features: one file per slide and their table, or results.parquet with a row per image or
            volume; the same command goes on there after an interruption.
        kind: What the inputs are: 'slide', whose tiles are encoded, 'image' or 'volume'; default: as the first input
            looks, or what the run was trained on if that is not images.
        frame: Frame of multi-frame files, counted from 0; default: the first.
        weights: Weights of a timm model: a safetensors file.
        image_root: Folder that relative paths start from and that must contain all files; default: the table's folder.
        mpp: Resolution at which tiles are read, in micrometers per pixel.
        side: Side in pixels of a tile, or of the square that an image or slice is scaled to.
        step: Distance between tiles in pixels; default: side, so that tiles do not overlap.
        tissue: Encode only tiles with tissue.
        share: Minimum fraction of a tile that must be tissue.
        batch_size: Tiles, images or volumes per batch; default: 64, of volumes 4.
        num_workers: Number of further processes that read, for each that encodes.
        precision: Arithmetic of the encoder; with bf16 or fp16, features are stored as float16.
        progress: Show progress bars.
    """

    encoder: str
    out: Path
    kind: Literal["slide", "image", "volume"] | None = None
    frame: int | None = None
    weights: Path | None = None
    image_root: Path | None = None
    mpp: float = 0.5
    side: int = 224
    step: int | None = None
    tissue: bool = True
    share: float = 0.25
    batch_size: int | None = None
    num_workers: int = 0
    precision: Precision = "fp32"
    progress: bool = True
