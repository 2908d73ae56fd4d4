"""Does SOFT's iteration reach the pseudo-inverse: the residual after each step, layer by layer, in each precision.

SOFT's figure 5 (Lu et al. 2021, arXiv:2110.11945) on images of one's own: ``||A X_k A - A|| / ||A||`` of the matrices
between landmarks as a model makes them. Matrices and all arithmetic of the iteration are in the precision named, the
residual is measured in float64. The product itself iterates in float32 whatever the model's precision.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from softfree.attention import SoftAttention
from softfree.attention.soft.pseudoinverse import residual, start, step, to_unit_norm
from softfree.core.environment import describe_machine
from softfree.core.precision import DTYPES
from softfree.core.progress import tracked
from softfree.data.inputs import find_inputs
from softfree.data.modalities.image import ImagePreprocessing
from softfree.inference.run import Run
from softfree.models import create_model
from softfree_lab.records import markdown_table, write_csv, write_machine
from softfree_lab.studies.options import ConvergenceOptions
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.files import replacing, write_atomically
from softfree_runtime.readers import DecodedImage, read_image
from softfree_runtime.sources.sample_source import file_of

TITLES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def study_convergence(options: ConvergenceOptions, images: Sequence[str]) -> str:
    """Measure the residual of SOFT's pseudo-inverse after each iteration, in each layer and precision.

    Writes ``convergence.csv`` (one row per layer, precision and iteration: residual with its median and the tenth and
    ninetieth percentiles over images and heads, and the share of matrices that are not finite), ``convergence.md``,
    ``convergence.png`` and ``machine.json`` into ``options.out``.

    Args:
        options: The model or run, precisions, iterations.
        images: Files, folders or tables.

    Returns:
        The last iteration as Markdown.

    Raises:
        UserError: A model without SOFT attention, or no image that can be read.
    """
    model, preprocessing = _model(options)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, SoftAttention)}
    if not layers:
        raise UserError("this model has no SOFT attention: name one such as soft_vit_nano_patch16 or soft_tiny")
    collected: dict[str, list[Tensor]] = {name: [] for name in layers}
    for pixels in _read(images, preprocessing, options):
        with torch.inference_mode(), _collecting(layers, collected):
            model(pixels)
    rows = []
    for name, batches in collected.items():
        matrices = torch.cat([batch.flatten(0, -3) for batch in batches])  # (images x heads, m, m)
        for precision in options.precision:
            rows += _rows(name, precision, matrices, options.iterations)
    table = pd.DataFrame(rows)
    text = to_markdown(table)
    write_csv(options.out / "convergence.csv", table)
    write_atomically(options.out / "convergence.md", f"{text}\n{describe_machine()}\n")
    write_machine(options.out)
    _plot(options.out / "convergence.png", table)
    return text


def to_markdown(table: pd.DataFrame) -> str:
    """Lay out the last iteration, one row per layer and precision."""
    last = table[table["iteration"] == table["iteration"].max()]
    rows = []
    for row in last.to_dict("records"):
        spread = f"{row['residual']:.1e} [{row['low']:.1e}, {row['high']:.1e}]"
        rows.append((row["layer"], row["landmarks"], row["precision"], spread, f"{row['not_finite']:.0%}"))
    title = f"Residual after {int(last['iteration'].iloc[0])} iterations: median [10th, 90th percentile]"
    return f"{title}\n\n{markdown_table(('layer', 'landmarks', 'precision', 'residual', 'not finite'), rows)}"


def _model(options: ConvergenceOptions) -> tuple[nn.Module, ImagePreprocessing]:
    if options.run is not None:
        run = Run.load(options.run)
        return run.model, run.image_preprocessing
    preprocessing = ImagePreprocessing.create(options.preset, options.size, options.resize_mode)
    torch.manual_seed(options.seed)
    model = create_model(options.model, img_size=options.size, in_chans=preprocessing.channels, num_classes=2)
    return model.eval(), preprocessing


def _read(images: Sequence[str], preprocessing: ImagePreprocessing, options: ConvergenceOptions) -> Iterator[Tensor]:
    inputs = find_inputs(list(images), None)[: options.count]
    unreadable = 0
    for _, source, frame in tracked(inputs, "Measuring", shown=options.progress):
        try:
            image = source if isinstance(source, DecodedImage) else read_image(file_of(source).path, frame=frame)
        except ReadError:
            unreadable += 1
            continue
        yield torch.from_numpy(preprocessing(image)).unsqueeze(0)
    if unreadable == len(inputs):
        raise UserError(f"none of {len(inputs)} images can be read; see: softfree check")
    if unreadable:
        print(f"{unreadable} of {len(inputs)} images cannot be read", file=sys.stderr)


@contextmanager
def _collecting(layers: dict[str, SoftAttention], collected: dict[str, list[Tensor]]) -> Iterator[None]:
    """Collect the matrices that each layer inverts, including the ridge."""

    def replace_invert(name: str, layer: SoftAttention) -> None:
        original = layer.invert

        def invert(between: Tensor) -> Any:
            unit = torch.eye(between.shape[-1], dtype=between.dtype)
            collected[name].append((between + layer.ridge * unit).cpu())
            return original(between)

        layer.invert = invert  # type: ignore[method-assign]

    for name, layer in layers.items():
        replace_invert(name, layer)
    try:
        yield
    finally:
        for layer in layers.values():
            del layer.invert


def _rows(name: str, precision: str, matrices: Tensor, iterations: int) -> list[dict[str, Any]]:
    scaled, _ = to_unit_norm(matrices.to(DTYPES[precision]))
    x, exact = start(scaled), scaled.double()
    rows = []
    for number in range(iterations + 1):
        residuals = residual(exact, x.double())
        finite = residuals[residuals.isfinite()]
        quantiles = (
            torch.quantile(finite, finite.new_tensor([0.5, 0.1, 0.9])).tolist() if len(finite) else [float("nan")] * 3
        )
        rows.append(
            {
                "layer": name,
                "landmarks": matrices.shape[-1],
                "precision": precision,
                "iteration": number,
                "residual": quantiles[0],
                "low": quantiles[1],
                "high": quantiles[2],
                "not_finite": 1 - len(finite) / len(residuals),
            }
        )
        x = step(scaled, x)
    return rows


def _plot(path: Path, table: pd.DataFrame) -> None:
    """Plot one panel per precision, one line per layer from the first (pale) to the last."""
    precisions = list(dict.fromkeys(table["precision"]))
    layers = list(dict.fromkeys(table["layer"]))
    colors = mpl.colormaps["viridis_r"]
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(1 + 3.6 * len(precisions), 3.8), layout="constrained")
        for axes, precision in zip(
            figure.subplots(1, len(precisions), sharey=True, squeeze=False)[0], precisions, strict=True
        ):
            for number, layer in enumerate(layers):
                rows = table[(table["layer"] == layer) & (table["precision"] == precision)]
                color = colors(0.15 + 0.85 * number / max(1, len(layers) - 1))
                axes.plot(rows["iteration"], rows["residual"], color=color, label=layer)
                axes.fill_between(rows["iteration"], rows["low"], rows["high"], color=color, alpha=0.12, linewidth=0)
            axes.set(yscale="log", title=TITLES[precision], xlabel="iteration")
            axes.grid(axis="y", color="0.92")
        figure.axes[0].set_ylabel("‖A X A − A‖ / ‖A‖")
        lines, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside right upper", frameon=False, fontsize=8)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150)
