"""``softfree-lab bench maps``: what maps of a prediction cost, in forward passes of the same model in the same run.

The time is the processor's, of the whole map as ``softfree explain`` computes it, the answer of the model included.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from softfree.core.environment import describe_machine
from softfree.core.memory import available_or_assumed
from softfree.core.precision import products_in
from softfree.models import create_model
from softfree.models.vit import VisionTransformer
from softfree.planning.memory import PROCESS
from softfree.saliency.maps import explain_tensor
from softfree.saliency.methods import known_method
from softfree.saliency.streamed import explain_streamed
from softfree.streaming import Rows, Streaming, stream_forward
from softfree_lab.bench.cases import CHECKED_SIDE, TOLERANCES, BenchCase, Pass
from softfree_lab.bench.measure import Budget, estimated_bytes, predicted_seconds, run_group
from softfree_lab.bench.options import MapBenchOptions
from softfree_lab.bench.stream import NoiseRows
from softfree_lab.bench.worker import Step, Worker
from softfree_lab.records import log, markdown_table, write_record
from softfree_runtime.core.errors import UserError

FORWARD = "forward pass"
FIELDS = ("method", "way", "size", "tokens", "status", "reason", "error")
MEASURED = ("cpu_ms", "cpu_ms_low", "cpu_ms_high", "runs", "to_forward", "peak_mib")


@dataclass(frozen=True)
class MapCase(BenchCase):
    """One cell: ``method`` is a map or the forward pass, ``size`` the side in pixels.

    Attributes:
        model: A name of softfree's models.
        way: "in memory" or "stream".
        store: "ram", or the folder where a stream's tokens wait.
    """

    model: str = ""
    way: str = "in memory"
    store: str | Path = "ram"


def bench_maps(options: MapBenchOptions, tell: Callable[[str], None] = log) -> str:
    """Time maps and forward passes in turn; write the files after each side and give the table as Markdown.

    Raises:
        UserError: An unknown method or model, or a model that takes no images.
    """
    methods = [FORWARD, *map(known_method, options.methods)]
    model, precision, store = options.model, options.precision, options.token_store or "ram"
    make_model(MapCase("model", FORWARD, CHECKED_SIDE, model=model))
    sizes = [("in memory", side) for side in sorted(options.sides)]
    rows: list[dict[str, object]] = []
    text = ""
    for way, side in [*sizes, *(("stream", side) for side in sorted(options.streamed_sides))]:
        tell(f"{way}, {side} x {side}")
        cases = [MapCase("model", method, side, precision, model=model, way=way, store=store) for method in methods]
        rows += _measure_side(cases, options, rows)
        text = _write(pd.DataFrame(rows, columns=[*FIELDS, *MEASURED]), options)
    return text


def _measure_side(
    cases: list[MapCase], options: MapBenchOptions, before: list[dict[str, object]]
) -> list[dict[str, object]]:
    budget = Budget(options.seconds, options.limit, options.threads)
    rows = run_group(
        cases,
        budget,
        together=sum(map(_bytes, cases)) < 0.7 * available_or_assumed(),
        why_not=lambda case: _reason_to_skip(case, budget, before),
        checked=lambda case: (case, numerical_error(case)),
        start=lambda case: Worker(case, budget.threads, make_step, processor_clock),
        reference="float64",
        tolerances=TOLERANCES,
    )
    order = [case.method for case in cases]
    rows.sort(key=lambda row: order.index(str(row["method"])))
    return _with_ratios(rows, (-(-cases[0].size // make_model(cases[0]).patch_size)) ** 2)


def _with_ratios(rows: list[dict[str, object]], tokens: int) -> list[dict[str, object]]:
    """Keep what is written of the rows of a side, and add the ratio to the forward pass."""
    times = {str(row["method"]): float(str(row["ms"])) for row in rows if row["status"] == "ok"}
    for row in rows:
        row["tokens"] = tokens
        if row["status"] == "ok":
            row |= {f"cpu_{name}": row[name] for name in ("ms", "ms_low", "ms_high")}
            row["to_forward"] = times[str(row["method"])] / times.get(FORWARD, np.nan)
    return [{name: row.get(name) for name in (*FIELDS, *MEASURED)} for row in rows]


def _bytes(case: MapCase) -> float:
    """Say generously what a case holds beside its libraries: a pass or a training step, the tokens of all layers."""
    model = make_model(case)
    passes: Pass = "training" if case.method in ("gradient", "integrated") else "forward"
    side = case.size if case.way == "in memory" else min(case.size, 1024)
    held = estimated_bytes(replace(case, kind="model", method=case.model, size=side, passes=passes)) - PROCESS
    if case.way == "stream" and case.store != "ram":
        return held
    return held + 4 * (len(model.blocks) + 1) * model.embed_dim * (case.size / model.patch_size) ** 2


def _reason_to_skip(case: MapCase, budget: Budget, before: list[dict[str, object]]) -> str:
    need, have = _bytes(case), available_or_assumed()
    if need > 0.9 * have:
        return f"needs about {need / 2**30:.1f} GiB, {have / 2**30:.1f} are free"
    smaller = [row for row in before if (row["method"], row["way"]) == (case.method, case.way)]
    done = [(float(str(row["size"])), float(str(row["cpu_ms"])) / 1e3) for row in smaller if row["status"] == "ok"]
    seconds = predicted_seconds(done, case.size)
    return f"would take about {seconds:.0f} s a run" if seconds > budget.limit else ""


def make_model(case: MapCase) -> VisionTransformer:
    """Make the model: the same random weights in every process."""
    torch.manual_seed(0)
    model = create_model(case.model, num_classes=2, pos="sincos") if "_vit_" in case.model else None
    if not isinstance(model, VisionTransformer):
        raise UserError(f"Got {case.model}: expected a vision transformer for images; see: softfree models")
    return model.eval()


def numerical_error(case: MapCase) -> float:
    """Compare the map, or the logits, of a small image with those in memory and in float64."""
    small = replace(case, size=min(case.size, CHECKED_SIDE))
    model = make_model(small)
    image = NoiseRows(small.size, model.in_chans)
    got = compute(small, model, image)
    want = compute(replace(small, way="in memory", precision="fp32"), copy.deepcopy(model).double(), image)
    return float(np.abs(got - want).max() / np.abs(want).max())


def make_step(case: MapCase) -> Step:
    """Make the model and an image of noise, and give what computes the map once."""
    model = make_model(case)
    image = NoiseRows(case.size, model.in_chans)
    whole = image if case.way == "stream" else image.read(0, case.size)
    return lambda: compute(case, model, whole)


def compute(case: MapCase, model: VisionTransformer, image: Rows | torch.Tensor) -> np.ndarray:
    """Return the values of the map, or of a forward pass the logits."""
    with products_in(case.precision):
        if case.way == "stream":
            streaming = Streaming(case.store)
            if case.method == FORWARD:
                return stream_forward(model, image, streaming).float().numpy()
            return explain_streamed(model, image, case.method, target=0, streaming=streaming).values  # type: ignore[arg-type]
        pixels = image if isinstance(image, torch.Tensor) else image.read(0, case.size)
        pixels = pixels.to(next(model.parameters()).dtype)
        if case.method == FORWARD:
            with torch.inference_mode():
                logits: np.ndarray = model(pixels.unsqueeze(0)).double().numpy()
            return logits
        return explain_tensor(model, pixels, case.method, target=0).values  # type: ignore[arg-type]


def processor_clock(step: Step, case: BenchCase, times: int) -> dict[str, float]:
    """Measure the processor's seconds of one of ``times`` steps, which other work on the machine disturbs less."""
    started = time.process_time()
    for _ in range(times):
        step()
    return {"seconds": (time.process_time() - started) / times}


def _write(rows: pd.DataFrame, options: MapBenchOptions) -> str:
    machine = describe_machine(options.threads)
    title = f"{options.model}, random weights, one image of noise, precision {options.precision}; {machine}."
    text = f"{title}\n\n{_table(rows)}"
    if options.out is not None:
        stated = vars(options) | {"token_store": options.token_store and "a folder on a disk"}
        write_record(options.out / "maps.csv", rows, stated, machine=machine, text=text)
    return text


def _table(rows: pd.DataFrame) -> str:
    names = ("way", "pixels", "tokens", "method", "processor time, s", "forward passes", "peak, MiB")
    lines = []
    for row in rows.to_dict("records"):
        cells = [row["way"], f"{row['size']} x {row['size']}", f"{row['tokens']:,}", row["method"]]
        if row["status"] == "ok":
            cells += [
                f"{row['cpu_ms'] / 1e3:,.{3 if row['cpu_ms'] < 1e3 else 1}f}",
                f"{row['to_forward']:.2f}",
                f"{row['peak_mib']:,.0f}",
            ]
        else:
            cells += [row["status"], row["reason"], ""]
        lines.append(cells)
    return markdown_table(names, lines)
