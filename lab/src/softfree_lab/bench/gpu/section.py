"""A section of the benchmark: its cases in order, each result written as it comes, until its time is over."""

from __future__ import annotations

import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from softfree_lab.bench.journal import ATTEMPTS, Journal

END = "end"
AGAIN = 3  # exit status of a section whose device must be opened anew


@dataclass(frozen=True)
class Place:
    """Where and how long a section runs.

    Attributes:
        device: "cuda" or "cpu".
        out: Folder of the results.
        deadline: When the section ends, as :func:`time.time` counts.
    """

    device: str
    out: Path
    deadline: float

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.deadline - time.time()


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        case: What is measured, as plain values.
        run: Measures it and returns the values; ``status`` among them replaces "ok".
        least: Seconds below which it is not begun.
    """

    case: dict[str, Any]
    run: Callable[[], dict[str, Any]]
    least: float = 0.0


def run_section(name: str, tasks: Iterable[Task], place: Place, journal: Journal) -> int:
    """Run what has no result yet; return 0, or ``AGAIN`` if the device is unusable after a failure."""
    complete = True
    for task in tasks:
        case = {"section": name, **task.case}
        if case in journal:
            continue
        if place.left <= 0:
            end(journal, name)
            return 0
        if place.left < task.least:  # a shorter one may still fit
            complete = False
            continue
        if journal.attempts(case) >= ATTEMPTS:
            journal.put(case, "failed", reason="its process ended, or its time, twice")
            continue
        journal.begin(case)
        try:
            values = task.run()
            journal.put(case, **{"status": "ok", **values})
        except torch.OutOfMemoryError:
            journal.put(case, "out of memory")
        except Exception as error:  # the next case goes on
            traceback.print_exc(limit=4, file=sys.stderr)
            journal.put(case, "failed", reason=f"{type(error).__name__}: {_first_line(error)}")
            if _is_unusable(error):
                return AGAIN
        finally:
            release(place.device)
        print(_shown(next(journal.results(**case))), flush=True)
    if complete:
        journal.put({"section": name, "what": END}, "ok")
    else:
        end(journal, name)
    return 0


def end(journal: Journal, name: str) -> None:
    """Write that a section has ended before its cases."""
    journal.put({"section": name, "what": END}, "time over", reason="a second start with the same folder goes on")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:300]


def _is_unusable(error: BaseException) -> bool:
    """Whether CUDA refuses all further work of this process, as after an illegal access."""
    return "CUDA error" in str(error) and "out of memory" not in str(error)


def release(device: str) -> None:
    """Give back the memory of the last case, and forget its compiled graphs."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _shown(row: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in row.items() if value not in (None, "", False, []))[:400]
