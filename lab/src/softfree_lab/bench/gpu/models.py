"""Section 3: whole models by the side of the image, inference and a training step (SeqNorm's Figure 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from softfree.models.registry import MODELS
from softfree_lab.bench.cases import TOLERANCES, BenchCase, numerical_error, prepare
from softfree_lab.bench.clock import clock_mhz, peak_mib, timed
from softfree_lab.bench.gpu.section import Place, Task, release
from softfree_lab.bench.gpu.sublayer import described

SIDES = {"cuda": (2048, 1024, 4096, 512, 224), "cpu": (64,)}
NAMES = {
    "cuda": (
        "seqnorm_vit_small_patch16",
        "vit_small_patch16_224",
        "sima_vit_small_patch16",
        "convnext_tiny",
        "swin_tiny_patch4_window7_224",
    ),
    "cpu": ("seqnorm_vit_nano_patch16", "vit_tiny_patch16_224"),
}
COMPILED_SIDES = {"cuda": (2048, 1024), "cpu": ()}
LARGEST = {"cuda": 1024, "cpu": 4}  # images of a batch
PRECISION = {"cuda": "bf16", "cpu": "fp32"}
COMPILE_SECONDS = 40.0


def tasks(place: Place) -> Iterator[Task]:
    """Yield one image at each side, then the largest batches, then what is compiled."""
    for side in SIDES[place.device]:
        for name in NAMES[place.device]:
            yield _task(_inference(name, side, place))
            yield _task(replace(_inference(name, side, place), passes="training", autocast=place.device == "cuda"))
    for side in SIDES[place.device]:
        for name in NAMES[place.device]:
            case = _inference(name, side, place)
            yield Task({**described(case), "batch": "largest"}, lambda case=case: largest_batch(case))  # type: ignore[misc]
    for side in COMPILED_SIDES[place.device]:
        for name in NAMES[place.device][:2]:
            case = replace(_inference(name, side, place), compiled=True)
            yield _task(case, COMPILE_SECONDS)
            yield _task(replace(case, passes="training", autocast=True), COMPILE_SECONDS)


def _inference(name: str, side: int, place: Place) -> BenchCase:
    return BenchCase("model", name, side, PRECISION[place.device], device=place.device)


def _task(case: BenchCase, least: float = 0.0) -> Task:
    return Task(described(case), lambda: measure_model(case), least)


def measure_model(case: BenchCase) -> dict[str, Any]:
    """Check one of our models against float64 at a small side, then measure time, images per second and memory."""
    values: dict[str, Any] = {}
    if case.method.partition(" ")[0] in MODELS and case.passes == "forward" and not case.compiled:
        values["error"] = numerical_error(case)
        if not values["error"] <= TOLERANCES[case.precision]:
            return {"status": "wrong", **values}
    step = prepare(case)
    values |= timed(step, case.device, least=3)
    values |= {"images_per_second": round(1e3 * case.batch / values["ms"], 2), "peak_mib": peak_mib(step, case.device)}
    return {**values, "mhz": clock_mhz(case.device)}


def largest_batch(case: BenchCase) -> dict[str, Any]:
    """Measure the largest batch that fits, a power of two, found by halving after the memory of one and two images."""
    batch = LARGEST[case.device]
    if case.device == "cuda":
        one, two = (_peak(replace(case, batch=count)) for count in (1, 2))
        free, _ = torch.cuda.mem_get_info()
        most = 0.9 * free / 2**20 / max(two - one, 1.0)
        while batch > 1 and batch > most:
            batch //= 2
    while True:
        try:
            return {"images": batch, **measure_model(replace(case, batch=batch))}
        except torch.OutOfMemoryError:
            release(case.device)
            if batch == 1:
                raise
            batch //= 2


def _peak(case: BenchCase) -> float:
    step = prepare(case)
    step()
    peak = peak_mib(step, case.device) or 0.0
    del step
    release(case.device)
    return peak + case.batch * 3 * case.size**2 * case.type.itemsize / 2**20
