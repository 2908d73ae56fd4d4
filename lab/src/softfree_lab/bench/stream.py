"""``softfree-lab bench stream``: time and memory of streamed images, relative to the bare matrix products."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
from torch import Tensor

from softfree.core.environment import current_memory, describe_machine, peak_memory
from softfree.core.precision import DTYPES, products_in
from softfree.data.modalities.slide_rows import SlideRows
from softfree.data.slide_readers.slide import open_slide
from softfree.models import create_model
from softfree.models.vit import VisionTransformer
from softfree.streaming import Rows, Streaming, stream_backward, stream_forward
from softfree_lab.bench.options import StreamBenchOptions
from softfree_lab.bench.worker import process_context
from softfree_lab.records import markdown_table, to_stderr, write_record
from softfree_runtime.core.errors import UserError

REPEATED = 256  # rows of noise, repeated over the image


class NoiseRows:
    """A square image of noise that needs little memory because it repeats a few rows.

    Args:
        side: Side in pixels.
        channels: Number of channels.
    """

    def __init__(self, side: int, channels: int = 3) -> None:
        self.shape = (channels, side, side)
        generator = torch.Generator().manual_seed(0)
        self.rows = torch.randint(0, 256, (channels, min(side, REPEATED), side), dtype=torch.uint8, generator=generator)

    def read(self, top: int, bottom: int) -> Tensor:
        """Return the rows from ``top`` up to ``bottom``, (channels, bottom - top, side), standardized."""
        rows = torch.arange(top, bottom) % self.rows.shape[1]
        return self.rows[:, rows].float().sub_(127.5).div_(73.9)


def slide_rows(path: str | Path) -> SlideRows:
    """Open a whole slide at its finest resolution, normalized like photographs."""
    slide = open_slide(path)
    return SlideRows(slide, max(slide.mpp), lambda pixels: pixels.float().sub_(127.5).div_(73.9))


def time_stream(
    image: int | Rows,
    model_name: str = "seqnorm_vit_small_patch16",
    training: bool = False,
    store: str | Path = "ram",
    dtype: torch.dtype | None = None,
    chunk: int = 8192,
    precision: str = "fp32",
    progress: bool = False,
) -> dict[str, Any]:
    """Stream one image through a fresh model, once.

    Args:
        image: Side of a square of noise in pixels, or a source of rows of pixels.
        model_name: A vision transformer that can stream.
        training: Measure forward and backward instead of forward only.
        store: "ram", or a folder for the tokens.
        dtype: Type in which tokens are stored; None for their own.
        chunk: Number of tokens processed at a time.
        precision: "fp32", or "bf16" for autocast.
        progress: Show a progress bar.

    Returns:
        ``tokens``, ``seconds``, ``tokens_per_second``, ``peak_bytes`` (increase over the memory before),
        ``product_seconds`` (of the bare matrix products on a chunk, times the number of chunks) and ``ratio``
        of the two times.

    Raises:
        UserError: Another precision, or a model that cannot stream.
    """
    if precision not in ("fp32", "bf16"):
        raise UserError(f"Got precision {precision!r}: expected 'fp32' or 'bf16'.")
    torch.manual_seed(0)
    model = timm.create_model(model_name, num_classes=2, pos="sincos")
    if not isinstance(model, VisionTransformer):
        raise UserError(f"Got {model_name}: expected a vision transformer for images.")
    model.train(training)
    image = NoiseRows(image) if isinstance(image, int) else image
    streaming = Streaming(store, dtype, chunk, progress)
    tokens = math.prod(-(-side // model.patch_size) for side in image.shape[1:])
    before, started = current_memory(), time.perf_counter()
    with products_in(precision):
        if training:
            stream_backward(model, image, lambda logits: logits.logsumexp(1).sum(), streaming)
        else:
            stream_forward(model, image, streaming)
    seconds, peak = time.perf_counter() - started, peak_memory() - before
    # The backward pass has the recomputation and two products for each product of the forward pass.
    products = _product_seconds(model, min(chunk, tokens), precision) * tokens * (4 if training else 1)
    return {
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "peak_bytes": peak,
        "product_seconds": products,
        "ratio": seconds / products,
    }


@torch.inference_mode()
def _product_seconds(model: VisionTransformer, chunk: int, precision: str) -> float:
    """Measure the products of all layers on a chunk, the fastest of three runs, in seconds per token."""
    dtype = DTYPES[precision]
    width, pixels = model.embed_dim, model.in_chans * model.patch_size**2
    hidden = max((int(block.hidden) for block in model.blocks), default=0)  # type: ignore[arg-type]
    x, wide, patches = (torch.randn(chunk, side, dtype=dtype) for side in (width, hidden, pixels))
    square, up, down, embed = (
        torch.randn(*sides, dtype=dtype)
        for sides in ((width, width), (width, hidden), (hidden, width), (pixels, width))
    )
    times = []
    for _ in range(3):
        started = time.perf_counter()
        _ = (x.T @ x, x @ square, x @ up, wide @ down)
        layer, started = time.perf_counter() - started, time.perf_counter()
        _ = patches @ embed
        times.append(layer * len(model.blocks) + time.perf_counter() - started)
    return min(times) / chunk


SHOWN = {
    "image": "pixels",
    "way": "mode",
    "tokens": "tokens",
    "seconds": "seconds",
    "tokens_per_second": "tokens per second",
    "peak_mib": "peak, MiB",
    "ratio": "time relative to the bare products",
}


def bench_stream(options: StreamBenchOptions, log: Callable[[str], None] = to_stderr) -> str:
    """Measure each side in its own process; write the rows after each, and return the table as Markdown."""
    cases = [
        (side, way)
        for side in sorted(options.sides)
        for way in (("in memory", "stream") if side <= options.whole else ("stream",))
    ]
    rows: list[dict[str, Any]] = []
    for image, way in [(path, "stream") for path in options.slides] or cases:
        name = image.name if isinstance(image, Path) else f"{image} x {image}"
        log(f"{way}, {name}")
        rows.append({"image": name, "way": way} | _in_own_process(options, image, way))
        text = _write(pd.DataFrame(rows), options)
    return text


def _in_own_process(options: StreamBenchOptions, image: int | Path, way: str) -> dict[str, Any]:
    """Run a case in its own process, since the peak memory of a process never decreases."""
    with ProcessPoolExecutor(1, mp_context=process_context(__name__)) as pool:
        return pool.submit(_case, options, image, way).result()


def _case(options: StreamBenchOptions, image: int | Path, way: str) -> dict[str, Any]:
    if options.threads:
        torch.set_num_threads(options.threads)
    row = _whole(options, image) if way == "in memory" and isinstance(image, int) else _stream(options, image)
    return row | {"peak_mib": row.pop("peak_bytes") / 2**20}


def _stream(options: StreamBenchOptions, image: int | Path) -> dict[str, Any]:
    return time_stream(
        slide_rows(image) if isinstance(image, Path) else image,
        options.model,
        options.training,
        "ram" if options.token_store is None else options.token_store,
        torch.bfloat16 if options.token_bf16 else None,
        options.token_chunk,
        options.precision,
        progress=options.progress,
    )


def _whole(options: StreamBenchOptions, side: int) -> dict[str, Any]:
    """Measure the same model on the whole image, after a warm-up run."""
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
    lines = [[_cell(name, row.get(name)) for name in SHOWN] for row in rows.to_dict("records")]
    text = f"{title}\n\n{markdown_table(SHOWN.values(), lines)}"
    if options.out is not None:
        name = f"{'slides' if options.slides else 'stream'}_{'training' if options.training else 'inference'}"
        recorded = vars(options) | {
            "slides": [path.name for path in options.slides],
            "token_store": options.token_store and "a folder on a disk",
        }
        write_record(options.out / f"{name}.csv", rows, recorded, machine=describe_machine(), text=text)
    return text


def _cell(name: str, value: Any) -> str:
    if name in ("image", "way"):
        return str(value)
    if pd.isna(value):
        return ""
    return f"{value:,.2f}" if name in ("seconds", "ratio") else f"{value:,.0f}"
