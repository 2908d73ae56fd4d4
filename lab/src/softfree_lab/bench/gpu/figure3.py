"""Section 6: published accuracy against throughput; the rows are those of ``softfree-lab bench throughput``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from softfree.core.options import Precision
from softfree_lab.bench.cases import BenchCase, prepare
from softfree_lab.bench.clock import timed
from softfree_lab.bench.gpu.section import Place, Task
from softfree_lab.bench.options import ThroughputBenchOptions
from softfree_lab.bench.throughput import BANDS, all_cases, named, published

SIDES = {"cuda": [224, 1024, 512], "cpu": [64]}
BATCHES = {"cuda": [256, 1], "cpu": [1]}
PRECISIONS: dict[str, list[Precision]] = {"cuda": ["bf16", "fp32"], "cpu": ["fp32"]}
REHEARSED = ("pvt_v2_b0", "seqnorm_vit_nano_patch16")


def tasks(place: Place) -> Iterator[Task]:
    """Yield all models at 224 pixels in the larger batch first."""
    names = [*dict.fromkeys(published()["model"]), *BANDS] if place.device == "cuda" else list(REHEARSED)
    device = place.device
    options = ThroughputBenchOptions(
        sides=SIDES[device],
        batches=BATCHES[device],
        precisions=PRECISIONS[device],
        device=device,  # type: ignore[arg-type]
    )
    for case in all_cases(names, options):
        yield Task(named(case) | {"visit": 0}, lambda case=case: _measure(case))  # type: ignore[misc]


def _measure(case: BenchCase) -> dict[str, Any]:
    step = prepare(case)
    return timed(step, case.device, seconds=0.1, least=3, warm=2)
