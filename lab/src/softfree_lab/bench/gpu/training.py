"""Section 5: the demonstration's training on this device; then accuracy against throughput."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from softfree_lab.bench.gpu.section import Place, Task

SIDE = {"cuda": 512, "cpu": 64}


def tasks(place: Place) -> Iterator[Task]:
    """Yield one training."""
    yield Task({"what": "demonstration"}, lambda: _train(place), least=20.0 if place.device == "cuda" else 0.0)


def _train(place: Place) -> dict[str, Any]:
    """Train as ``softfree demo`` does at full size; libraries that are missing are named."""
    try:
        from softfree.demo.demo import recipe
        from softfree.demo.options import DemoOptions
        from softfree.demo.phantoms import NOTICE, write_phantoms
        from softfree.training.loop import train
    except ModuleNotFoundError as error:
        return {"status": "skipped", "reason": f"training needs {error.name}, which is not installed"}
    side = SIDE[place.device]
    with tempfile.TemporaryDirectory() as folder:
        options = DemoOptions(out=Path(folder), progress=False)
        counts = {} if place.device == "cuda" else {"n_train": 16, "n_val": 8, "n_test": 8}
        table = write_phantoms(options.out / "images", size=side, seed=options.seed, **counts)
        accelerator = "gpu" if place.device == "cuda" else "cpu"
        chosen = replace(recipe(table, options, side, options.out / "run"), accelerator=accelerator)
        started = time.monotonic()
        train(chosen if place.device == "cuda" else replace(chosen, epochs=1), notice=NOTICE)
        seconds = time.monotonic() - started
        written = json.loads((options.out / "run" / "metrics.json").read_text(encoding="utf-8"))
    area, cost = written["metrics"]["auroc"]["value"], written["cost"]
    return {
        "side": side,
        "seconds": round(seconds, 2),
        "training_seconds": cost["seconds"],
        "peak_mib": round(cost["peak_bytes"] / 2**20),
        "auroc": round(area, 4),
    }
