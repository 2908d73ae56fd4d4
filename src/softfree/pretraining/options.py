"""Options of pretraining on images without labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from softfree.core.options import ImageOptions, Precision, VolumeOptions


@dataclass(kw_only=True)
class MaskedOptions:
    """Masked autoencoder.

    Attributes:
        image_root: Folder that relative paths start from; default: the table's folder.
        seed: Seed of the weights, the order, the augmentation and the masks.
        model: A name listed by 'softfree models', with _vit_ or _vit3d_ in it.
        stem: 'pool' (a few 3 x 3 convolutions with max pooling between them), 'conv' (strided convolutions) or 'patch'
            (one linear projection per patch).
        model_options: Further arguments of the model, e.g. '{depth: 6}'.
        attention_options: Arguments of the attention.
        mask_ratio: Fraction of the patches that are masked.
        decoder_dim: Width of the decoder, which is discarded afterwards.
        decoder_depth: Number of blocks of the decoder.
        epochs: Number of passes over the images.
        batch_size: Images per batch, over all devices together.
        grad_accum: Number of batches whose gradients are accumulated before the weights are updated.
        lr: Peak learning rate.
        weight_decay: Weight decay of matrices.
        warmup_fraction: Fraction of all steps over which the learning rate rises.
        grad_clip: Maximum norm of the gradient; 0 for no clipping.
        augment: Augment the images as the preset does.
        precision: Arithmetic of matrix products.
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

    # Options of a training run that pretraining does not have.
    ema = patience = mpp = split_from = None


@dataclass(kw_only=True)
class PretrainRunOptions:
    """Run.

    Attributes:
        out: Run directory to create.
        show_images: Show reconstructions in the report (contains patient pixels).
        accelerator: 'auto', 'cpu', 'gpu' or 'mps'.
        devices: Number of devices per machine, or 'auto'.
        nodes: Number of machines.
        strategy: How devices share the work, by Lightning's name: 'auto' or 'ddp'.
        logger: Where curves are logged, besides CSV: 'tensorboard', 'mlflow', 'wandb', a list of them, or 'csv' for
            nothing else. No paths, names or ids are sent.
        progress: Show progress bars.
    """

    out: Path = Path("pretrained")
    show_images: bool = False
    accelerator: str = "auto"
    devices: int | str = 1
    nodes: int = 1
    strategy: str = "auto"
    logger: list[str] | str = field(default_factory=lambda: ["tensorboard"])
    progress: bool = True


@dataclass(kw_only=True)
class PretrainOptions(ImageOptions, VolumeOptions, MaskedOptions, PretrainRunOptions):
    """All options of pretraining.

    Attributes:
        table: CSV or Parquet file with a column path, or a folder of images.
        fold_file: Folds of a cross-validation (folds.json, as softfree auto writes it), used in place of any split.
        fold: Number of the fold whose images are left out, from 1.
        repeat: Number of the draw of folds, from 1.
    """

    table: Path
    fold_file: Path | None = None
    fold: int | None = None
    repeat: int = 1
