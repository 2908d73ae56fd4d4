"""The sections in turn, each in a process of its own with its share of the time, and the report after each."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import torch

from softfree.core.environment import describe_machine, versions
from softfree_lab.bench.clock import device_says
from softfree_lab.bench.gpu.report import write_report
from softfree_lab.bench.gpu.section import AGAIN, Place, end, run_section
from softfree_lab.bench.journal import Journal
from softfree_lab.bench.options import GpuBenchOptions
from softfree_lab.bench.worker import process_context
from softfree_lab.records import to_stderr
from softfree_runtime.core.errors import UserError

# Module and share of the time by which a section has ended; what one leaves is the next one's.
SECTIONS = {"correct": 0.30, "sublayer": 0.57, "models": 0.82, "profiles": 0.87, "training": 0.92, "figure3": 0.98}
RESULTS = "results.jsonl"
GRACE = 3.0  # seconds that a case may take beyond the section's end
STARTS = 5  # of one section, whose process may end before its cases do


def bench_gpu(options: GpuBenchOptions, log: Callable[[str], None] = to_stderr) -> str:
    """Run the sections, write each result as it comes and the report after each section; return the report.

    A second start with the same folder goes on with the cases that have no result yet.

    Raises:
        UserError: No GPU, a driver that does not suit torch, an unknown section, or a folder of another device.
    """
    for name in options.sections:
        if name not in SECTIONS:
            raise UserError(f"Got the section {name!r}: expected some of {', '.join(SECTIONS)}")
    check_device(options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.out / RESULTS)
    _write_machine(journal, options)
    started, text = time.time(), ""
    shares = {name: share for name, share in SECTIONS.items() if name in options.sections}
    largest = max(shares.values(), default=1.0)
    for name, share in shares.items():
        log(f"{name}, {time.time() - started:.0f} s")
        # Without the last ones, those that are left have all the time.
        place = Place(options.device, options.out, started + options.budget * share * SECTIONS["figure3"] / largest)
        _in_own_process(name, place, log)
        text = write_report(options.out, Journal(options.out / RESULTS), options.device)
    return text


def _in_own_process(name: str, place: Place, log: Callable[[str], None]) -> None:
    """Run a section, again while its device fails, and end it when its time is over."""
    context = process_context(__name__)
    for _ in range(STARTS):
        if place.left <= 0:
            log(f"{name}: no time left")
            end(Journal(place.out / RESULTS), name)
            return
        process = context.Process(target=section_process, args=(name, place), daemon=False)
        process.start()
        process.join(max(0.0, place.left) + GRACE)
        if process.is_alive():
            log(f"{name}: its time is over")
            end(Journal(place.out / RESULTS), name)
            process.terminate()
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
            return
        if process.exitcode == 0:
            return
        log(f"{name}: its process ended with status {process.exitcode}" + " and starts again" * (place.left > 0))


def section_process(name: str, place: Place) -> None:
    """Run one section; the process's status is that of :func:`run_section`."""
    journal = Journal(place.out / RESULTS)
    torch.backends.cudnn.benchmark = place.device == "cuda"
    tasks: Iterator[Any] = import_module(f"softfree_lab.bench.gpu.{name}").tasks(place)
    status = run_section(name, tasks, place, journal)
    journal.put({"section": name, "what": "device", "at": round(time.time())}, "ok", **device_says())
    if status == AGAIN:
        raise SystemExit(AGAIN)


def check_device(device: str) -> None:
    """Refuse a GPU that torch cannot use, with the versions that do not fit.

    Raises:
        UserError: In one line.
    """
    if device != "cuda":
        return
    driver = device_says().get("driver_version")
    built = torch.version.cuda
    if not torch.cuda.is_available():
        if driver is None:
            raise UserError(
                "Got --device cuda, but nvidia-smi finds no GPU: use --device cpu --budget 60 as a rehearsal"
            )
        what = (
            f"torch {torch.__version__}, built for CUDA {built}"
            if built
            else f"torch {torch.__version__}, built without CUDA"
        )
        raise UserError(
            f"Driver {driver} does not run {what}: install a torch built for a CUDA that this driver knows, or a newer "
            "driver"
        )
    capability = torch.cuda.get_device_capability()
    known = torch.cuda.get_arch_list()
    if known and not any(_runs(arch, capability) for arch in known):
        raise UserError(
            f"{torch.cuda.get_device_name()} has compute capability {capability[0]}.{capability[1]}, but torch "
            f"{torch.__version__} was built for {', '.join(known)}: install another torch (driver {driver})"
        )


def _runs(arch: str, capability: tuple[int, int]) -> bool:
    """Whether code of an architecture, such as sm_90 or sm_90a, runs: equal major version and no newer, or PTX."""
    kind, _, digits = arch.partition("_")
    number = int("".join(character for character in digits if character.isdigit()))
    if kind == "compute":
        return number <= 10 * capability[0] + capability[1]
    return number // 10 == capability[0] and number % 10 <= capability[1]


def _write_machine(journal: Journal, options: GpuBenchOptions) -> None:
    facts: dict[str, Any] = {
        "machine": describe_machine(), "versions": versions(), "python": platform.python_version(),
        "cuda": torch.version.cuda, "budget": options.budget, **device_says(),
    }  # fmt: skip
    if options.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "gpu": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count, "cudnn": torch.backends.cudnn.version(),
        }  # fmt: skip
    case = {"section": "machine", "device": options.device}
    if any(row["device"] != options.device for row in journal.results(section="machine")):
        raise UserError(f"{options.out} holds results of another device: give another --out")
    journal.put(case, "ok", **facts)
