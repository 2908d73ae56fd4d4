"""``softfree-lab bench throughput``: published accuracy against measured throughput, as in SOFT's Figure 3.

The accuracies are cited (``published_top1.csv``); the throughputs are all measured here, with random weights.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from softfree.core.environment import describe_machine
from softfree.core.memory import available_or_assumed
from softfree.models.registry import MODELS
from softfree_lab.bench.cases import TOLERANCES, BenchCase, numerical_error, prepare
from softfree_lab.bench.clock import timed
from softfree_lab.bench.gpu.section import release
from softfree_lab.bench.journal import Journal
from softfree_lab.bench.options import ThroughputBenchOptions
from softfree_lab.bench.throughput_plot import CAVEATS, plot_throughput
from softfree_lab.records import markdown_table, to_stderr, write_record
from softfree_runtime.core.errors import UserError

PUBLISHED = Path(__file__).with_name("published_top1.csv")
# Without a published Top-1 of ours: their throughput is drawn as a line across all accuracies.
BANDS = tuple(
    f"{attention}_vit_{size}_patch16" for attention in ("seqnorm", "sima") for size in ("tiny", "small", "base")
)
# What is mostly convolutions is faster with the channels last, on processors and GPUs.
CONVOLUTIONAL = ("convnext", "resnet", "regnet", "efficientvit")
RESULTS = "throughput.jsonl"


def published() -> pd.DataFrame:
    """Read the published numbers: model, family, size, top1 (%), million_parameters, gflops, source, note."""
    return pd.read_csv(PUBLISHED, keep_default_na=False, na_values={"million_parameters": [""], "gflops": [""]})


def bench_throughput(options: ThroughputBenchOptions, log: Callable[[str], None] = to_stderr) -> str:
    """Measure all models in turns, write rows and figure, and return the table as Markdown.

    Raises:
        UserError: An unknown model, no GPU, or results of another machine in the folder.
    """
    names = options.models or [*dict.fromkeys(published()["model"]), *BANDS]
    check_names(names)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("Got --device cuda, but torch sees no GPU: use --device cpu, or install a CUDA driver.")
    if options.threads:
        torch.set_num_threads(options.threads)
    journal = Journal(options.out / RESULTS)
    machine = describe_machine(options.threads)
    check_machine(journal, machine, options.out)
    cases = list(all_cases(names, options))
    for number in range(options.rounds):
        for case in cases:
            visit(journal, case, number, options, log)
        rows = throughput_rows(journal)
        text = _write(rows, options, machine)
    return text


def check_names(names: Sequence[str]) -> None:
    """Refuse names that neither softfree nor timm knows.

    Raises:
        UserError: In one line.
    """
    import timm

    unknown = [name for name in names if name.partition(" ")[0] not in MODELS and not timm.is_model(name)]
    if unknown:
        raise UserError(f"Unknown models {', '.join(unknown)}: expected names of 'softfree models' or of timm")


def check_machine(journal: Journal, machine: str, folder: Path) -> None:
    """Note the machine with the first results, and refuse to add those of another.

    Raises:
        UserError: In one line.
    """
    for row in journal.results(what="machine"):
        if row["machine"] != machine:
            raise UserError(f"{folder} holds results of {row['machine']}, this is {machine}: give another --out")
        return
    journal.put({"what": "machine"}, "ok", machine=machine)


def all_cases(names: Sequence[str], options: ThroughputBenchOptions) -> Iterator[BenchCase]:
    """Yield the cases: one image of the first side with all models first, then larger batches, types and sides."""
    for side in options.sides:
        batches = dict.fromkeys(max(1, round(batch * (options.sides[0] / side) ** 2)) for batch in options.batches)
        for precision in options.precisions:
            for batch in batches:
                for name in names:
                    layout = (("channels_last", True),) if name.startswith(CONVOLUTIONAL) else ()
                    yield BenchCase("model", name, side, precision, batch=batch, device=options.device, options=layout)


def visit(
    journal: Journal, case: BenchCase, number: int, options: ThroughputBenchOptions, log: Callable[[str], None]
) -> None:
    """Measure a case once more, unless this visit is done or an earlier one shows that it cannot be."""
    entry = named(case) | {"visit": number}
    if entry in journal:
        return
    before = list(journal.results(**named(case)))
    if any(row["status"] != "ok" for row in before):
        return
    reason = _reason_to_skip(journal, case, options)
    if reason:
        journal.put(entry, "skipped", reason=reason)
        return
    journal.begin(entry)
    started = time.monotonic()
    try:
        journal.put(entry, **_measured(case, options, check=not before))
    except torch.OutOfMemoryError:
        journal.put(entry, "out of memory")
    except Exception as error:  # one impossible case must not stop the others
        journal.put(entry, "failed", reason=" ".join(str(error).split())[:200] or type(error).__name__)
    finally:
        release(case.device)
    row = next(journal.results(**entry))
    shown = f"{row['ms']:.1f} ms" if "ms" in row else f"{row['status']} {row.get('reason', '')}"
    seconds = time.monotonic() - started
    log(f"{number + 1}: {case.method} {case.size} px, batch {case.batch}, {case.precision}: {shown} ({seconds:.0f} s)")


def named(case: BenchCase) -> dict[str, Any]:
    """Give the values that name a case in the results."""
    names = ("method", "size", "batch", "precision", "device")
    return {"what": "throughput", **{name: getattr(case, name) for name in names}}


def _measured(case: BenchCase, options: ThroughputBenchOptions, check: bool) -> dict[str, Any]:
    own = case.method.partition(" ")[0] in MODELS
    if own and check and case.batch == 1:
        error = numerical_error(case)
        if not error <= TOLERANCES[case.precision]:
            return {"status": "wrong", "error": error}
    step = prepare(case)
    return {"status": "ok", **timed(step, case.device, seconds=options.seconds, least=1, warm=1)}


def _reason_to_skip(journal: Journal, case: BenchCase, options: ThroughputBenchOptions) -> str:
    """Say why a case is not begun: too much memory, or too much time, by that of a smaller one."""
    floats = case.batch * case.size**2 * 3 * 60 * case.type.itemsize  # a stage of 60 channels at full size, generously
    if case.device == "cpu" and floats > 0.8 * available_or_assumed():
        return f"needs about {floats / 2**30:.1f} GiB"
    same = named(case)
    seconds = 0.0
    for row in journal.results(what="throughput", method=case.method, precision=case.precision, device=case.device):
        if row["status"] != "ok" or {**row, **same} == row:
            continue
        images = case.batch * case.size**2 / (row["batch"] * row["size"] ** 2)
        seconds = max(seconds, row["ms"] / 1e3 * images) if images >= 1 else seconds
    return f"would take about {seconds:.0f} s per run" if seconds > options.limit else ""


def throughput_rows(journal: Journal) -> pd.DataFrame:
    """Return one row for each case: the median of its visits in ms, the fastest and slowest, images per second."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in journal.results(what="throughput"):
        entry = {name: row[name] for name in ("method", "size", "batch", "precision", "device")}
        groups.setdefault(json.dumps(entry), []).append(row)
    rows = []
    for key, visits in groups.items():
        bad = [visit for visit in visits if visit["status"] != "ok"]
        row = {
            **json.loads(key),
            "status": bad[0]["status"] if bad else "ok",
            "reason": bad[0].get("reason", "") if bad else "",
        }
        if not bad:
            times = [visit["ms"] for visit in visits]
            middle = statistics.median(times)
            row |= {"ms": middle, "ms_low": min(times), "ms_high": max(times), "visits": len(times)}
            row |= {"images_per_second": 1e3 * row["batch"] / middle}
        rows.append(row)
    return pd.DataFrame(rows)


