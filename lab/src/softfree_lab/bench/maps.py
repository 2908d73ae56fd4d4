"""``softfree-lab bench maps``: the cost of saliency maps, relative to a forward pass of the same model in the same run.

The time is processor time of the whole map as ``softfree explain`` computes it, including the prediction.
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
from softfree_lab.records import markdown_table, to_stderr, write_record
from softfree_runtime.core.errors import UserError

FORWARD = "forward pass"
FIELDS = ("method", "way", "size", "tokens", "status", "reason", "error")
MEASURED = ("cpu_ms", "cpu_ms_low", "cpu_ms_high", "runs", "to_forward", "peak_mib")


@dataclass(frozen=True)
class MapCase(BenchCase):
    """One case: ``method`` is a map or the forward pass, ``size`` the side in pixels.

    Attributes:
        model: Name of a softfree model.
        way: "in memory" or "stream".
        store: "ram", or the folder for the tokens of a streamed image.
    """

    model: str = ""
    way: str = "in memory"
    store: str | Path = "ram"


def bench_maps(options: MapBenchOptions, log: Callable[[str], None] = to_stderr) -> str:
    """Measure maps and forward passes in turn; write the files after each side and return the table as Markdown.

    Raises:
        UserError: An unknown method or model, or a model that does not take images.
    """
    methods = [FORWARD, *map(known_method, options.methods)]
    model, precision, store = options.model, options.precision, options.token_store or "ram"
    make_model(MapCase("model", FORWARD, CHECKED_SIDE, model=model))
    sizes = [("in memory", side) for side in sorted(options.sides)]
    rows: list[dict[str, object]] = []
    text = ""
    for way, side in [*sizes, *(("stream", side) for side in sorted(options.streamed_sides))]:
        log(f"{way}, {side} x {side}")
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
        skip_reason=lambda case: _reason_to_skip(case, budget, before),
        check=lambda case: (case, numerical_error(case)),
        start=lambda case: Worker(case, budget.threads, make_step, processor_clock),
        reference="float64",
        tolerances=TOLERANCES,
    )
    order = [case.method for case in cases]
    rows.sort(key=lambda row: order.index(str(row["method"])))
    return _with_ratios(rows, (-(-cases[0].size // make_model(cases[0]).patch_size)) ** 2)


def _with_ratios(rows: list[dict[str, object]], tokens: int) -> list[dict[str, object]]:
    """Select the recorded columns of a side, and add the time relative to the forward pass."""
    times = {str(row["method"]): float(str(row["ms"])) for row in rows if row["status"] == "ok"}
    for row in rows:
        row["tokens"] = tokens
        if row["status"] == "ok":
            row |= {f"cpu_{name}": row[name] for name in ("ms", "ms_low", "ms_high")}
            row["to_forward"] = times[str(row["method"])] / times.get(FORWARD, np.nan)
    return [{name: row.get(name) for name in (*FIELDS, *MEASURED)} for row in rows]


def _bytes(case: MapCase) -> float:
    """Estimate generously the memory of a case besides its libraries: a pass or training step, and all tokens."""
    model = make_model(case)
    passes: Pass = "training" if case.method in ("gradient", "integrated") else "forward"
    side = case.size if case.way == "in memory" else min(case.size, 1024)
    step_bytes = estimated_bytes(replace(case, kind="model", method=case.model, size=side, passes=passes)) - PROCESS
    if case.way == "stream" and case.store != "ram":
        return step_bytes
    return step_bytes + 4 * (len(model.blocks) + 1) * model.embed_dim * (case.size / model.patch_size) ** 2


def _reason_to_skip(case: MapCase, budget: Budget, before: list[dict[str, object]]) -> str:
    need, have = _bytes(case), available_or_assumed()
    if need > 0.9 * have:
        return f"needs about {need / 2**30:.1f} GiB, but {have / 2**30:.1f} are free"
    smaller = [row for row in before if (row["method"], row["way"]) == (case.method, case.way)]
    done = [(float(str(row["size"])), float(str(row["cpu_ms"])) / 1e3) for row in smaller if row["status"] == "ok"]
    seconds = predicted_seconds(done, case.size)
    return f"would take about {seconds:.0f} s per run" if seconds > budget.limit else ""


def make_model(case: MapCase) -> VisionTransformer:
    """Create the model, with the same random weights in every process."""
    torch.manual_seed(0)
    model = create_model(case.model, num_classes=2, pos="sincos") if "_vit_" in case.model else None
    if not isinstance(model, VisionTransformer):
        raise UserError(f"Got {case.model}: expected a vision transformer for images; see: softfree models")
    return model.eval()


def numerical_error(case: MapCase) -> float:
    """Compare the map or logits of a small image with those computed in memory and in float64."""
    small = replace(case, size=min(case.size, CHECKED_SIDE))
    model = make_model(small)
    image = NoiseRows(small.size, model.in_chans)
    got = compute(small, model, image)
    want = compute(replace(small, way="in memory", precision="fp32"), copy.deepcopy(model).double(), image)
    return float(np.abs(got - want).max() / np.abs(want).max())


def make_step(case: MapCase) -> Step:
    """Create the model and an image of noise, and return a function that computes the map once."""
    model = make_model(case)
    image = NoiseRows(case.size, model.in_chans)
    whole = image if case.way == "stream" else image.read(0, case.size)
    return lambda: compute(case, model, whole)


def compute(case: MapCase, model: VisionTransformer, image: Rows | torch.Tensor) -> np.ndarray:
    """Return the values of the map, or the logits of a forward pass."""
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
    """Measure processor seconds per step, which other load on the machine disturbs less than wall-clock time."""
    started = time.process_time()
    for _ in range(times):
        step()
    return {"seconds": (time.process_time() - started) / times}


def _write(rows: pd.DataFrame, options: MapBenchOptions) -> str:
    machine = describe_machine(options.threads)
    title = f"{options.model}, random weights, one image of noise, precision {options.precision}; {machine}."
    text = f"{title}\n\n{_table(rows)}"
    if options.out is not None:
        recorded = vars(options) | {"token_store": options.token_store and "a folder on a disk"}
        write_record(options.out / "maps.csv", rows, recorded, machine=machine, text=text)
    return text


def _table(rows: pd.DataFrame) -> str:
    names = ("mode", "pixels", "tokens", "method", "processor time, s", "forward passes", "peak, MiB")
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
