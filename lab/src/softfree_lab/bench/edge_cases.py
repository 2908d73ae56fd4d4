"""The cases of ``softfree-lab bench edge``: a model with random weights in one runtime, in its own process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch._inductor
from torch import Tensor

from softfree.attention import ATTENTIONS
from softfree.models import VisionTransformer, create_model
from softfree.models.layers import ACTS
from softfree_lab.bench.cases import BenchCase
from softfree_lab.bench.worker import Step, Worker, wall_clock
from softfree_runtime.core.errors import UserError, unknown_name
from softfree_runtime.core.telemetry import import_openvino
from softfree_runtime.session import open_session

PYTORCH = "pytorch"
INDUCTOR = "inductor"  # compiled ahead of time
STANDARD = "standard"  # ONNX's own operator instead of onnxruntime's faster one


@dataclass(frozen=True)
class EdgeCase(BenchCase):
    """One case: ``method`` is an attention, possibly with an activation or "standard"; ``size`` the side in pixels.

    Attributes:
        model: Size and patch, the part after ``_vit_`` in the names of softfree's models.
        runtime: "pytorch", "onnxruntime", "openvino" or "inductor".
        threads: Threads of the runtime.
        file: The exported file; None for PyTorch.
    """

    model: str = "small_patch16"
    runtime: str = PYTORCH
    threads: int = 1
    file: Path | None = None


def attention_of(method: str) -> tuple[str, dict[str, str]]:
    """Split a method into its attention and the keyword arguments of the model.

    Raises:
        UserError: An unknown attention, or one followed by neither an activation nor "standard".
    """
    name, _, suffix = method.partition(" ")
    if name not in ATTENTIONS:
        raise unknown_name("method", name, ATTENTIONS)
    if suffix in ("", STANDARD) and not (suffix and name != "softmax"):
        return name, {}
    if suffix not in ACTS:
        raise UserError(f"Got the method {method!r}: expected an attention, then optionally one of {', '.join(ACTS)}.")
    return name, {"act": suffix}


@lru_cache
def make_model(method: str, size: str) -> VisionTransformer:
    """Create the model, with the same weights for the same method in every process."""
    attention, keywords = attention_of(method)
    torch.manual_seed(0)
    return cast(VisionTransformer, create_model(f"{attention}_vit_{size}", num_classes=2, **keywords).eval())


def make_pixels(side: int) -> np.ndarray:
    """Return one image of noise, (1, 3, side, side) float32."""
    return np.random.default_rng(0).standard_normal((1, 3, side, side), dtype=np.float32)


def open_case(case: EdgeCase) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images (B, 3, H, W) to logits (B, 2)."""
    if case.runtime == PYTORCH:
        return _in_torch(make_model(case.method, case.model))
    assert case.file is not None
    if case.runtime == "openvino":
        return _in_openvino(case.file, case.threads)
    if case.runtime == INDUCTOR:
        return _in_torch(torch._inductor.aoti_load_package(str(case.file)))
    session = open_session(case.file, case.threads)
    return lambda pixels: np.asarray(session.run(None, {"pixels": pixels})[0])


def _in_torch(model: Callable[[Tensor], Tensor]) -> Callable[[np.ndarray], np.ndarray]:
    def logits(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            output: np.ndarray = model(torch.from_numpy(pixels)).numpy()
        return output

    return logits


def _in_openvino(file: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    # bfloat16 is the default if the processor supports it.
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(threads)}
    compiled = import_openvino().Core().compile_model(file, "CPU", hints)
    return lambda pixels: np.asarray(compiled(pixels)[0])


class EdgeWorker(Worker):
    """A case that runs in its own process.

    Attributes:
        costs: Joules (NaN without counters) and milliseconds of processor time per inference, for each run.
    """

    def __init__(self, case: EdgeCase) -> None:
        super().__init__(case, case.threads, make_step, energy_clock)
        self.edge = case
        self.costs: list[tuple[float, float]] = []

    def run(self) -> float:
        """Run once more and return the seconds."""
        measured = self.measured()
        self.costs.append((measured["joules"], measured["cpu_ms"]))
        return measured["seconds"]

    def more(self) -> dict[str, object]:
        """Return the size of the file in MB, joules and milliseconds of processor time."""
        spent, cpu_ms = np.median(self.costs, axis=0).tolist()
        file = self.edge.file
        return {"file_mb": None if file is None else file.stat().st_size / 1e6, "joules": spent, "cpu_ms": cpu_ms}


def energy_clock(step: Step, case: BenchCase, times: int) -> dict[str, float]:
    """Measure the seconds, joules and milliseconds of processor time per step, over ``times`` steps."""
    started = time.process_time()
    with joules() as spent:
        seconds = wall_clock(step, case, times)
    return seconds | {"joules": spent() / times, "cpu_ms": 1e3 * (time.process_time() - started) / times}


def make_step(case: EdgeCase) -> Step:
    """Open a case, and return a function that runs it once."""
    logits, pixels = open_case(case), make_pixels(case.size)
    return lambda: logits(pixels)


POWERCAP = Path("/sys/class/powercap")


def packages(folder: Path = POWERCAP) -> list[Path]:
    """Find the readable counters of whole processors; those of their components have a second number in the name."""
    counters = [path for path in sorted(folder.glob("intel-rapl:*")) if path.name.count(":") == 1]
    return [path for path in counters if _read(path / "energy_uj") is not None]


@contextmanager
def joules(folder: Path = POWERCAP) -> Iterator[Callable[[], float]]:
    """Measure the energy of a block: the function that it yields returns the joules of all processors afterwards.

    NaN without counters. The number includes everything else that runs on the machine.
    """
    before = {path: _read(path / "energy_uj") for path in packages(folder)}
    spent = math.nan

    def total() -> float:
        return spent

    yield total
    if before:
        spent = sum(_difference(path, value) for path, value in before.items()) / 1e6


def _difference(package: Path, before: int | None) -> float:
    after = _read(package / "energy_uj")
    if before is None or after is None:
        return math.nan
    if after < before:  # the counter wrapped around
        after += _read(package / "max_energy_range_uj") or 0
    return after - before


def _read(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
