"""Rows of ``softfree-lab bench edge``: ratios to softmax, to PyTorch and to float32, and Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from softfree_lab.bench.edge_cases import PYTORCH

KEY = ["method", "runtime", "precision", "threads", "size"]
NOTE = (
    "Softmax is onnxruntime's own fused MultiHeadAttention; \"softmax standard\" is ONNX's operator Attention. Ratios "
    "with one thread are of processor time, which other work on the machine disturbs less; with more of latency."
)
# Title, column, digits.
SHOWN = (
    ("Latency, milliseconds (median)", "ms", 0),
    ("Processor time, milliseconds (median)", "cpu_ms", 0),
    ("Times as fast as softmax in the same runtime and precision", "over_softmax", 2),
    ("Times as fast as PyTorch in float32 with as many threads", "over_pytorch", 2),
    ("Times as fast as float32 in the same runtime", "over_float32", 2),
    ("Peak memory, MiB, of weights, input, runtime and run", "peak_mib", 0),
    ("Peak memory over that of softmax", "memory_to_softmax", 2),
    ("Energy of an inference, joules, of all processors", "joules", 2),
    ("Largest difference of a logit from PyTorch's, over the largest logit", "error", 6),
)


def clock_of(threads: int) -> str:
    """Name the time that ratios are made of: with one thread the processor's, which other work disturbs less."""
    return "cpu_ms" if threads == 1 else "ms"


def with_ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """Add how many times as fast each row is as softmax, as PyTorch and as float32, and its memory over softmax's."""
    counted = rows["cpu_ms"].where(rows["threads"].map(clock_of) == "cpu_ms", rows["ms"]).astype(float)
    timed = rows.assign(counted=counted)
    return rows.assign(
        over_softmax=_of(timed, {"method": "softmax"}, "counted") / counted,
        over_pytorch=_of(timed, {"runtime": PYTORCH, "precision": "float32"}, "counted") / counted,
        over_float32=_of(timed, {"precision": "float32"}, "counted") / counted,
        memory_to_softmax=rows["peak_mib"].astype(float) / _of(rows, {"method": "softmax"}, "peak_mib"),
    )


def _of(rows: pd.DataFrame, other: dict[str, str], name: str) -> pd.Series:
    """Give a column of the row that each row is compared with; NaN where there is none."""
    wanted = pd.MultiIndex.from_frame(rows[KEY].assign(**other))
    found = rows.set_index(KEY)[name].astype(float).reindex(wanted)
    return pd.Series(found.to_numpy(), index=rows.index)


def edge_tables(rows: pd.DataFrame, title: str) -> str:
    """Write all tables that have a number, a row for each method, and what was left out and why."""
    parts = [title + "\n", NOTE + "\n"]
    for heading, name, digits in SHOWN:
        if rows[name].notna().any():
            parts += [f"{heading}:\n", _by_side(rows, name, digits)]
        elif name == "joules":
            parts += ["Energy: this machine has no counters that can be read (/sys/class/powercap/intel-rapl:*).\n"]
    files = rows.dropna(subset="file_mb").drop_duplicates(["method", "runtime", "precision"])
    if len(files):
        kept = [(row.method, row.runtime, row.precision, f"{row.file_mb:.1f}") for row in files.itertuples()]
        parts += ["Files, MB:\n", _markdown(("method", "runtime", "precision", "MB"), kept)]
    left = rows[rows["status"] != "ok"]
    if len(left):
        names = [*KEY, "status", "reason"]
        parts += ["Left out:\n", _markdown(names, left[names].to_numpy().tolist())]
    return "\n".join(parts)


def _by_side(rows: pd.DataFrame, name: str, digits: int) -> str:
    sides = sorted(rows["size"].unique())
    lines = []
    for key, part in rows.groupby(KEY[:-1], sort=False):
        cells = part.set_index("size")[name].reindex(sides)
        if cells.notna().any():
            lines.append([*key, *("" if pd.isna(cell) else f"{cell:,.{digits}f}" for cell in cells)])
    return _markdown((*KEY[:-1], *(f"{side:,}" for side in sides)), lines)


def _markdown(names: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    head = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    return "\n".join([*head, *("| " + " | ".join(map(str, line)) + " |" for line in lines)]) + "\n"
