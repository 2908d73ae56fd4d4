"""Section 4: what the time of a sublayer, a block and a model goes into, and how near it is to the roof."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from softfree_lab.bench.cases import BenchCase, prepare
from softfree_lab.bench.clock import timed
from softfree_lab.bench.gpu.kernels import RUNS, device_time, is_kernel, profiled
from softfree_lab.bench.gpu.section import Place, Task
from softfree_lab.bench.gpu.sublayer import least_mib
from softfree_lab.records import markdown_table

TOKENS = {"cuda": 16384, "cpu": 256}
SIDE = {"cuda": 2048, "cpu": 64}
PRECISION = {"cuda": "bf16", "cpu": "fp32"}
MODEL = {"cuda": "seqnorm_vit_small_patch16", "cpu": "seqnorm_vit_nano_patch16"}
PRODUCT = {"cuda": 8192, "cpu": 512}  # sides of the square product that gives the roof
COPIED = {"cuda": 2**30, "cpu": 2**22}  # elements of the copy that gives the bandwidth
ROWS = 20


def tasks(place: Place) -> Iterator[Task]:
    """Yield the roof, then a profile of each part, forward and with backward."""
    yield Task({"what": "roof"}, lambda: roof(place.device))
    device, precision = place.device, PRECISION[place.device]
    for passes in ("forward", "training"):
        sublayer = BenchCase("attention", "seqnorm gram", TOKENS[device], precision, passes, device=device)
        block = BenchCase("attention", "seqnorm", TOKENS[device], precision, passes, depth=1, device=device)
        model = BenchCase("model", MODEL[device], SIDE[device], precision, passes, device=device)
        for what, case in (("sublayer", sublayer), ("block", block), ("model", model)):
            yield Task({"what": what, "passes": passes}, lambda case=case, what=what: _profile(what, case, place))  # type: ignore[misc]


@cache  # once in a process
def roof(device: str) -> dict[str, float]:
    """Measure what the device can do at best: TFLOP/s of a large product, GB/s read and written by a copy."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    side, count = PRODUCT[device], COPIED[device]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    product = timed(lambda: a @ b, device)["ms"]
    source = torch.randn(count, device=device, dtype=dtype)
    target = torch.empty_like(source)
    copied = timed(lambda: target.copy_(source), device)["ms"]
    tflops, gigabytes = 2 * side**3 / product / 1e9, 2e-6 * count * dtype.itemsize / copied
    return {"tflops": float(f"{tflops:.4g}"), "gb_per_second": float(f"{gigabytes:.4g}")}


def _profile(what: str, case: BenchCase, place: Place) -> dict[str, Any]:
    """Time a case, list its kernels and products, and compare with the roof."""
    step = prepare(case)
    measured = timed(step, case.device)
    with FlopCounterMode(display=False) as counter:
        step()
    gflop = counter.get_total_flops() / 1e9
    limits = roof(case.device)
    by_products = gflop / limits["tflops"]  # ms
    values = {"ms": measured["ms"], "gflop": round(gflop, 3), "of_product_roof": round(by_products / measured["ms"], 3)}
    if what == "sublayer":
        by_memory = least_mib(case) * 2**20 / limits["gb_per_second"] / 1e6  # ms
        values["of_memory_roof"] = round(by_memory / measured["ms"], 3)
    text = _text(what, case, values, limits, step)
    with open(place.out / "profile.txt", "a", encoding="utf-8") as file:
        file.write(text)
    return values


def _text(what: str, case: BenchCase, values: dict[str, Any], limits: dict[str, float], step: Callable[[], Any]) -> str:
    found = profiled(step, case.device)
    kernels = [event for event in found.key_averages() if is_kernel(event, case.device)]
    total = sum(device_time(event, case.device) for event in kernels) or 1.0
    kernels.sort(key=lambda event: -device_time(event, case.device))
    rows = [
        (event.key[:90], event.count // RUNS, f"{device_time(event, case.device) / RUNS / 1e3:.4f}",
         f"{100 * device_time(event, case.device) / total:.1f} %")
        for event in kernels[:ROWS]
    ]  # fmt: skip
    products = []
    for event in found.key_averages(group_by_input_shape=True):
        # The kernels of an operator count for it only on a device; on a processor it is its own.
        micro = float(event.device_time_total if case.device == "cuda" else event.self_cpu_time_total)
        if event.flops and micro:
            reached = event.flops / micro / 1e6
            shapes = str([shape for shape in event.input_shapes if shape])[:60]
            share = f"{100 * reached / limits['tflops']:.0f} %"
            products.append((micro, (event.key, shapes, f"{micro / RUNS / 1e3:.4f}", f"{reached:.1f}", share)))
    products.sort(key=lambda entry: -entry[0])
    title = f"{what}, {case.method}, {case.size}, {case.precision}, {case.passes}: {values}; the roof: {limits}"
    return "\n".join(
        [
            title,
            "",
            markdown_table(("kernel", "calls", "ms", "share of the device's time"), rows),
            markdown_table(("product", "shapes", "ms", "TFLOP/s", "of the roof"), [row for _, row in products[:ROWS]]),
            "",
        ]
    )
