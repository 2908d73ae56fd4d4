"""The main job, end to end, on computed images: why resolution matters, and what softfree makes of it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from softfree.core.options import TrainOptions
from softfree.demo.options import DemoOptions
from softfree.demo.phantoms import CLASSES, NOTICE, write_phantoms
from softfree.evaluation.metrics import Metric, measure
from softfree.evaluation.report import Thumbnail
from softfree.inference.run import Run
from softfree.reporting.evaluate import write_results
from softfree.reporting.options import EvaluateOptions
from softfree.reporting.scoring import open_table, scores_of
from softfree.saliency.captions import method_title, prediction_text
from softfree.saliency.maps import explain_tensor
from softfree.saliency.overlay import Layer, draw_overlay
from softfree.training.loop import train
from softfree_runtime.core.errors import UserError
from softfree_runtime.readers import read_image

FULL, REDUCED = 512, 224
console = Console()


def demo(options: DemoOptions) -> None:
    """Write phantoms, train at full size and at 224 x 224, measure both, draw the report and a map of each class."""
    if options.out.exists() and any(options.out.iterdir() if options.out.is_dir() else [options.out]):
        raise UserError(f"--out {options.out} is there already; delete it or choose another folder")
    started = time.monotonic()
    console.print(f"[bold]{NOTICE}[/] They stand in for radiographs with micro-calcifications of 2 to 4 pixels.")
    table = write_phantoms(options.out / "images", size=FULL, seed=options.seed)
    runs = {}
    for side, name in ((FULL, "full"), (REDUCED, "reduced")):
        console.print(f"Training a SeqNorm transformer on images of {side} x {side} pixels")
        runs[side] = train(recipe(table, options, side, options.out / name), notice=NOTICE).run
    reduced = _auroc(runs[REDUCED])
    run = runs[FULL]
    maps = _draw_maps(run, options.out / "maps")
    frame = run.directory.read_predictions()
    result = write_results(
        run,
        open_table(run),
        frame[frame["split"] == "test"],
        EvaluateOptions(split="test"),
        maps=maps,
        other_aurocs={f"reduced to {REDUCED} x {REDUCED}": reduced},
    )
    _say(result.report, options.out / "maps", result.metrics["auroc"], reduced, time.monotonic() - started)


def recipe(table: Path, options: DemoOptions, side: int, out: Path) -> TrainOptions:
    """Return the options of a training on the phantoms at a side in pixels."""
    return TrainOptions(
        table=table,
        out=out,
        positive=CLASSES[1],
        model="seqnorm_vit_nano_patch32",
        model_options={"depth": 3},
        preset="radiograph",
        size=side,
        epochs=4,
        batch_size=8,
        lr=1e-3,
        augment=False,  # turning an image by a few degrees blurs what is two pixels wide
        seed=options.seed,
        progress=options.progress,
        accelerator="cpu",
    )


def _auroc(run: Run) -> Metric:
    frame = run.directory.read_predictions()
    return measure(scores_of(frame[frame["split"] == "test"], run), run.calibration.thresholds)["auroc"]


def _draw_maps(run: Run, folder: Path) -> list[Thumbnail]:
    """A map for the test image of each class that the model is surest of."""
    folder.mkdir()
    table = open_table(run).where("test").frame
    frame = run.directory.read_predictions().set_index("row").loc[table["row"]]
    maps = []
    for index, name in enumerate(run.task.classes):
        sure = np.where(frame["target"] == index, frame[f"p_{name}"], -1.0)
        image = read_image(table["file"].iloc[int(sure.argmax())])
        found = explain_tensor(run, torch.from_numpy(run.image_preprocessing(image)), target=index)
        path = folder / f"{name}.png"
        layer = Layer(found.values, method_title(found), found.signed)
        caption = f"One value per patch. {NOTICE}"
        draw_overlay(path, image.unit()[..., 0], [layer], title=prediction_text(run, found), caption=caption)
        maps.append(Thumbnail(path.read_bytes(), f"Evidence for and against “{name}” in one {name} phantom."))
    return maps


def _say(report: Path, maps: Path, full: Metric, reduced: Metric, seconds: float) -> None:
    def words(metric: Metric) -> str:
        return f"AUROC {metric.value:.3f} (95 % interval {metric.low:.3f} to {metric.high:.3f})"

    console.print()
    console.print(f"{f'At {FULL} x {FULL} pixels:':26}{words(full)}", highlight=False)
    console.print(f"{f'Reduced to {REDUCED} x {REDUCED}:':26}{words(reduced)}", highlight=False)
    console.print(f"Report: {report}   Maps: {maps}   ({seconds:.0f} s)", highlight=False, markup=False)
    console.print()
    console.print("With your own images (a CSV with the columns path and label):", highlight=False)
    console.print("  softfree check table.csv", highlight=False)
    console.print("  softfree train table.csv --out run --preset radiograph --size 512", highlight=False)
    console.print("  softfree predict run FILES", highlight=False)
