"""``softfree-lab bench attention``, ``bench model`` and ``bench orders``: sets of cases, and the files made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pandas as pd
import torch

from softfree.core.environment import describe_machine
from softfree.models.registry import IMAGE_MODELS
from softfree_lab.bench.cases import FLOOR, BenchCase
from softfree_lab.bench.measure import Budget, measure
from softfree_lab.bench.options import AttentionBenchOptions, ModelBenchOptions, OrderBenchOptions, SpeedOptions
from softfree_lab.bench.plots import plot_growth
from softfree_lab.bench.records import write_record
from softfree_lab.bench.summary import crossovers, growth, wide_table, with_ratios
from softfree_runtime.core.errors import UserError

PATCH = 16  # pixels of a token's side, to say what an image's side means
FITTED_FROM = 4096  # tokens


def bench_attention(options: AttentionBenchOptions, tell: Callable[[str], None] = print) -> str:
    """Measure a sublayer or an encoder over sequence lengths; write the files and give the tables as Markdown."""
    cases = [
        BenchCase(
            "attention",
            method,
            size,
            precision,
            passes,
            options.batch_size,
            width=options.width,
            heads=options.heads,
            depth=options.depth,
            compiled=options.compile and method != FLOOR,
            device=options.device,
        )
        for passes in options.passes
        for precision in options.precision
        for size in sorted(options.tokens)
        for method in [FLOOR, *options.methods]
    ]
    rows = with_ratios(measure(cases, _budget(options), tell))
    what = f"Encoders of {options.depth} blocks" if options.depth else "One attention sublayer"
    title = f"{what}, C = {options.width}, H = {options.heads}, batch {options.batch_size}"
    return _write(rows, rows["size"], options, "encoder" if options.depth else "attention", "tokens", title)


def bench_model(options: ModelBenchOptions, tell: Callable[[str], None] = print) -> str:
    """Measure whole models and published peers over image sides; write the files and return the tables."""
    training = (("grad_checkpointing", options.grad_checkpointing), ("mlp_chunk", options.mlp_chunk))
    own = [method for method in options.models if method.partition(" ")[0] in IMAGE_MODELS]
    if not own:
        raise UserError(f"Got --models {options.models}: expected at least one of softfree's; see: softfree models")
    case_options = {FLOOR: (("floor_of", own[0].partition(" ")[0]),), **dict.fromkeys(own, training)}
    cases = [
        BenchCase(
            "model",
            method,
            size,
            precision,
            passes,
            options.batch_size,
            compiled=options.compile and method != FLOOR,
            device=options.device,
            options=case_options.get(method, ()),
        )
        for passes in options.passes
        for precision in options.precision
        for size in sorted(options.sides)
        for method in [FLOOR, *options.models, *options.peer]
    ]
    rows = with_ratios(measure(cases, _budget(options), tell))
    tokens = rows["size"].map(lambda side: math.ceil(side / PATCH) ** 2)
    return _write(
        rows, tokens, options, "model", "side of the image, pixels", f"Whole models, batch {options.batch_size}"
    )


def bench_orders(options: OrderBenchOptions, tell: Callable[[str], None] = print) -> str:
    """Find from which number of tokens SeqNorm's Gram order is faster than the folded one, for several widths."""
    found = []
    for width in options.widths:
        cases = [
            BenchCase(
                "attention",
                method,
                size,
                precision,
                passes,
                options.batch_size,
                width,
                width // 64,
                device=options.device,
            )
            for passes in options.passes
            for precision in options.precision
            for size in sorted({max(1, round(width * multiple)) for multiple in options.multiples})
            for method in ("seqnorm literal", "seqnorm folded", "seqnorm gram")
        ]
        rows = measure(cases, _budget(options), lambda line, width=width: tell(f"C = {width}: {line}"))  # type: ignore[misc]
        found.append(rows)
    rows = pd.concat(found, ignore_index=True)
    ahead = []
    for part in found:
        crossing, features = crossovers(part), int(part["width"].iloc[0])
        gram = crossing[(crossing["faster"] == "seqnorm gram") & (crossing["slower"] == "seqnorm folded")]
        ahead.append(gram.assign(width=features, per_feature=(gram["size"] / features).round(2)))
    table = pd.concat(ahead)[["width", "passes", "precision", "size", "per_feature"]]
    text = (
        "Tokens from which the Gram order is faster than the folded one:\n\n"
        + _markdown(table)
        + f"\nMedian: {table['per_feature'].median():.2f} tokens per feature.\n\n{describe_machine(options.threads)}\n"
    )
    _save(rows, options, "orders", text)
    return text


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
        "Peak memory, MiB, of weights, input and run:\n",
        wide_table(rows[rows["method"] != FLOOR], "peak_mib", 0),
        "Time over that of the bare matrix products:\n",
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
        parts += [f"Where another method becomes the faster ({size_name}):\n", _markdown(crossing)]
    left_out = rows[rows["status"] != "ok"]
    if len(left_out):
        parts += ["Left out:\n", _markdown(left_out[["method", "size", "precision", "passes", "status", "reason"]])]
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
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|---" * len(table.columns) + "|"]
    rows: Sequence[Sequence[object]] = table.to_numpy().tolist()
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)]) + "\n"
