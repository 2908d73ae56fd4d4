"""Section 2: one attention sublayer by length, type, pass and order, next to the bare matrix products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from softfree_lab.bench.cases import FLOOR, TOLERANCES, BenchCase, Pass, numerical_error, prepare
from softfree_lab.bench.clock import clock_mhz, peak_mib, timed
from softfree_lab.bench.gpu.kernels import is_fused, kernels_of
from softfree_lab.bench.gpu.section import Place, Task, release

# In order of importance: what comes last is left out when the time is over.
LENGTHS = {"cuda": (16384, 65536, 4096, 1024, 262144), "cpu": (256, 1024)}
PRECISIONS = {"cuda": ("bf16", "fp16"), "cpu": ("fp32",)}
FLASH, CUDNN, ON_TRIAL = "softmax flash", "softmax cudnn", "seqnorm gram triton"
METHODS = (FLOOR, "seqnorm gram", "softmax", "seqnorm folded", "sima", "soft_norm", "seqnorm literal")
BACKENDS = {FLASH: SDPBackend.FLASH_ATTENTION, CUDNN: SDPBackend.CUDNN_ATTENTION}
# Compiling takes up to a minute each, so that only what may gain by it is.
COMPILED = {"cuda": ("seqnorm gram", "seqnorm folded", "sima", "softmax"), "cpu": ("seqnorm gram",)}
COMPILED_LENGTHS = {"cuda": (16384, 4096), "cpu": (256,)}
COMPILE_SECONDS = {"cuda": 15.0, "cpu": 12.0}
PASSES: tuple[Pass, ...] = ("forward", "training")


def tasks(place: Place) -> Iterator[Task]:
    """Yield the main type at all lengths, then what is compiled, then the other type."""
    first, *others = PRECISIONS[place.device]
    yield from _eager(place, first)
    for tokens in COMPILED_LENGTHS[place.device]:
        for method in COMPILED[place.device]:
            for passes in PASSES:
                least = COMPILE_SECONDS[place.device]
                yield _task(
                    BenchCase("attention", method, tokens, first, passes, compiled=True, device=place.device), least
                )
    for precision in others:
        yield from _eager(place, precision)


def _eager(place: Place, precision: str) -> Iterator[Task]:
    methods = (*METHODS, FLASH, CUDNN, ON_TRIAL) if place.device == "cuda" else METHODS
    for tokens in LENGTHS[place.device]:
        for passes in PASSES:
            for method in methods:
                yield _task(BenchCase("attention", method, tokens, precision, passes, device=place.device))


def _task(case: BenchCase, least: float = 0.0) -> Task:
    return Task(described(case), lambda: measure_case(case), least)


def described(case: BenchCase) -> dict[str, Any]:
    """Give the values that name a case in the results."""
    names = ("kind", "method", "size", "precision", "passes", "batch", "compiled")
    return {name: getattr(case, name) for name in names}


def measure_case(case: BenchCase) -> dict[str, Any]:
    """Check a sublayer against float64, then measure time, memory and arithmetic, and name its kernel if fused."""
    method = case.method
    if method in BACKENDS:
        case = BenchCase(**{**case.__dict__, "method": "softmax"})
    with _backend(method):
        error = numerical_error(case)
        if not error <= TOLERANCES[case.precision]:
            return {"status": "wrong", "error": error}
        release(case.device)  # compiled for the size of the check, the graph would be one for all sizes
        step = prepare(case)
        values: dict[str, Any] = {"error": error, **timed(step, case.device), "peak_mib": peak_mib(step, case.device)}
        if not case.compiled:
            values |= _arithmetic(step, values["ms"])
        if method.startswith("softmax"):
            values["kernels"] = [name for name in kernels_of(step, case.device, 12) if is_fused(name)]
    return {**values, "mhz": clock_mhz(case.device)}


def _backend(method: str) -> AbstractContextManager[Any]:
    """Make PyTorch use one kernel for softmax, or fail; otherwise it chooses."""
    return sdpa_kernel(BACKENDS[method]) if method in BACKENDS else nullcontext()


def _arithmetic(step: Callable[[], Any], milliseconds: float) -> dict[str, float]:
    """Count the floating point operations of all products, and divide them by the time."""
    with FlopCounterMode(display=False) as counter:
        step()
    flops = counter.get_total_flops()
    return {"gflop": round(flops / 1e9, 3), "tflops": round(flops / 1e9 / milliseconds, 3)}


def least_mib(case: BenchCase) -> float:
    """Return the MiB that the bare products read and write: X twice and Y once; with backward also X, G twice, dX."""
    tokens = case.size * case.width * case.type.itemsize * case.batch
    return (3 if case.passes == "forward" else 8) * tokens / 2**20
