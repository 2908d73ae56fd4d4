"""``softfree-lab demo slide``: why attention must span a whole slide, on computed slides of any size."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import count, cycle, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn

from softfree.core.environment import describe_machine, versions
from softfree.core.options import OptimizerOptions
from softfree.demo.options import DemoOptions
from softfree.evaluation.delong import auroc
from softfree.evaluation.plots.style import DASHES, INK, RULE, SERIES, styled
from softfree.models import VisionTransformer
from softfree.streaming import Streaming, stream_forward
from softfree.training.optimizer import create_optimizer, create_schedule
from softfree_lab.needles import CLASSES, KINDS, NeedleRows, NeedleSlide
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing, write_atomically

NOTICE = "These slides are phantoms: computed from a seed, not taken of patients."
OUT = Path("softfree-slide-demo")
WITH, WITHOUT = "SeqNorm", "no attention"
SEED_STEP = 10**6  # keeps the seeds of test slides apart from those of training
console = Console()


@dataclass(frozen=True)
class Stage:
    """A stage of training, with its own warm-up and decay of the learning rate.

    Attributes:
        sides: Sides of the slides in pixels, which steps use in turn.
        steps: Number of steps.
        lr: Highest learning rate.
    """

    sides: Sequence[int]
    steps: int
    lr: float


@dataclass(frozen=True)
class Plan:
    """The amount of work of the demo.

    Attributes:
        stages: Stages of training: small slides teach what to look for, then several sizes to ignore the size.
        pixels: Approximate number of pixels of all slides of a step; a step has at least four slides.
        tests: Sides of the test slides in pixels, and numbers of slides.
        streamed: Side from which slides are streamed through the model, band by band.
        shown: Side of the slide in the figure.
    """

    stages: Sequence[Stage] = (Stage((256,), 120, 1.5e-3), Stage((256, 512, 1024), 90, 6e-4))
    pixels: int = 32 * 256**2
    tests: Sequence[tuple[int, int]] = ((256, 200), (512, 200), (1024, 100), (2048, 40))
    streamed: int = 2048
    shown: int = 2048


def demo_slide(options: DemoOptions, plan: Plan | None = None) -> dict[str, Any]:
    """Train a transformer with SeqNorm and one without attention; test both at the sizes of training and beyond.

    Writes ``slides.png`` and ``results.json`` to ``options.out``.

    Args:
        options: Folder, seed and progress.
        plan: Amount of work.

    Returns:
        The content of ``results.json``.

    Raises:
        UserError: The folder already exists.
    """
    plan = plan or Plan()
    if options.out.exists() and any(options.out.iterdir() if options.out.is_dir() else [options.out]):
        raise UserError(f"--out {options.out} already exists; delete it or choose another folder")
    started, worked = time.monotonic(), time.process_time()
    console.print(f"[bold]{NOTICE}[/]")
    console.print("Each has two specks of ink, at least half a side apart: do they have the same color?")
    curves, rows = {}, []
    for name in (WITH, WITHOUT):
        sides = [side for stage in plan.stages for side in stage.sides]
        console.print(f"Training on slides of {min(sides)} to {max(sides)} pixels per side: {name}")
        torch.manual_seed(options.seed)
        model = make_model(attention=name == WITH)
        curves[name] = train(model, plan, options)
        rows += [{"model": name} | measure(model, side, number, plan, options) for side, number in plan.tests]
    result = {
        "notice": NOTICE,
        "seed": options.seed,
        "plan": asdict(plan),
        "auroc": rows,
        "loss": curves,
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - worked, 1),
        "machine": describe_machine(),
        "versions": versions(),
    }
    write_atomically(options.out / "results.json", json.dumps(result, indent=2))
    with replacing(options.out / "slides.png") as temporary:
        _draw(NeedleSlide(options.seed, plan.shown), curves, rows).savefig(temporary, dpi=150, facecolor="white")
    _print(options.out, rows, time.monotonic() - started)
    return result


def make_model(attention: bool = True) -> VisionTransformer:
    """Create the transformer of the demo: patches of 16 pixels, no position encoding, for slides of any size.

    Its tokens are weighted by a learned importance, so that the marks count however much tissue there is. Without
    attention, the output of the attentions is frozen at zero, so that each token passes through the layers by
    itself, and the scores of all are averaged: the norm after the pooling, which is not linear, is omitted, too.
    """
    shape: dict[str, Any] = {
        "patch_size": 16,
        "num_classes": 1,
        "embed_dim": 32,
        "depth": 2,
        "num_heads": 4,
        "pos": "none",
    }
    model = VisionTransformer(**shape, attention_options={"importance": 4.0} if attention else {})
    if not attention:
        model.fc_norm = nn.Identity()
        for block in model.blocks:
            for parameter in block.attn.proj.parameters():  # type: ignore[union-attr]
                nn.init.zeros_(parameter).requires_grad_(False)
    return model


def train(model: VisionTransformer, plan: Plan, options: DemoOptions) -> list[float]:
    """Train in stages, and return the loss of each step."""
    losses: list[float] = []
    seeds = count(options.seed * SEED_STEP)
    with Progress(console=console, disable=not options.progress, transient=True) as bar:
        task = bar.add_task("training", total=sum(stage.steps for stage in plan.stages))
        for stage in plan.stages:
            recipe = OptimizerOptions(lr=stage.lr, weight_decay=0.0, warmup_fraction=0.3)
            optimizer = create_optimizer(model, recipe)
            schedule = create_schedule(optimizer, stage.steps, recipe.warmup_fraction)
            for side in islice(cycle(stage.sides), stage.steps):
                slides = _in_all_colorings(islice(seeds, max(1, plan.pixels // side**2 // 4)), side)
                loss = F.binary_cross_entropy_with_logits(model(_read(slides))[:, 0], _labels(slides))
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
                bar.advance(task)
    return losses


def _in_all_colorings(seeds: Iterable[int], side: int) -> list[NeedleSlide]:
    """Create slides in all four colorings of their marks.

    The effects of tissue and positions on the logit cancel between them, so the gradient is about the pair: with single
    slides the same training finds nothing in the same time.
    """
    return [NeedleSlide(seed, side, kinds=kinds) for seed in seeds for kinds in product(KINDS, repeat=2)]


@torch.inference_mode()
def measure(model: VisionTransformer, side: int, number: int, plan: Plan, options: DemoOptions) -> dict[str, Any]:
    """Measure the AUROC on ``number`` new slides, half of each class."""
    model.eval()
    first = (options.seed + 1) * SEED_STEP - side  # different slides at each side
    colorings = islice(cycle(product(KINDS, repeat=2)), number)
    slides = [NeedleSlide(first - at, side, kinds=kinds) for at, kinds in enumerate(colorings)]
    logits = []
    with Progress(console=console, disable=not options.progress, transient=True) as bar:
        for slide in bar.track(slides, description=f"testing at {side}"):
            logits.append(_logit(model, slide, side >= plan.streamed))
    estimate = auroc(_labels(slides).numpy(), np.array(logits))
    tokens = (-(-side // model.patch_size)) ** 2
    area = {"auroc": round(estimate.value, 4), "low": round(estimate.low, 4), "high": round(estimate.high, 4)}
    return {"side": side, "tokens": tokens, "slides": number, **area}


def _logit(model: VisionTransformer, slide: NeedleSlide, stream: bool) -> float:
    if stream:
        return stream_forward(model, NeedleRows(slide, _prepare), Streaming(chunk=16384)).item()
    return model(_read([slide])).item()


def _prepare(pixels: Tensor) -> Tensor:
    """Normalize uint8 pixels for the model."""
    return pixels.float().sub_(200).div_(50)


def _read(slides: Sequence[NeedleSlide]) -> Tensor:
    return torch.stack([NeedleRows(slide, _prepare).read(0, slide.side) for slide in slides])


def _labels(slides: Sequence[NeedleSlide]) -> Tensor:
    return torch.tensor([float(slide.label) for slide in slides])


@styled
def _draw(slide: NeedleSlide, curves: dict[str, list[float]], rows: list[dict[str, Any]]) -> Figure:
    """Draw a slide with its marks circled and enlarged, the losses by step, and the AUROC by side."""
    drawing = Figure(figsize=(9, 5), layout="constrained")
    grid = drawing.add_gridspec(4, 4)
    image = drawing.add_subplot(grid[:3, :2])
    image.imshow(slide.read(0, 0, *slide.size))
    image.set_title(f"A phantom of {slide.side:,} x {slide.side:,} pixels: {CLASSES[slide.label]}")
    for at, mark in enumerate(slide.marks):
        image.add_patch(Circle((mark.x, mark.y), 3 * slide.mark, fill=False, color=INK))
        top, left = (min(max(0, center - 64), slide.side - 128) for center in (mark.y, mark.x))
        detail = drawing.add_subplot(grid[3, at])
        detail.imshow(slide.read(top, left, 128, 128))
        detail.set_title(mark.kind)
    for axes in drawing.axes:
        axes.set_axis_off()
    losses, areas = drawing.add_subplot(grid[:2, 2:]), drawing.add_subplot(grid[2:, 2:])
    for (name, curve), color, dash in zip(curves.items(), SERIES, DASHES, strict=False):
        losses.plot(curve, color=color, linestyle=dash, label=name)
        own = [row for row in rows if row["model"] == name]
        sides, values = [row["side"] for row in own], np.array([row["auroc"] for row in own])
        errors = abs(np.array([[row["low"], row["high"]] for row in own]).T - values)
        areas.errorbar(sides, values, errors, color=color, linestyle=dash, marker="o", markersize=4, capsize=2)
    losses.axhline(math.log(2), color=RULE, linewidth=1, zorder=0)
    losses.set(xlabel="Step", ylabel="Loss", ylim=(0, 1.5))
    losses.legend(loc="upper right")
    areas.axhline(0.5, color=RULE, linewidth=1, zorder=0)
    areas.set_xscale("log", base=2)
    areas.set_xticks(sides, [f"{side:,}" for side in sides])
    areas.set(xlabel="Side of the test slides, pixels", ylabel="AUROC", ylim=(0, 1.03))
    return drawing


def _print(out: Path, rows: list[dict[str, Any]], seconds: float) -> None:
    table = Table("side", "tokens", "slides", WITH, WITHOUT, title="AUROC (95 % interval) on new slides")
    for side in dict.fromkeys(row["side"] for row in rows):
        own = {row["model"]: row for row in rows if row["side"] == side}
        areas = [f"{row['auroc']:.3f} ({row['low']:.3f} to {row['high']:.3f})" for row in own.values()]
        table.add_row(f"{side:,}", f"{own[WITH]['tokens']:,}", str(own[WITH]["slides"]), *areas)
    console.print(table)
    console.print("On sides beyond training, the marks are a smaller share of the tokens: no result is promised there.")
    console.print("Sums of scores of single tokens cannot solve it: a mixed pair is the mean of the two equal ones.")
    console.print(f"Figure: {out / 'slides.png'}   Numbers: {out / 'results.json'}   ({seconds:.0f} s)")
