"""Features of whole images and volumes: what a model knows of a sample just before it decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from softfree.data.dataset import SampleDataset
from softfree.data.modalities.base import Preprocessing
from softfree.data.modalities.image import ImagePreprocessing
from softfree.features.encoders import PixelEncoder, TimmEncoder, create_encoder
from softfree.inference.ensemble import Ensemble
from softfree.inference.forward import infer
from softfree.inference.options import InferenceOptions
from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree.models.classifier import HeadedModel
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.readers.image import DecodedImage
from softfree_runtime.sources.inputs import NamedSource
from softfree_runtime.sources.sample_source import SampleSource, file_of
from softfree_runtime.sources.volume_files import read_volume

WINDOW = (0.5, 99.5)  # percentiles of a volume that are black and white
AT_ONCE = 32  # slices


@dataclass(frozen=True)
class Encoded:
    """Features of some samples.

    Attributes:
        features: (n, D) float32, or float16 with 16-bit precision; NaN for samples without.
        failed: Why there are none, by index.
        partial: Why a part of a sample is missing, by index.
    """

    features: np.ndarray
    failed: dict[int, ReadError]
    partial: dict[int, ReadError]


@dataclass(frozen=True, eq=False)
class PooledEncoder:
    """An encoder of whole samples.

    Attributes:
        name: Name of the model.
        width: Number of features D; of an ensemble, of all its members together.
        module: Maps prepared samples (B, ...) to features.
        preprocessing: Of the samples.
    """

    name: str
    width: int
    module: nn.Module
    preprocessing: Preprocessing

    def __call__(self, samples: Sequence[NamedSource], options: InferenceOptions) -> Encoded:
        """Encode samples in batches of equal shape; those that do not fit in memory are streamed."""
        _, sources, frames = zip(*samples, strict=True)
        dataset = SampleDataset(sources, None, self.preprocessing, frames=frames)
        members = len(self.module.members) if isinstance(self.module, Ensemble) else 1
        found = infer(self.module, dataset, self.width // members, options)
        values = found.values if found.members is None else found.members.reshape(len(samples), self.width)
        return Encoded(
            values.astype(np.float32 if options.precision == "fp32" else np.float16), found.failed, found.partial
        )


def open_pooled(name: str, weights: Path | None, side: int, kind: str) -> PooledEncoder:
    """Open an encoder of whole samples.

    Args:
        name: A run or study, a timm name, ``hf-hub:owner/name``, or ``pixels``.
        weights: Safetensors file for a timm model.
        side: Side of the square that images, or slices of a volume, are scaled to; a run has its own.
        kind: Kind of the samples; that of a run is its own. An encoder of images takes a volume slice by slice, and
            its features are the mean over the slices.

    Raises:
        UserError: An unknown name, missing weights, or a run on samples of another kind.
    """
    if not RunDirectory(name).is_run() or weights is not None:
        encoder = create_encoder(name, weights, side)
        assert isinstance(encoder, PixelEncoder | TimmEncoder)
        images = EncoderImages("photo", side, "pad", 3, encoder.normalize)
        with torch.inference_mode():
            features = encoder.module(torch.zeros(1, 3, side, side))
        if features.ndim != 2:
            raise UserError(f"--encoder {name} returns {tuple(features.shape)}, expected one vector; choose another")
        return _for_kind(encoder.name, features.shape[1], encoder.module, images, kind)
    run = Run.load(name)
    models = [headless(member.model, name) for member in run.members or (run,)]
    width = sum(model.num_features for model in models)
    module: nn.Module = models[0] if not run.members else Ensemble(models, [1.0] * len(models))
    if run.preprocessing.kind == kind:
        return PooledEncoder(run.model_name, width, module, run.preprocessing)
    if not isinstance(run.preprocessing, ImagePreprocessing) or run.members:
        raise UserError(f"--encoder {name} was trained on samples of kind {run.preprocessing.kind}, not {kind}")
    return _for_kind(run.model_name, width, module, run.preprocessing, kind)


def headless(model: nn.Module, name: str) -> HeadedModel:
    """Return a classifier that gives its pooled features (B, C) in the place of logits."""
    if not isinstance(model, HeadedModel):
        raise UserError(f"--encoder {name}: its model has no pooled features; choose another run")
    model.reset_classifier(0)
    return model.eval()


def _for_kind(name: str, width: int, module: nn.Module, images: ImagePreprocessing, kind: str) -> PooledEncoder:
    if kind == "image":
        return PooledEncoder(name, width, module, images)
    if kind == "volume":
        return PooledEncoder(name, width, MeanOfSlices(module), Slices(images))  # type: ignore[arg-type]
    raise UserError(f"--encoder {name} takes images; expected --kind image or volume, got {kind}")


@dataclass(frozen=True)
class EncoderImages(ImagePreprocessing):
    """Images as a timm model takes them: gray becomes RGB, the longest side ``size``, the rest padding.

    Attributes:
        normalize: Of values in [0, 1], (3, H, W).
    """

    normalize: Callable[[Tensor], Tensor]

    def _standardize(self, pixels: Tensor) -> Tensor:
        return self.normalize(pixels)


@dataclass(frozen=True)
class Slices:
    """A volume as the images of its slices, from the feet to the head, seen as radiologists do."""

    kind: ClassVar[str] = "volume"
    images: ImagePreprocessing

    def load_sized(self, source: SampleSource, frame: int | None = None) -> tuple[np.ndarray, tuple[int, ...]]:
        """Return the prepared slices, float32 (D, C, H, W), and the size of the volume."""
        volume = read_volume(file_of(source).path, frame)
        voxels = volume.to_float32().mean(axis=0)
        low, high = (float(value) for value in np.percentile(voxels, WINDOW))
        spacing = volume.spacing[1:]
        slices = (
            DecodedImage(np.ascontiguousarray(one[::-1, ::-1, None]), low, high, spacing, (), volume.stored)
            for one in voxels
        )
        return np.stack([self.images(one) for one in slices]), voxels.shape


class MeanOfSlices(nn.Module):
    """The mean over slices of the features of each: (B, D, C, H, W) to (B, F)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, volumes: Tensor) -> Tensor:
        """Encode the slices, some at a time."""
        features = [self.module(some) for some in volumes.flatten(0, 1).split(AT_ONCE)]
        return torch.cat(features).unflatten(0, volumes.shape[:2]).mean(1)
