"""Throughput against reading alone and the model alone on the same files; memory of few and many."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from softfree.data.modalities.image import ImagePreprocessing
from softfree_lab.bench.archive.setting import SIDE, Bench, Measured


def throughput(bench: Bench) -> Iterator[Measured]:
    """Throughput against reading alone and the model alone on the same files; memory of few and many."""
    count = bench.options.images
    many, few = bench.images(), bench.few()
    _, small = bench.predict([str(few)], bench.scratch / "of-few")
    out = bench.scratch / "of-all"
    seconds, large = bench.predict([str(many)], out)
    bench.progress = out / "progress.jsonl"
    reading, model = _alone(bench, many, _read_alone), _alone(bench, many, _model_alone)
    yield Measured(f"{count:,} images of {SIDE} x {SIDE}, whole command", count / seconds, "images/s")
    if (rate := _rate_of(bench.progress)) is not None:
        yield Measured("from the first line of progress to the last, without the start", rate, "images/s")
    yield Measured("reading and preparing alone, same number of processes", reading, "images/s")
    yield Measured("model alone, same number of processes", model, "images/s")
    both = 1 / (1 / reading + 1 / model)
    yield Measured("both, one after the other, as processors must that do both", both, "images/s")
    yield Measured(f"peak memory of the largest process, {bench.few_count:,} images", small / 2**20, "MiB")
    yield Measured(f"peak memory of the largest process, {count:,} images", large / 2**20, "MiB")


def _rate_of(log: Path) -> float | None:
    """Return the inputs per second between the first line of progress and the last; None if they are too near."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    first, last = (lines[number]["done"] for number in (0, -1))
    seconds = (datetime.fromisoformat(lines[-1]["time"]) - datetime.fromisoformat(lines[0]["time"])).total_seconds()
    return (last - first) / seconds if seconds >= 20 else None  # the times are whole seconds


def _alone(bench: Bench, folder: Path, what: Callable[[str, list[str]], float]) -> float:
    """Return images per second of one stage in as many processes as the command takes."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    workers = len(os.sched_getaffinity(0))
    files = sorted(map(str, folder.iterdir()))[: 256 * workers]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        seconds = pool.map(what, [bench.run] * workers, [files[number::workers] for number in range(workers)])
        return len(files) / max(seconds)


def _read_alone(run: str, files: list[str]) -> float:
    import torch

    from softfree.inference.run import Run

    torch.set_num_threads(1)
    preprocessing = Run.load(run).preprocessing
    assert isinstance(preprocessing, ImagePreprocessing)
    preprocessing.load_sized(files[0])
    start = time.perf_counter()
    for file in files:
        preprocessing.load_sized(file)
    return time.perf_counter() - start


def _model_alone(run: str, files: list[str]) -> float:
    import torch

    from softfree.inference.run import Run

    torch.set_num_threads(1)
    opened = Run.load(run)
    preprocessing, model = opened.preprocessing, opened.model.eval()
    assert isinstance(preprocessing, ImagePreprocessing)
    batch = torch.stack([torch.as_tensor(preprocessing.load_sized(file)[0]) for file in files[:16]])
    with torch.inference_mode():
        model(batch)
        start = time.perf_counter()
        for _ in range(len(files) // 16):
            model(batch)
    return (time.perf_counter() - start) * len(files) / (len(files) // 16 * 16)
