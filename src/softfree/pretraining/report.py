"""The report of a pretraining: its loss and, if requested, reconstructed images."""

from __future__ import annotations

import io
from base64 import b64encode
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from torch import Tensor

from softfree.data.dataset import SampleDataset
from softfree.data.modalities.registry import preprocessing_from_config
from softfree.evaluation import plots
from softfree.pretraining.masked_autoencoder import MaskedAutoencoder
from softfree_runtime.core.files import write_atomically

SHOWN = 6  # images in the report
_SIDE = 256  # pixels of each
_CSS = Path(plots.__file__).parents[1] / "templates"


class Reconstructed(NamedTuple):
    """An image, its visible patches, and its reconstruction, as PNGs."""

    image: bytes
    visible: bytes
    filled: bytes


def write_pretraining_report(
    path: Path,
    config: dict[str, Any],
    model: MaskedAutoencoder,
    dataset: SampleDataset,
    history: pd.DataFrame,
    *,
    show_images: bool,
) -> None:
    """Write ``report.html``, a single self-contained file."""
    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent / "templates", _CSS]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["png"] = lambda png: f"data:image/png;base64,{b64encode(png).decode()}"
    losses = history["train_loss"].dropna()
    page = environment.get_template("pretraining.html.j2").render(
        config=config,
        options=config["options"],
        rows=config["pretraining"]["rows"],
        preprocessing=preprocessing_from_config(config["preprocessing"]).in_words(),
        unreadable=len(dataset.failed),
        first=f"{losses.iloc[0]:.3f}",
        last=f"{losses.iloc[-1]:.3f}",
        epochs=len(losses),
        curve=Markup(plots.svg(plots.learning_curves(history), "Loss by epoch")),
        reconstructions=reconstruct(model, dataset) if show_images else [],
    )
    write_atomically(path, page)


def reconstruct(model: MaskedAutoencoder, dataset: SampleDataset) -> list[Reconstructed]:
    """Reconstruct the first readable images; in three dimensions the middle slice is shown."""
    chosen = [index for index in range(len(dataset)) if index not in dataset.failed][:SHOWN]
    device = next(model.parameters()).device
    model.eval()
    shown = []
    for index in chosen:
        torch.manual_seed(index)
        image = dataset[index]["image"][None].to(device)
        with torch.no_grad():
            reconstruction = model(image)
            patches = model.patchify(image)
            mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True, unbiased=False)
            # Predicted patches are normalized; their mean and standard deviation are restored for display.
            predicted = reconstruction.patches.float() * (variance + 1e-6).sqrt() + mean
            hidden = reconstruction.hidden.unsqueeze(-1)
            sides = tuple(image.shape[2:])
            visible = model.unpatchify(torch.where(hidden, torch.zeros_like(patches), patches), sides)
            filled = model.unpatchify(torch.where(hidden, predicted, patches), sides)
        low, high = float(image.min()), float(image.max())
        shown.append(Reconstructed(*(_png(pixels[0].cpu(), low, high) for pixels in (image, visible, filled))))
    return shown


def _png(image: Tensor, low: float, high: float) -> bytes:
    """Draw (C, H, W), or the middle slice of (C, D, H, W), with the same gray scale for all images of a sample."""
    if image.ndim == 4:
        image = image[:, image.shape[1] // 2]
    unit = ((image - low) / max(high - low, 1e-6)).clamp(0, 1).permute(1, 2, 0).numpy()
    pixels = (unit * 255).round().astype(np.uint8)
    drawn = Image.fromarray(pixels[..., 0] if pixels.shape[-1] != 3 else pixels)
    drawn.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG")
    return buffer.getvalue()
