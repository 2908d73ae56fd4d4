"""Tile encoders: a timm model, a run or study of softfree, or plain color statistics."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import timm
import torch
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional as F

from softfree.data.modalities.image import ImagePreprocessing
from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree.models.weights.files import read_file
from softfree_runtime.core.errors import UserError, unknown_name
from softfree_runtime.readers.image import DecodedImage

HUB = ("hf-hub:", "hf_hub:")


class TileEncoder(Protocol):
    """Encodes tiles.

    Attributes:
        name: Name stored in the files; with the digest it identifies the encoder.
        digest: SHA-256 of the weights; empty without weights.
        module: Maps prepared tiles (B, ...) to features (B, F).
    """

    name: str
    digest: str
    module: nn.Module

    def prepare(self, tile: np.ndarray) -> Tensor:
        """Convert one tile, uint8 (side, side, 3), to the input of ``module``, without the batch axis."""
        ...


class PixelStatistics(nn.Module):
    """Mean and standard deviation of each channel, then mean colors of a 4 x 4 grid: (B, 3, H, W) to (B, 54)."""

    def forward(self, tiles: Tensor) -> Tensor:
        """Compute the statistics."""
        cells = F.adaptive_avg_pool2d(tiles, 4).flatten(1)
        return torch.cat([tiles.mean((2, 3)), tiles.std((2, 3), correction=0), cells], dim=1)


class PixelEncoder:
    """Color statistics of tiles with values in [0, 1]: a baseline that needs no weights."""

    def __init__(self) -> None:
        self.name, self.digest = "pixels", ""
        self.module: nn.Module = PixelStatistics()

    def prepare(self, tile: np.ndarray) -> Tensor:
        """Scale to [0, 1], float32 (3, H, W)."""
        return _unit(tile)

    def normalize(self, unit: Tensor) -> Tensor:
        """Leave values in [0, 1] as they are."""
        return unit


class TimmEncoder:
    """A timm model without its classifier.

    Args:
        name: A timm name, or ``hf-hub:owner/name``, whose weights timm downloads.
        weights: Safetensors file with its weights; required for a timm name.
        side: Side of the tiles in pixels.
    """

    def __init__(self, name: str, weights: Path | None, side: int) -> None:
        self.name = name
        hub = name.startswith(HUB)
        if weights is None and not hub:
            raise UserError(
                f"--encoder {name} needs its weights: add --weights FILE.safetensors, or use hf-hub:owner/name"
                " to download them"
            )
        model = _create(name, side, pretrained=hub and weights is None)
        if weights is not None:
            _load(model, weights)
        self.digest = _digest_of_file(weights) if weights is not None else _digest(model)
        self.module: nn.Module = model
        config = resolve_model_data_config(model)
        self._mean, self._std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))

    def prepare(self, tile: np.ndarray) -> Tensor:
        """Normalize as in the model's training, float32 (3, H, W)."""
        return self.normalize(_unit(tile))

    def normalize(self, unit: Tensor) -> Tensor:
        """Normalize values in [0, 1], (3, H, W), as in the model's training."""
        return (unit - self._mean) / self._std


class RunEncoder:
    """The model of a run directory without its classifier; of a study those of its members, one after the other.

    Args:
        folder: A run or study trained on images.
    """

    def __init__(self, folder: Path) -> None:
        run = Run.load(folder)
        if not isinstance(run.preprocessing, ImagePreprocessing):
            raise UserError(f"--encoder {folder} was not trained on images; tiles need a run that was")
        self.name: str = run.model_name
        self.digest = run.identity()
        self.module: nn.Module = _Pooled([member.model for member in run.members or (run,)])
        self._preprocessing = run.preprocessing

    def prepare(self, tile: np.ndarray) -> Tensor:
        """Prepare as in training, float32 (C, H, W)."""
        image = DecodedImage(tile, 0.0, 255.0, None, (), "tile")
        return torch.from_numpy(self._preprocessing(image))


class _Pooled(nn.Module):
    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models: Any = nn.ModuleList(models)

    def forward(self, tiles: Tensor) -> Tensor:
        features = [model.forward_head(model.forward_features(tiles), pre_logits=True) for model in self.models]
        return torch.cat(features, dim=1)


def create_encoder(name: str, weights: Path | None = None, side: int = 224) -> TileEncoder:
    """Create the encoder of ``softfree features --encoder NAME``.

    Args:
        name: ``pixels``, a run directory, a timm name, or ``hf-hub:owner/name``.
        weights: Safetensors file for a timm model.
        side: Side of the tiles in pixels.

    Raises:
        UserError: An unknown name, or weights that are missing or belong to another model.
    """
    if name == "pixels" or RunDirectory(name).is_run():
        if weights is not None:
            raise UserError(f"--weights is for timm models; --encoder {name} takes none: leave it out")
        return PixelEncoder() if name == "pixels" else RunEncoder(Path(name))
    if not name.startswith(HUB) and not timm.is_model(name):
        raise unknown_name("--encoder", name, ["pixels", *timm.list_models()])
    return TimmEncoder(name, weights, side)


def _create(name: str, side: int, *, pretrained: bool) -> nn.Module:
    """Create a timm model for tiles of this side; models for any size have no ``img_size``."""
    try:
        try:
            model = timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=side)
        except TypeError:
            model = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # the hub and timm raise many types
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--encoder {name} cannot be created ({reason}); check the name and the connection") from None
    return model.eval()


def _load(model: nn.Module, path: Path) -> None:
    """Load weights, which timm adapts to the model's size; a missing weight is an error, never left random."""
    if path.suffix != ".safetensors" or not path.is_file():
        raise UserError(f"--weights {path}: expected an existing .safetensors file")
    weights: dict[str, Tensor] = read_file(path)
    adapt = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        missing = model.load_state_dict(weights if adapt is None else adapt(weights, model), strict=False).missing_keys
    except RuntimeError as error:
        missing = [str(error).splitlines()[-1].strip()]
    if missing:
        raise UserError(
            f"--weights {path} do not match this encoder: {len(missing)} missing or different, such as {missing[0]}"
        )


def _unit(tile: np.ndarray) -> Tensor:
    """Convert uint8 (H, W, 3) to float32 (3, H, W) in [0, 1]."""
    return torch.from_numpy(tile).permute(2, 0, 1).float() / 255


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(model: nn.Module) -> str:
    """Compute the SHA-256 of a model's weights, sorted by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
