"""The report of the GPU benchmark: what was reached, as Markdown, and its two figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from softfree_lab.bench.cases import FLOOR
from softfree_lab.bench.journal import Journal
from softfree_lab.bench.plots import plot_growth
from softfree_lab.bench.throughput import published, throughput_rows, throughput_table
from softfree_lab.bench.throughput_plot import CAVEATS, plot_throughput
from softfree_lab.records import markdown_table
from softfree_runtime.core.files import write_atomically

Row = dict[str, Any]
SIDE_NAME = "side of the image, pixels"


def write_report(out: Path, journal: Journal, device: str) -> str:
    """Write ``report.md``, ``figure2.png`` and ``throughput.png`` from the results so far; return the report."""
    machine = next(journal.results(section="machine"), {})
    parts = [
        f"# {'GPU' if device == 'cuda' else 'Rehearsal on a processor'}: {machine.get('machine', '')}\n",
        _machine(machine),
    ]
    parts += [*_correct(journal), *_sublayer(journal), *_models(journal), *_profiles(journal), *_training(journal)]
    rows = throughput_rows(journal)
    title = str(machine.get("machine", ""))
    if len(rows):
        parts += ["## Throughput beside published accuracy, images per second\n", throughput_table(rows)]
        parts.append("\n".join(f"- {sentence}" for sentence in CAVEATS) + "\n")
        if (rows["status"] == "ok").any():
            parts += _drawn(lambda: plot_throughput(out / "throughput.png", rows, published(), title))
    parts += _drawn(lambda: _figure2(out / "figure2.png", journal, title))
    parts += _not_measured(journal)
    text = "\n".join(parts)
    write_atomically(out / "report.md", text)
    return text


def _drawn(draw: Callable[[], None]) -> list[str]:
    """Draw a figure, and say why it is missing rather than lose the numbers."""
    try:
        draw()
    except Exception as error:
        return [f"A figure could not be drawn: {type(error).__name__}: {error}\n"]
    return []


def _machine(row: Row) -> str:
    left_out = ("section", "device", "status", "machine", "versions")
    facts = [f"{name}: {value}" for name, value in row.items() if name not in left_out and value not in (None, "")]
    libraries = [f"{name} {number}" for name, number in row.get("versions", {}).items()]
    return f"{'; '.join(facts)}\n\n{', '.join(libraries)}\n"


def _correct(journal: Journal) -> Iterable[str]:
    values = list(journal.results(section="correct", what="values"))
    if values:
        yield "## Correctness: largest deviation from float64, values and gradient\n"
        lines = [
            (row["attention"], row["precision"], row["status"], f"{row.get('error', float('nan')):.1e}",
             f"{row.get('gradient_error', float('nan')):.1e}")
            for row in values
        ]  # fmt: skip
        yield markdown_table(("attention", "type", "result", "values", "gradient"), lines)
    for row in journal.results(section="correct", what="tests"):
        numbers = ", ".join(f"{row[name]} {name}" for name in ("passed", "failed", "error", "skipped") if row.get(name))
        yield f"{row['folder']}: {row['status']}; {numbers or row.get('reason', 'none ran')}\n"
        yield "".join(f"- failed: `{name}`\n" for name in row.get("failures", ()))
        yield "".join(f"- could not be imported here: `{name}`\n" for name in row.get("not_collected", ()))
    for row in journal.results(section="correct", what="kernels"):
        yield "Kernels that take most of the time, forward and backward:\n"
        yield "".join(
            f"- {name}: {', '.join(f'`{kernel}`' for kernel in kernels)}\n"
            for name, kernels in row.get("kernels", {}).items()
        )


def _sublayer(journal: Journal) -> Iterable[str]:
    rows = list(journal.results(section="sublayer", kind="attention"))
    if not rows:
        return
    yield "## One sublayer, C = 384, H = 6: milliseconds (relative to the bare products; MiB at the peak)\n"
    floors = {
        (row["size"], row["precision"], row["passes"]): row["ms"]
        for row in rows
        if row["method"] == FLOOR and row["status"] == "ok"
    }
    sizes = sorted({row["size"] for row in rows})
    lines: dict[tuple[str, str, str, str], dict[int, str]] = {}
    for row in rows:
        key = (row["method"], "compiled" if row["compiled"] else "", row["passes"], row["precision"])
        lines.setdefault(key, {})[row["size"]] = _cell(row, floors.get((row["size"], row["precision"], row["passes"])))
    body = [
        (*key, *(cells.get(size, "") for size in sizes))
        for key, cells in sorted(lines.items(), key=lambda line: line[0][2:])
    ]
    yield markdown_table(("method", "", "pass", "type", *(f"{size:,}" for size in sizes)), body)
    chosen = {row["method"]: ", ".join(row["kernels"]) for row in rows if row.get("kernels")}
    yield "".join(f"- {method}: {names}\n" for method, names in chosen.items())


def _cell(row: Row, floor: float | None = None) -> str:
    if row["status"] != "ok":
        return str(row["status"])
    more = [f"{row['ms'] / floor:.2f} x"] if floor else []
    more += [f"{row['peak_mib']:,.0f} MiB"] if row.get("peak_mib") is not None else []
    return f"{row['ms']:.3g}" + (f" ({'; '.join(more)})" if more else "")


def _models(journal: Journal) -> Iterable[str]:
    rows = list(journal.results(section="models", kind="model"))
    if not rows:
        return
    sides = sorted({row["size"] for row in rows})
    yield "## Whole models: milliseconds (MiB at the peak); the largest batch: images per second (images)\n"
    lines: dict[tuple[str, str, str, str], dict[int, str]] = {}
    for row in rows:
        largest = row["batch"] == "largest"
        key = (
            row["method"],
            "compiled" if row["compiled"] else "",
            row["passes"],
            "largest" if largest else str(row["batch"]),
        )
        fits = largest and row["status"] == "ok"
        lines.setdefault(key, {})[row["size"]] = (
            f"{row['images_per_second']:,.0f} ({row['images']})" if fits else _cell(row)
        )
    body = [
        (*key, *(cells.get(side, "") for side in sides))
        for key, cells in sorted(lines.items(), key=lambda line: line[0][2:])
    ]
    yield markdown_table(("model", "", "pass", "batch", *(f"{side} px" for side in sides)), body)


def _profiles(journal: Journal) -> Iterable[str]:
    rows = list(journal.results(section="profiles"))
    for row in (row for row in rows if row.get("what") == "roof" and row["status"] == "ok"):
        yield "## Profile (profile.txt has the kernels)\n"
        yield f"The roof, measured: {row['tflops']} TFLOP/s, {row['gb_per_second']} GB/s.\n"
    parts = [row for row in rows if row.get("passes") and row["status"] == "ok"]
    if parts:
        lines = [
            (row["what"], row["passes"], f"{row['ms']:.3g}", f"{row['gflop']:,.1f}", f"{row['of_product_roof']:.0%}",
             f"{row['of_memory_roof']:.0%}" if "of_memory_roof" in row else "")
            for row in parts
        ]  # fmt: skip
        yield markdown_table(("part", "pass", "ms", "GFLOP", "of the products' roof", "of the memory's roof"), lines)


def _training(journal: Journal) -> Iterable[str]:
    for row in journal.results(section="training", what="demonstration"):
        done = (
            f"{row['seconds']} s at {row['side']} pixels; AUROC {row['auroc']}"
            if row["status"] == "ok"
            else row.get("reason", "")
        )
        yield f"## The demonstration's training\n\n{row['status']}: {done}\n"


def _not_measured(journal: Journal) -> Iterable[str]:
    rows = [row for row in journal.results() if row.get("reason") or row["status"] in ("out of memory", "wrong")]
    if rows:
        named = ("section", "what", "method", "attention", "size", "precision", "passes", "batch")
        lines = [
            (" ".join(str(row[name]) for name in named if name in row), row["status"], row.get("reason", ""))
            for row in rows
        ]
        yield "## Not measured\n"
        yield markdown_table(
            ("case", "result", "reason"), [[str(cell).replace("|", "/") for cell in line] for line in lines]
        )


def _figure2(path: Path, journal: Journal, machine: str) -> None:
    """Draw time and memory of one image by side, as the paper's Figure 2 draws the duration of an epoch and memory."""
    rows = [
        {**row, "method": f"{row['method']}{' compiled' if row['compiled'] else ''}"}
        for row in journal.results(section="models", kind="model", batch=1)
    ]
    frame = pd.DataFrame(row for row in rows if row.get("peak_mib") is not None)  # of a processor it is not known
    if len(frame):
        frame = frame.sort_values("size", kind="stable")
        plot_growth(path, frame, size_name=SIDE_NAME, title=f"One image, forward pass and training step\n{machine}")