def throughput_table(rows: pd.DataFrame) -> str:
    """Lay out images per second, one row for each model, one column for each side, batch and type."""
    known = published().drop_duplicates("model").set_index("model")["top1"].to_dict()
    columns = list(dict.fromkeys(zip(rows["size"], rows["batch"], rows["precision"], strict=True)))
    heads = [f"{size} px, batch {batch}, {precision}" for size, batch, precision in columns]
    lines = []
    for method, group in rows.groupby("method", sort=False):
        cells = {(r["size"], r["batch"], r["precision"]): _cell(r) for r in group.to_dict("records")}
        top1 = f"{known[str(method)]:.2f}".rstrip("0").rstrip(".") if method in known else ""
        lines.append((method, top1, *(cells.get(column, "") for column in columns)))
    return markdown_table(("model", "published Top-1, %", *heads), lines)


def _cell(row: Mapping[Any, Any]) -> str:
    if row["status"] != "ok":
        return str(row["status"])
    value = row["images_per_second"]
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _write(rows: pd.DataFrame, options: ThroughputBenchOptions, machine: str) -> str:
    caveats = "\n".join(f"- {sentence}" for sentence in CAVEATS)
    text = f"Images per second, inference; {machine}.\n\n{throughput_table(rows)}\n{caveats}\n"
    write_record(options.out / "throughput.csv", rows, vars(options), machine=machine, text=text)
    if (rows["status"] == "ok").any():
        plot_throughput(options.out / "throughput.png", rows, published(), machine)
    return text
