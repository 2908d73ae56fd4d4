"""The cases of ``softfree-lab bench edge``: a model of random weights in one runtime, measured in its own process."""

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
from torch import nn

from softfree.attention import ATTENTIONS
from softfree.models import VisionTransformer, create_model
from softfree.models.layers import ACTS
from softfree_lab.bench.cases import BenchCase
from softfree_lab.bench.worker import Step, Worker, wall_clock
from softfree_runtime.core.errors import UserError, unknown_name
from softfree_runtime.core.telemetry import import_openvino
from softfree_runtime.session import open_session

PYTORCH = "pytorch"
STANDARD = "standard"  # the operator of ONNX, where onnxruntime has a better one of its own


@dataclass(frozen=True)
class EdgeCase(BenchCase):
    """One cell: ``method`` is an attention, perhaps with an activation or "standard"; ``size`` the side in pixels.

    Attributes:
        model: What follows ``_vit_`` in the names of softfree's models.
        runtime: "pytorch", "onnxruntime" or "openvino".
        threads: Of the runtime.
        file: What the runtime opens; None for PyTorch.
    """

    model: str = "small_patch16"
    runtime: str = PYTORCH
    threads: int = 1
    file: Path | None = None


def attention_of(method: str) -> tuple[str, dict[str, str]]:
    """Take a method apart: its attention, and the keywords of the model.

    Raises:
        UserError: An unknown attention, or what is neither an activation nor "standard" after it.
    """
    name, _, more = method.partition(" ")
    if name not in ATTENTIONS:
        raise unknown_name("method", name, ATTENTIONS)
    if more in ("", STANDARD) and not (more and name != "softmax"):
        return name, {}
    if more not in ACTS:
        raise UserError(f"Got the method {method!r}: expected an attention, then perhaps one of {', '.join(ACTS)}.")
    return name, {"act": more}


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
    session = open_session(case.file, case.threads)
    return lambda pixels: np.asarray(session.run(None, {"pixels": pixels})[0])


def _in_torch(model: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    def logits(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            output: np.ndarray = model(torch.from_numpy(pixels)).numpy()
        return output

    return logits


def _in_openvino(file: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    # bfloat16 is the default where a processor has it.
    hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(threads)}
    compiled = import_openvino().Core().compile_model(file, "CPU", hints)
    return lambda pixels: np.asarray(compiled(pixels)[0])


class EdgeWorker(Worker):
    """A case in a process of its own.

    Attributes:
        beside: For each run the joules of an inference (NaN without counters) and its milliseconds of processor time.
    """

    def __init__(self, case: EdgeCase) -> None:
        super().__init__(case, case.threads, make_step, energy_clock)
        self.edge = case
        self.beside: list[tuple[float, float]] = []

    def run(self) -> float:
        """Run once more, in seconds."""
        answer = self.measured()
        self.beside.append((answer["joules"], answer["cpu_ms"]))
        return answer["seconds"]

    def more(self) -> dict[str, object]:
        """Size of the file in MB, joules and milliseconds of processor time."""
        spent, cpu_ms = np.median(self.beside, axis=0).tolist()
        file = self.edge.file
        return {"file_mb": None if file is None else file.stat().st_size / 1e6, "joules": spent, "cpu_ms": cpu_ms}


def energy_clock(step: Step, case: BenchCase, times: int) -> dict[str, float]:
    """Measure the seconds of one of ``times`` steps, its joules and its milliseconds of processor time."""
    started = time.process_time()
    with joules() as spent:
        found = wall_clock(step, case, times)
    return found | {"joules": spent() / times, "cpu_ms": 1e3 * (time.process_time() - started) / times}


def make_step(case: EdgeCase) -> Step:
    """Open a case, and give what runs it once."""
    logits, pixels = open_case(case), make_pixels(case.size)
    return lambda: logits(pixels)


POWERCAP = Path("/sys/class/powercap")


def packages(folder: Path = POWERCAP) -> list[Path]:
    """Find the counters of whole processors that may be read; their parts have a second number in the name."""
    found = [one for one in sorted(folder.glob("intel-rapl:*")) if one.name.count(":") == 1]
    return [one for one in found if _read(one / "energy_uj") is not None]


@contextmanager
def joules(folder: Path = POWERCAP) -> Iterator[Callable[[], float]]:
    """Measure a block: the function that it gives says afterwards how many joules all processors took.

    NaN without counters. The number includes everything else that runs on the machine.
    """
    before = {one: _read(one / "energy_uj") for one in packages(folder)}
    spent = math.nan

    def total() -> float:
        return spent

    yield total
    if before:
        spent = sum(_difference(one, value) for one, value in before.items()) / 1e6


def _difference(package: Path, before: int | None) -> float:
    after = _read(package / "energy_uj")
    if before is None or after is None:
        return math.nan
    if after < before:  # the counter began again
        after += _read(package / "max_energy_range_uj") or 0
    return after - before


def _read(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
