"""``softfree-lab bench stream``: images of any size as streams, and beside them in memory where they fit."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from softfree.core.environment import current_memory, describe_machine, peak_memory
from softfree.core.precision import products_in
from softfree.models import create_model
from softfree_lab.bench.options import StreamBenchOptions
from softfree_lab.bench.records import write_record
from softfree_lab.bench.stream import NoiseRows, slide_rows, time_stream

SHOWN = {
    "image": "pixels",
    "way": "way",
    "tokens": "tokens",
    "seconds": "seconds",
    "tokens_per_second": "tokens a second",
    "peak_mib": "peak, MiB",
    "ratio": "time over the bare products",
}


def bench_stream(options: StreamBenchOptions, tell: Callable[[str], None] = print) -> str:
    """Time each side in a process of its own; write the rows after each, and give the table as Markdown."""
    cases = [
        (side, way)
        for side in sorted(options.sides)
        for way in (("in memory", "stream") if side <= options.whole else ("stream",))
    ]
    rows: list[dict[str, Any]] = []
    for image, way in [(path, "stream") for path in options.slides] or cases:
        name = image.name if isinstance(image, Path) else f"{image} x {image}"
        tell(f"{way}, {name}")
        rows.append({"image": name, "way": way} | _alone(options, image, way))
        text = _write(pd.DataFrame(rows), options)
    return text


def _alone(options: StreamBenchOptions, image: int | Path, way: str) -> dict[str, Any]:
    """The peak of a process is its highest ever: each case has its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_case, options, image, way).result()


def _case(options: StreamBenchOptions, image: int | Path, way: str) -> dict[str, Any]:
    if options.threads:
        torch.set_num_threads(options.threads)
    found = _whole(options, image) if way == "in memory" and isinstance(image, int) else _stream(options, image)
    return found | {"peak_mib": found.pop("peak_bytes") / 2**20}


def _stream(options: StreamBenchOptions, image: int | Path) -> dict[str, Any]:
    return time_stream(
        slide_rows(image) if isinstance(image, Path) else image,
        options.model,
        options.training,
        "ram" if options.token_store is None else options.token_store,
        torch.bfloat16 if options.token_bf16 else None,
        options.token_chunk,
        str(options.precision),
        progress=options.progress,
    )


def _whole(options: StreamBenchOptions, side: int) -> dict[str, Any]:
    """The same model on the whole image, after a first run that makes its buffers."""
    torch.manual_seed(0)
    model = create_model(options.model, num_classes=2, pos="sincos").train(options.training)
    before = current_memory()
    image = NoiseRows(side).read(0, side).unsqueeze(0)
    for _ in range(2):
        started = time.perf_counter()
        with products_in(options.precision), torch.set_grad_enabled(options.training):
            logits = model(image)
            if options.training:
                logits.logsumexp(1).sum().backward()
        seconds = time.perf_counter() - started
    tokens = (-(-side // model.patch_size)) ** 2
    return {
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_bytes": peak_memory() - before,
    }


def _write(rows: pd.DataFrame, options: StreamBenchOptions) -> str:
    what = "forward and backward" if options.training else "inference"
    title = f"{options.model}, {what}, precision {options.precision}; {describe_machine()}."
    lines = ["| " + " | ".join(SHOWN.values()) + " |", "|---" * len(SHOWN) + "|"]
    lines += ["| " + " | ".join(_cell(name, row.get(name)) for name in SHOWN) + " |" for row in rows.to_dict("records")]
    text = "\n".join([title, "", *lines, ""])
    if options.out is not None:
        name = f"{'slides' if options.slides else 'stream'}_{'training' if options.training else 'inference'}"
        stated = vars(options) | {
            "slides": [path.name for path in options.slides],
            "token_store": options.token_store and "a folder on a disk",
        }
        write_record(options.out / f"{name}.csv", rows, stated, machine=describe_machine(), text=text)
    return text


def _cell(name: str, value: Any) -> str:
    if name in ("image", "way"):
        return str(value)
    if pd.isna(value):
        return ""
    return f"{value:,.2f}" if name in ("seconds", "ratio") else f"{value:,.0f}"
