"""Predictions of an archive: overhead, throughput, memory, kills, Ray and object stores."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from softfree.archive.folder import ArchiveFolder
from softfree.archive.inputs import InputList, write_inputs
from softfree.archive.local import LocalEngine
from softfree.archive.tasks.predict import Predict
from softfree.archive.worker import Block, Finished
from softfree.core.environment import describe_machine
from softfree.core.progress import console
from softfree.data.modalities.image import ImagePreprocessing
from softfree_lab.bench.options import ArchiveBenchOptions
from softfree_lab.records import markdown_table, write_record
from softfree_runtime.core.errors import UserError

SIDE = 512
BLOCK = 32


def bench_archive(options: ArchiveBenchOptions, run: str, data: str) -> str:
    """Measure ``softfree predict --out FOLDER``.

    Args:
        options: What to measure.
        run: A run on images.
        data: Folder with images that crops of 512 x 512 pixels are taken from.

    Returns:
        The measurements and the machine as Markdown.
    """
    rows: list[dict[str, Any]] = []
    parts = {"overhead": _overhead, "images": _images, "kills": _kills, "ray": _ray, "store": _store}
    with TemporaryDirectory(dir=options.scratch, prefix="archive-") as scratch:
        bench = Bench(options, run, Path(data), Path(scratch))
        for name in options.parts:
            for what, value, unit in parts[name](bench):
                console.print(f"{name}: {what}: {value:.4g} {unit}", highlight=False)
                rows.append({"part": name, "what": what, "value": value, "unit": unit})
    table = pd.DataFrame(rows)
    machine = describe_machine(len(os.sched_getaffinity(0)))
    text = markdown_table(table.columns, [[*row[:2], f"{row[2]:.4g}", row[3]] for row in table.to_numpy().tolist()])
    if options.out is not None:
        recorded = vars(options) | {"scratch": None}
        write_record(options.out, table, recorded, machine=machine, text=text)
    return f"{text}\n{machine}\n"


Measured = Iterator[tuple[str, float, str]]


class Bench:
    """What the parts share: the run, and files with distinct content that are made once."""

    def __init__(self, options: ArchiveBenchOptions, run: str, data: Path, scratch: Path) -> None:
        self.options, self.run, self.data, self.scratch = options, run, data, scratch

    def images(self, count: int) -> Path:
        """Make ``count`` JPEG files, crops of 512 x 512 pixels at random places of the images, each other."""
        folder = self.scratch / f"images-{count}"
        if not folder.is_dir():
            folder.mkdir()
            files = sorted(path for path in self.data.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
            if not files:
                raise UserError(f"{self.data}: no JPEG or PNG below it; expected a folder with images")
            for number, crop in enumerate(_crops(files, count)):
                crop.save(folder / f"{number:06}.jpg", quality=92)
        return folder

    def predict(self, inputs: Sequence[str], out: Path, *extra: str) -> tuple[float, int]:
        """Run the command; return its seconds and the peak memory of its largest process in bytes."""
        process, start = self.start(inputs, out, *extra), time.perf_counter()
        with _peak_of_group(process.pid) as peak:
            status = process.wait()
        if status not in (0, 1):
            raise UserError(f"softfree predict ended with status {status}")
        return time.perf_counter() - start, peak[0]

    def start(self, inputs: Sequence[str], out: Path, *extra: str) -> subprocess.Popen[bytes]:
        """Start the command in a process group of its own."""
        command = [sys.executable, "-m", "softfree.cli.main", "predict", self.run, *inputs, "--out", str(out)]
        command += ["--progress", "false", *extra]
        return subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)


def _crops(files: Sequence[Path], count: int) -> Iterator[Image.Image]:
    random = np.random.default_rng(0)
    made = 0
    while made < count:
        image: Image.Image = Image.open(files[made % len(files)])
        image.load()
        if min(image.size) < SIDE:
            image = image.resize((max(SIDE, image.width * 2), max(SIDE, image.height * 2)), Image.Resampling.BICUBIC)
        for _ in range(min(count - made, max(1, count // len(files) + 1))):
            left, top = (int(random.integers(0, side - SIDE + 1)) for side in image.size)
            crop = image.crop((left, top, left + SIDE, top + SIDE))
            crop.putpixel((0, 0), tuple(random.integers(0, 256, 3).tolist()) if crop.mode == "RGB" else made % 256)
            yield crop
            made += 1


@contextmanager
def _peak_of_group(group: int) -> Iterator[list[int]]:
    """Watch the peak memory of the largest process of a group, in bytes."""
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            for status in Path("/proc").glob("[0-9]*/status"):
                try:
                    if os.getpgid(int(status.parent.name)) == group:
                        lines = status.read_text().splitlines()
                        peak[0] = max(peak[0], *(int(line.split()[1]) << 10 for line in lines if "VmHWM" in line), 0)
                except (OSError, ValueError):
                    continue

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


class _Filled:
    """Fills arrays in the place of a decoder and a model."""

    model_seconds = 0.0

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def __call__(self, samples: Sequence[Any], numbers: Sequence[int]) -> pa.Table:
        scores = np.array([np.full((8, 8), score).mean() for score in self.random.random(len(samples))])
        columns = {
            "path": [name for name, _, _ in samples],
            "status": ["ok"] * len(samples),
            "reason": [""] * len(samples),
            "p_ill": scores,
            "p_well": 1 - scores,
            "unusual": scores > 0.95,
        }
        return pa.table(columns)


class _Fill(Predict):
    """The stub as a task."""

    def open(self, root: Path) -> _Filled:  # type: ignore[override]
        return _Filled()


def _overhead(bench: Bench) -> Measured:
    """Rows of a stub that only fills an array: what the archive itself costs."""
    from softfree.archive.summary import write_summary
    from softfree.core.environment import current_memory

    memory = {}
    for count in (bench.options.rows // 10, bench.options.rows):
        folder = ArchiveFolder(bench.scratch / f"filled-{count}")
        samples = [(f"store/{n // 1000:05}/{n:09}.dcm", f"/archive/store/{n // 1000:05}/{n:09}.dcm", None)
                   for n in range(count)]  # fmt: skip
        write_inputs(folder.inputs, samples)
        del samples
        before, start = current_memory(), time.perf_counter()
        last = [0]

        def add(finished: Finished, last: list[int] = last) -> None:
            last[0] = finished.block.last

        blocks = (Block(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK))
        engine = LocalEngine(folder.root, _Fill("stub.onnx"), 1, add)
        engine.run(blocks, lambda: True)
        seconds = time.perf_counter() - start
        folder.write_results(csv=False)
        write_summary(folder, _Fill("stub.onnx"))
        memory[count] = current_memory() - before
        if count == bench.options.rows:
            yield f"{count:,} rows of a stub, one process: time a row", 1000 * seconds / count, "ms"
            whole = (time.perf_counter() - start) / count
            yield "with joining and summary", 1000 * whole, "ms"
            size = folder.inputs.stat().st_size + sum(path.stat().st_size for path in folder.parts.iterdir())
            yield "list of inputs and parts on disk, a row", size / count, "bytes"
            yield "parts", float(len(folder.part_ranges())), "files"
    small, large = (value / 2**20 for value in memory.values())
    yield f"growth of the main process, {bench.options.rows // 10:,} rows", small, "MiB"
    yield f"growth of the main process, {bench.options.rows:,} rows", large, "MiB"


def _images(bench: Bench) -> Measured:
    """Throughput against reading alone and the model alone on the same files; memory of few and many."""
    count = bench.options.images
    few, many = bench.images(max(64, count // 10)), bench.images(count)
    _, small = bench.predict([str(few)], bench.scratch / "few")
    seconds, large = bench.predict([str(many)], bench.scratch / "many")
    yield f"{count:,} images of {SIDE} x {SIDE}, whole command", count / seconds, "images/s"
    yield "reading and preparing alone, same number of processes", _alone(bench, many, _read_alone), "images/s"
    yield "model alone, same number of processes", _alone(bench, many, _model_alone), "images/s"
    yield f"peak memory of the largest process, {max(64, count // 10):,} images", small / 2**20, "MiB"
    yield f"peak memory of the largest process, {count:,} images", large / 2**20, "MiB"


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


def _kills(bench: Bench) -> Measured:
    """Kill the whole command at random, go on, and compare with an undisturbed one."""
    count, kills = bench.options.images // 10, bench.options.kills
    folder = bench.images(max(64, count))
    whole, out = bench.scratch / "undisturbed", bench.scratch / "killed"
    undisturbed, _ = bench.predict([str(folder)], whole)
    random, done = np.random.default_rng(0), 0
    repeated: list[int] = []
    for _ in range(kills):
        process = bench.start([str(folder)], out)
        try:
            process.wait(float(random.uniform(0.3, 1.0)) * undisturbed)
            break  # it was finished before
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        archive = ArchiveFolder(out)
        counted = _last_done(archive)
        written = int(archive.done(len(InputList(archive.inputs))).sum()) if archive.inputs.is_file() else 0
        repeated.append(max(0, counted - written))
        done += 1
    bench.predict([str(folder)], out)
    expected, rows = (pd.read_parquet(path / "predictions.parquet") for path in (whole, out))
    yield "kills with signal 9 before it was finished", float(done), ""
    yield "rows that differ from an undisturbed run", float((~_same(expected, rows)).sum()), "rows"
    yield "rows missing or doubled", float(abs(len(rows) - len(expected)) + rows["input"].duplicated().sum()), "rows"
    yield "work repeated for a kill, mean", 100 * float(np.mean(repeated or [0])) / max(64, count), "% of the inputs"


def _last_done(archive: ArchiveFolder) -> int:
    """Return the number of finished inputs that the command last told."""
    log = archive.root / "progress.jsonl"
    if not log.is_file():
        return 0
    lines = log.read_text().splitlines()
    return int(json.loads(lines[-1])["done"]) if lines else 0


def _same(expected: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    if len(expected) != len(rows):
        return pd.Series([False] * len(expected))
    numbers = [name for name in expected if pd.api.types.is_float_dtype(expected[name])]
    others = [name for name in expected if name not in numbers]
    close = np.isclose(expected[numbers], rows[numbers], atol=1e-6, equal_nan=True).all(axis=1)
    equal = (expected[others].astype(str) == rows[others].astype(str)).all(axis=1).to_numpy()
    return pd.Series(np.logical_and(equal, close))


def _ray(bench: Bench) -> Measured:
    """Ray on this machine against the local engine, and two nodes of one processor each against one."""
    folder = bench.images(max(64, bench.options.images // 10))
    count = len(list(folder.iterdir()))
    local, _ = bench.predict([str(folder)], bench.scratch / "local", "--workers", "2")
    ray, _ = bench.predict([str(folder)], bench.scratch / "ray", "--engine", "ray", "--workers", "2")
    yield f"{count:,} images, local engine, two processes, whole command", local, "s"
    yield "Ray on the same machine, two actors, whole command with the start of its cluster", ray, "s"
    rates = {nodes: _rate_on_nodes(bench, folder, nodes) for nodes in (1, 2)}
    for nodes, rate in rates.items():
        yield f"Ray, {nodes} node{'s' * (nodes > 1)} of one processor, after the start", rate, "images/s"


def _rate_on_nodes(bench: Bench, folder: Path, nodes: int) -> float:
    """Return images per second of a cluster of nodes with one processor each, from the first block to the last."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray.cluster_utils import Cluster

    from softfree.archive.ray_engine import RayEngine

    archive = ArchiveFolder(bench.scratch / f"nodes-{nodes}")
    files = sorted(map(str, folder.iterdir()))
    write_inputs(archive.inputs, [(file, file, None) for file in files])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        times: list[tuple[float, int]] = []

        def add(finished: Finished) -> None:
            times.append((time.perf_counter(), len(finished.block)))

        blocks = [Block(first, min(first + BLOCK, len(files))) for first in range(0, len(files), BLOCK)]
        task = Predict(bench.run, threads=1)
        RayEngine(archive.root, task, None, add, cluster.address).run(blocks, lambda: True)
    finally:
        ray.shutdown()
        cluster.shutdown()
    return sum(number for _, number in times[nodes:]) / (times[-1][0] - times[nodes - 1][0])


def _store(bench: Bench) -> Measured:
    """A local server of S3 whose answers wait 10 ms, against the same files on disk."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    folder = bench.images(max(64, bench.options.images // 10))
    count = len(list(folder.iterdir()))
    local, _ = bench.predict([str(folder)], bench.scratch / "on-disk")
    backend = DomainDispatcherApplication(create_backend_app)

    def slow(environment: Any, start_response: Any) -> Any:
        time.sleep(0.010)
        return backend(environment, start_response)

    server = make_server("127.0.0.1", 0, slow, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}"}
    try:
        import fsspec

        system = fsspec.filesystem("s3")
        system.mkdir("archive")
        system.put(str(folder), "archive/images", recursive=True)
        remote, _ = bench.predict(["s3://archive/images"], bench.scratch / "in-store")
    finally:
        server.shutdown()
        thread.join()
    yield f"{count:,} images on disk, whole command", count / local, "images/s"
    yield "the same in S3 with 10 ms latency, server on this machine", count / remote, "images/s"
