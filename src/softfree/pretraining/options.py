"""Training an encoder on images without labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from softfree.training.options import ImageOptions, Precision, VolumeOptions


@dataclass(kw_only=True)
class MaskedOptions:
    """Masked-image pretraining: the model sees a part of each image and fills in the rest; no labels are used.

    Attributes:
        image_root: Folder that the table's paths start from; default: the table's folder.
        seed: Seed of weights, order, augmentation and of what is hidden.
        model: A name of `softfree models`, of images or volumes.
        stem: 'pool' (a few 3 x 3 convolutions with maxima between them), 'conv' (with strides instead) or 'patch' (one
            projection a patch).
        model_options: Further arguments of the model, e.g. '{depth: 6}'.
        attention_options: Arguments of the attention.
        mask_ratio: Share of the patches that are hidden.
        decoder_dim: Width of the decoder, which is thrown away afterwards.
        decoder_depth: Its number of blocks.
        epochs: Passes over the images.
        batch_size: Images a step, over all devices together.
        grad_accum: Steps whose gradients are added up before the weights change.
        lr: Highest learning rate.
        weight_decay: Decay of weight matrices.
        warmup_fraction: Fraction of all steps over which the learning rate rises.
        grad_clip: Largest norm of the gradient; 0 for none.
        augment: Random changes of the images, those of the preset.
        precision: Arithmetic of matrix products: 'fp32', 'bf16' or 'fp16'.
    """

    image_root: Path | None = None
    seed: int = 0
    model: str = "seqnorm_vit_tiny_patch16"
    stem: Literal["patch", "conv", "pool"] = "pool"
    model_options: dict[str, Any] = field(default_factory=dict)
    attention_options: dict[str, Any] = field(default_factory=dict)
    mask_ratio: float = 0.75
    decoder_dim: int = 128
    decoder_depth: int = 2
    epochs: int = 200
    batch_size: int = 16
    grad_accum: int = 1
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_fraction: float = 0.1
    grad_clip: float = 1.0
    augment: bool = True
    precision: Precision = "fp32"

    # What a training can be told and a pretraining cannot.
    ema = patience = mpp = None


@dataclass(kw_only=True)
class PretrainRunOptions:
    """Where it runs and what it leaves.

    Attributes:
        out: The run directory, made new.
        show_images: Show reconstructions in the report (pixels of patients leave the data folder).
        accelerator: 'auto', 'cpu', 'gpu', 'mps'.
        devices: Number of devices on a machine.
        nodes: Number of machines.
        strategy: Lightning's name for how devices share the work: 'auto', 'ddp'.
        progress: Show progress bars.
    """

    out: Path = Path("pretrained")
    show_images: bool = False
    accelerator: str = "auto"
    devices: int | str = 1
    nodes: int = 1
    strategy: str = "auto"
    progress: bool = True


@dataclass(kw_only=True)
class PretrainOptions(ImageOptions, VolumeOptions, MaskedOptions, PretrainRunOptions):
    """All options of a pretraining; see the classes that it joins.

    Attributes:
        table: CSV or Parquet file with a column path, or a folder of images.
    """

    table: Path
