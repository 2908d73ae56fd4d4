"""``softfree-lab bench serve``: a server next to ``softfree predict``, under load, beside large images, and killed."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np
import pandas as pd

from softfree.core.environment import describe_machine
from softfree_lab.bench.options import ServeBenchOptions
from softfree_lab.bench.serve_files import bad_files, write_images, write_model
from softfree_lab.bench.serve_load import TOLERANCE, run_load
from softfree_lab.bench.serve_process import ServerProcess, kill_process
from softfree_lab.bench.serve_slide import write_slide, write_slide_run
from softfree_lab.bench.serve_tiles import tile_latencies
from softfree_lab.records import markdown_table, to_stderr, write_record
from softfree_runtime import predict

_TURNS = 3
"""Predict and server take turns, so that both see the same machine if others use it, too."""
_PATIENCE = 300.0
"""Seconds without any new answer after which jobs are given up as lost."""
_PREDICT = (
    "import sys, time\nfrom softfree_runtime import Model, predict\nmodel = Model(sys.argv[1])\n"
    "predict(model, sys.argv[3])\nbegan, done = time.perf_counter(), 0\n"
    "while time.perf_counter() - began < float(sys.argv[2]):\n"
    "    done += len(predict(model, sys.argv[3:]))\nprint(done / (time.perf_counter() - began))"
)


@dataclass(frozen=True)
class Measured:
    """One number: what it is, and what it should be; ``ok`` is None without a target."""

    test: str
    quantity: str
    value: float
    target: str = ""
    ok: bool | None = None


@dataclass(frozen=True)
class Bench:
    """What all tests need: the model, the files with their probabilities, and where servers may write."""

    options: ServeBenchOptions
    model: Path
    files: Mapping[str, bytes]
    expected: Mapping[str, float]
    paths: Sequence[Path]
    folder: Path

    @contextmanager
    def server(self, name: str, *more: str) -> Iterator[ServerProcess]:
        """Start a server with an empty store, and stop it at the end."""
        workers = () if self.options.workers is None else ("--workers", str(self.options.workers))
        server = ServerProcess(self.model, self.folder / name, *workers, *more)
        try:
            yield server
        finally:
            server.stop()


def bench_serve(options: ServeBenchOptions, log: Callable[[str], None] = to_stderr) -> str:
    """Measure a server on this machine, loopback only; return the table as Markdown.

    Raises:
        RuntimeError: The server does not start.
    """
    rows: list[Measured] = []
    text = ""
    with TemporaryDirectory() as name:
        folder = Path(name)
        log("exporting the model and drawing the images")
        model = write_model(folder / "bench.onnx", options.model, options.size, options.precision)
        paths = write_images(folder / "images", options.files, options.size)
        large = write_images(folder / "large", 1, options.large_size)[0].rename(folder / "images" / "large.png")
        named = (
            {path.name: path for path in (*paths, large)} if "large" in options.tests else {p.name: p for p in paths}
        )
        found = predict(model, [str(path) for path in named.values()], batch_size=1)
        expected = {file: float(row["p_with"]) for file, row in zip(named, found, strict=True)}
        files = {file: path.read_bytes() for file, path in named.items()}
        bench = Bench(options, model, files, expected, paths, folder)
        for test in options.tests:
            log(f"{test} ...")
            rows += TESTS[test](bench)
            text = _write(rows, options)
            log("\n".join(f"  {row.quantity}: {row.value:.4g} {_judged(row)}" for row in rows if row.test == test))
    return text


def _small(bench: Bench) -> dict[str, bytes]:
    return {path.name: bench.files[path.name] for path in bench.paths}


def cold(bench: Bench) -> list[Measured]:
    """Measure how long a start takes, to the first answer and to the page; the median of three."""
    ready, page, work = [], [], []
    for number in range(_TURNS):
        began = time.perf_counter()
        with bench.server(f"cold{number}") as server:
            ready.append(server.started_in)
            work.append(server.processor_time())
            shown = httpx.get(f"{server.address}/", timeout=60).status_code == 200
            page.append(time.perf_counter() - began if shown else float("nan"))
    first, of_page = float(pd.Series(ready).median()), float(pd.Series(page).median())
    rows = [
        Measured("cold", "ready, s", first, "<= 3", first <= 3),
        Measured("cold", "processor time of server and workers until then, s", float(pd.Series(work).median())),
    ]
    return rows if np.isnan(of_page) else [*rows, Measured("cold", "first page, s", of_page, "<= 3", of_page <= 3)]


def throughput(bench: Bench) -> list[Measured]:
    """Compare with ``softfree predict`` on the same files, in turns."""
    options, files = bench.options, _small(bench)
    part = options.seconds / _TURNS
    rates, alone, loads = [], [], []
    with bench.server("throughput") as server:
        run_load(server, files, bench.expected, clients=2, seconds=min(2.0, part))  # both workers are warm
        before = server.answered_at_once()
        for _ in range(_TURNS):
            rates.append(_predict_rate(bench, part))
            alone.append(run_load(server, files, bench.expected, clients=1, seconds=part / 3))
            loads.append(run_load(server, files, bench.expected, clients=options.clients, seconds=part))
        answered = server.answered_at_once() - before
    single = pd.Series([value for load in alone for value in load.latencies]).median()
    own = float(pd.Series([load.rate for load in loads]).median())
    other = float(pd.Series(rates).median())
    ratio = float(pd.Series([load.rate / rate for load, rate in zip(loads, rates, strict=True)]).median())
    p99 = float(pd.Series([value for load in loads for value in load.latencies]).quantile(0.99))
    sent = sum(sum(load.statuses.values()) for load in (*alone, *loads))
    wrong = sum(load.wrong for load in (*alone, *loads))
    return [
        Measured("throughput", "softfree predict, images/s", other),
        Measured("throughput", f"server, {options.clients} clients, images/s", own),
        Measured("throughput", "ratio", ratio, ">= 0.9", ratio >= 0.9),
        Measured("throughput", "latency of one client, ms", 1e3 * single),
        Measured("throughput", "p99, ms", 1e3 * p99, "<= 8 x one client's", p99 <= 8 * single),
        Measured("throughput", "requests lost or answered twice", abs(sent - answered), "0", sent == answered),
        Measured("throughput", f"answers off by more than {TOLERANCE:g}", wrong, "0", wrong == 0),
    ]


def _predict_rate(bench: Bench, seconds: float) -> float:
    """Images per second of ``softfree predict`` once the model is open, with all processors."""
    command = [sys.executable, "-c", _PREDICT, str(bench.model), str(seconds), *map(str, bench.paths)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def overload(bench: Bench) -> list[Measured]:
    """Send more than there is room for."""
    options = bench.options
    with bench.server("overload") as server:
        run_load(server, _small(bench), bench.expected, clients=options.clients, seconds=min(5.0, options.seconds))
        load = run_load(
            server, _small(bench), bench.expected, clients=options.overload_clients, seconds=options.seconds
        )
    steady = load.rate_within(0.5, 1.0) / load.rate_within(0.0, 0.5)
    growth, errors = load.growth(), sum(n for status, n in load.statuses.items() if status not in (200, 503))
    refused = load.statuses[503]
    return [
        Measured("overload", f"server, {options.overload_clients} clients, images/s", load.rate),
        Measured("overload", "second half / first half", steady, "0.8 to 1.25", 0.8 <= steady <= 1.25),
        Measured("overload", "status 503", refused, "> 0", refused > 0),
        Measured("overload", "other errors and wrong answers", errors + load.wrong, "0", errors + load.wrong == 0),
        Measured("overload", "p99, ms", 1e3 * load.percentile(99)),
        Measured("overload", "growth of memory", growth, "<= 0.10", growth <= 0.10),
        Measured("overload", "memory, MiB", max(load.memory) / 2**20),
    ]


def large(bench: Bench) -> list[Measured]:
    """Send a large image all the while beside small ones, from one client and from as many as there are workers."""
    rows = []
    tokens = (bench.options.large_size // 16) ** 2
    with bench.server("large") as server:
        for clients in (1, 2):
            quiet, beside = [], []
            for _ in range(2):
                part = bench.options.seconds / 4
                quiet.append(run_load(server, _small(bench), bench.expected, clients=clients, seconds=part))
                load = run_load(
                    server, bench.files, bench.expected, clients=clients, seconds=part, beside=["large.png"]
                )
                beside.append(load)
            first, second = (
                float(pd.Series([value for load in loads for value in load.latencies]).quantile(0.95))
                for loads in (quiet, beside)
            )
            who = f"{clients} client{'s' * (clients > 1)}"
            rows += [
                Measured("large", f"p95 of small, {who}, ms", 1e3 * first),
                Measured("large", f"p95 of small beside {tokens} tokens, {who}, ms", 1e3 * second),
                Measured("large", f"ratio, {who}", second / first, "<= 2", second <= 2 * first),
            ]
    return rows


def kills(bench: Bench) -> list[Measured]:
    """Kill the server or a worker at random, while jobs are given; then look for each answer."""
    rng, options = random.Random(0), bench.options
    names = [path.name for path in bench.paths]
    accepted: dict[str, list[str]] = {}
    killed = {"server": 0, "worker": 0}
    with bench.server("kills") as server:
        while sum(killed.values()) < options.kills:
            until = time.perf_counter() + rng.uniform(0.5, 2.5)
            while time.perf_counter() < until:
                chosen = rng.sample(names, min(3, len(names)))
                uploads = [("files", (name, bench.files[name])) for name in chosen]
                address = f"{server.address}/v1/models/bench/predict"
                response = httpx.post(address, params={"wait": False}, files=uploads, timeout=60)
                if response.status_code == 202:
                    accepted[response.json()["id"]] = chosen
                time.sleep(rng.uniform(0.2, 0.8))
            workers = server.workers()
            if rng.random() < 0.5 and workers:
                kill_process(rng.choice(workers))
                killed["worker"] += 1
            else:
                server.kill()
                killed["server"] += 1
                server.start()
        lost, wrong = _missing(server, accepted, bench.expected)
        times = pd.Series([f"{job}/{number}" for job, number in server.answers()]).value_counts()
    total = sum(map(len, accepted.values()))
    return [
        Measured("kills", "servers killed", killed["server"]),
        Measured("kills", "workers killed", killed["worker"]),
        Measured("kills", "samples of accepted jobs", total),
        Measured("kills", "samples without an answer", lost, "0", lost == 0),
        Measured("kills", f"answers off by more than {TOLERANCE:g}", wrong, "0", wrong == 0),
        Measured("kills", "samples answered twice", int((times > 1).sum()), "0", bool((times == 1).all())),
    ]


def _missing(
    server: ServerProcess, accepted: Mapping[str, list[str]], expected: Mapping[str, float]
) -> tuple[int, int]:
    """Wait for all jobs while any goes on; return how many samples have no answer, and how many a wrong one."""
    lost = wrong = 0
    done: dict[str, int] = {}
    moved = time.perf_counter()
    for job, chosen in accepted.items():
        while True:
            state = httpx.get(f"{server.address}/v1/jobs/{job}", timeout=60).json()
            if done.get(job) != state["done"]:
                done[job], moved = state["done"], time.perf_counter()
            if state["state"] not in ("queued", "running") or time.perf_counter() - moved > _PATIENCE:
                break
            time.sleep(0.2)
        for name, answer in zip(chosen, state["predictions"], strict=True):
            if answer is None or answer["row"]["status"] != "ok":
                lost += 1
            else:
                wrong += abs(answer["row"]["p_with"] - expected[name]) > TOLERANCE
    return lost, wrong


def soak(bench: Bench) -> list[Measured]:
    """Send good and bad files for a long time."""
    options, good = bench.options, _small(bench)
    files = dict(good)
    for number, (name, content) in enumerate(bad_files(next(iter(good.values()))).items()):
        files[f"bad{number}_{name}"] = content
    with bench.server("soak") as server:
        load = run_load(server, files, bench.expected, clients=options.clients, seconds=options.soak)
        server.stop()
        kept = list((server.folder / "spool").iterdir())
        said = server.log.read_text()
    growth, failed = load.growth(), sum(n for status, n in load.statuses.items() if status >= 500)
    return [
        Measured("soak", "requests", sum(load.statuses.values())),
        Measured("soak", "of them refused as unreadable", load.statuses[422]),
        Measured("soak", "status 500 and above", failed, "0", failed == 0),
        Measured("soak", "answers that are wrong", load.wrong, "0", load.wrong == 0),
        Measured("soak", "growth of memory", growth, "<= 0.05", growth <= 0.05),
        Measured("soak", "files left in the spool", len(kept), "0", not kept),
        Measured("soak", "names of files in the log", said.count(".png"), "0", ".png" not in said),
    ]


def tiles(bench: Bench) -> list[Measured]:
    """Look around in a large slide and its map."""
    slide = write_slide(bench.folder / "slide.tiff", bench.options.slide_size)
    run = write_slide_run(bench.folder / "slide_run", 128 * bench.options.slide_size / 100_000)
    server = ServerProcess(run, bench.folder / "tiles", "--allow", str(bench.folder), "--workers", "1")
    try:
        latencies = tile_latencies(server, slide, bench.options.seconds)
    finally:
        server.stop()
        slide.unlink()
    return [
        Measured("tiles", f"p95 of tiles of the {what}, ms", 1e3 * p95, "<= 150", p95 <= 0.15)
        for what, times in latencies.items()
        for p95 in [float(np.percentile(times, 95))]
    ]


TESTS: dict[str, Callable[[Bench], list[Measured]]] = {
    "cold": cold,
    "throughput": throughput,
    "overload": overload,
    "large": large,
    "kills": kills,
    "soak": soak,
    "tiles": tiles,
}


def _judged(row: Measured) -> str:
    return "" if row.ok is None else f"({'reached' if row.ok else 'missed'}: {row.target})"


def _write(rows: Sequence[Measured], options: ServeBenchOptions) -> str:
    machine = describe_machine()
    words = {True: "yes", False: "no", None: ""}
    table = [(row.test, row.quantity, f"{row.value:.4g}", row.target, words[row.ok]) for row in rows]
    what = f"seqnorm_vit_{options.model}, {options.precision}, {options.size} x {options.size}, random weights"
    title = f"{what}; {machine}."
    text = f"{title}\n\n{markdown_table(('test', 'quantity', 'value', 'target', 'reached'), table)}"
    if options.out is not None:
        frame = pd.DataFrame([vars(row) for row in rows])
        libraries = ("onnxruntime", "fastapi", "uvicorn", "sqlalchemy")
        write_record(options.out / "serve.csv", frame, vars(options), machine=machine, text=text, libraries=libraries)
    return text
