"""``softfree-lab bench attention``, ``bench model`` and ``bench orders``: their cases and their reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import pandas as pd
import torch

from softfree.core.environment import describe_machine
from softfree.models.registry import IMAGE_MODELS
from softfree_lab.bench.cases import FLOOR, BenchCase
from softfree_lab.bench.measure import Budget, measure
from softfree_lab.bench.options import AttentionBenchOptions, ModelBenchOptions, OrderBenchOptions, SpeedOptions
from softfree_lab.bench.plots import plot_growth
from softfree_lab.bench.summary import crossovers, growth, wide_table, with_ratios
from softfree_lab.records import markdown_table, to_stderr, write_record
from softfree_runtime.core.errors import UserError

PATCH = 16  # pixels; converts the side of an image to tokens
FITTED_FROM = 4096  # tokens


def bench_attention(options: AttentionBenchOptions, log: Callable[[str], None] = to_stderr) -> str:
    """Measure a sublayer or an encoder by sequence length; write the files and return the tables as Markdown."""
    shape = {"width": options.width, "heads": options.heads, "depth": options.depth}
    cases = _cases("attention", [FLOOR, *options.methods], options.tokens, options, options.compile, shape)
    rows = with_ratios(measure(cases, _budget(options), log))
    what = f"Encoders of {options.depth} blocks" if options.depth else "One attention sublayer"
    title = f"{what}, C = {options.width}, H = {options.heads}, batch {options.batch_size}"
    return _write(rows, rows["size"], options, "encoder" if options.depth else "attention", "tokens", title)


def bench_model(options: ModelBenchOptions, log: Callable[[str], None] = to_stderr) -> str:
    """Measure whole models and published peers by image side; write the files and return the tables as Markdown."""
    training = (("grad_checkpointing", options.grad_checkpointing), ("mlp_chunk", options.mlp_chunk))
    own = [method for method in options.models if method.partition(" ")[0] in IMAGE_MODELS]
    if not own:
        raise UserError(f"Got --models {options.models}: expected at least one of softfree's; see: softfree models")
    case_options = {FLOOR: (("floor_of", own[0].partition(" ")[0]),), **dict.fromkeys(own, training)}
    methods = [FLOOR, *options.models, *options.peer]
    cases = [
        replace(case, options=case_options.get(case.method, ()))
        for case in _cases("model", methods, options.sides, options, options.compile)
    ]
    rows = with_ratios(measure(cases, _budget(options), log))
    tokens = rows["size"].map(lambda side: math.ceil(side / PATCH) ** 2)
    return _write(
        rows, tokens, options, "model", "side of the image, pixels", f"Whole models, batch {options.batch_size}"
    )


def bench_orders(options: OrderBenchOptions, log: Callable[[str], None] = to_stderr) -> str:
    """Find the number of tokens from which SeqNorm's Gram order is faster than the folded one, by width."""
    methods = ["seqnorm literal", "seqnorm folded", "seqnorm gram"]
    measured, ahead = [], []
    for width in options.widths:
        sizes = {max(1, round(width * multiple)) for multiple in options.multiples}
        cases = _cases("attention", methods, sizes, options, shape={"width": width, "heads": width // 64})
        rows = measure(cases, _budget(options), lambda line, width=width: log(f"C = {width}: {line}"))  # type: ignore[misc]
        measured.append(rows)
        crossing = crossovers(rows)
        gram = crossing[(crossing["faster"] == "seqnorm gram") & (crossing["slower"] == "seqnorm folded")]
        ahead.append(gram.assign(width=width, per_feature=(gram["size"] / width).round(2)))
    rows = pd.concat(measured, ignore_index=True)
    table = pd.concat(ahead)[["width", "passes", "precision", "size", "per_feature"]]
    title = "Tokens from which the Gram order is faster than the folded one"
    if len(table):
        result = f"{title}:\n\n{_markdown(table)}\nMedian: {table['per_feature'].median():.2f} tokens per feature."
    else:
        result = f"{title}: none of the measured sizes."
    text = f"{result}\n\n{describe_machine(options.threads)}\n"
    _save(rows, options, "orders", text)
    return text


def _cases(
    kind: Literal["attention", "model"],
    methods: Sequence[str],
    sizes: Iterable[int],
    options: SpeedOptions,
    compiled: bool = False,
    shape: Mapping[str, Any] | None = None,
) -> list[BenchCase]:
    """Combine passes, precisions, sizes and methods; the bare products are never compiled."""
    return [
        BenchCase(
            kind,
            method,
            size,
            precision,
            passes,
            options.batch_size,
            compiled=compiled and method != FLOOR,
            device=options.device,
            **(shape or {}),
        )
        for passes in options.passes
        for precision in options.precision
        for size in sorted(sizes)
        for method in methods
    ]


def _budget(options: SpeedOptions) -> Budget:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("Got --device cuda, but torch sees no GPU: use --device cpu, or install a CUDA driver.")
    return Budget(options.seconds, options.limit, options.threads)


def _write(rows: pd.DataFrame, tokens: pd.Series, options: SpeedOptions, name: str, size_name: str, title: str) -> str:
    machine = describe_machine(options.threads)
    parts = [
        f"{title}; {machine}.\n",
        "Milliseconds (median):\n",
        wide_table(rows, "ms", 1),
        "Peak memory, MiB (weights, input and run):\n",
        wide_table(rows[rows["method"] != FLOOR], "peak_mib", 0),
        "Time relative to the bare matrix products:\n",
        wide_table(rows[rows["method"] != FLOOR], "to_floor", 2),
    ]
    exponents = growth(rows, tokens, FITTED_FROM)
    if len(exponents):
        parts += [
            f"Growth with the number of tokens, from {FITTED_FROM:,} (exponent [95 % interval]):\n",
            _exponents(exponents),
        ]
    crossing = crossovers(rows)
    if len(crossing):
        parts += [f"Sizes from which another method is faster ({size_name}):\n", _markdown(crossing)]
    skipped = rows[rows["status"] != "ok"]
    if len(skipped):
        parts += ["Not measured:\n", _markdown(skipped[["method", "size", "precision", "passes", "status", "reason"]])]
    text = "\n".join(parts)
    _save(rows, options, name, text)
    if options.out is not None and (rows["status"] == "ok").any():
        plot_growth(options.out / f"{name}.png", rows, size_name=size_name, title=f"{title}\n{machine}")
    return text


def _save(rows: pd.DataFrame, options: SpeedOptions, name: str, text: str) -> None:
    if options.out is not None:
        machine = describe_machine(options.threads)
        write_record(options.out / f"{name}.csv", rows, vars(options), machine=machine, text=text)


def _exponents(table: pd.DataFrame) -> str:
    shown = table[["method", "passes", "precision", "sizes"]].copy()
    for name, title in (("ms", "time"), ("peak_mib", "memory")):
        shown[title] = [
            f"{value:.2f} [{low:.2f}, {high:.2f}]"
            for value, low, high in zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
        ]
    return _markdown(shown)


def _markdown(table: pd.DataFrame) -> str:
    return markdown_table(table.columns, table.to_numpy().tolist())
