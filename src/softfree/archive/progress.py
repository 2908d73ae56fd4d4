"""What can be followed for days: a bar, JSON lines, and numbers for Prometheus."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import UTC, datetime

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from softfree.archive.folder import ArchiveFolder
from softfree.archive.worker import Finished
from softfree.core.progress import console
from softfree_runtime.core.files import write_atomically

EVERY = 10.0  # seconds between lines
STAGES = ("reading", "model", "writing")


class Follower:
    """Counts finished inputs; shows and writes the counts."""

    def __init__(
        self, folder: ArchiveFolder, total: int, done: int, *, title: str, shown: bool, name: str = "progress"
    ) -> None:
        self.total, self.done, self._at_start = total, done, done
        self.statuses: Counter[str] = Counter()
        self.seconds = [0.0, 0.0, 0.0]
        self._log = folder.root / f"{name}.jsonl"
        self._numbers = folder.root / f"{name}.prom"
        self._start = time.monotonic()
        self._written = 0.0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                   TextColumn("{task.fields[note]}"))  # fmt: skip
        self._bar = Progress(*columns, console=console, disable=not (shown and console.is_terminal))
        self._task: TaskID = self._bar.add_task(title, total=total, completed=done, note="")

    def __enter__(self) -> Follower:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self._write()

    @property
    def failed(self) -> int:
        """Number of inputs without a result in this run of the command."""
        return sum(count for status, count in self.statuses.items() if status != "ok")

    @property
    def rate(self) -> float:
        """Inputs per second in this run of the command."""
        return (self.done - self._at_start) / max(time.monotonic() - self._start, 1e-9)

    def bottleneck(self) -> str:
        """Return the stage that takes most of the processes' time."""
        return STAGES[self.seconds.index(max(self.seconds))]

    def add(self, finished: Finished) -> None:
        """Count a finished block."""
        self.done += len(finished.block)
        self.statuses += finished.statuses
        self.seconds = [total + own for total, own in zip(self.seconds, finished.seconds, strict=True)]
        failures = ", ".join(f"{count:,} {status}" for status, count in self.statuses.most_common() if status != "ok")
        note = f"{self.rate:.1f}/s, mostly {self.bottleneck()}" + (f"; {failures}" if failures else "")
        self._bar.update(self._task, completed=self.done, note=note)
        if time.monotonic() - self._written >= EVERY:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        left = (self.total - self.done) / self.rate if self.rate > 0 else None
        line = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "done": self.done,
            "total": self.total,
            "statuses": dict(self.statuses),
            "per_second": round(self.rate, 3),
            "seconds_left": None if left is None else round(left),
            "bottleneck": self.bottleneck(),
            **{f"{stage}_seconds": round(value, 2) for stage, value in zip(STAGES, self.seconds, strict=True)},
        }
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        write_atomically(self._numbers, self._exposition(left))

    def _exposition(self, left: float | None) -> str:
        """Return the counts in Prometheus' text format, for the textfile collector of its node exporter."""
        lines = [
            "# TYPE softfree_archive_inputs gauge",
            f"softfree_archive_inputs {self.total}",
            "# TYPE softfree_archive_done gauge",
            f"softfree_archive_done {self.done}",
            "# TYPE softfree_archive_rows gauge",
            *(f'softfree_archive_rows{{status="{status}"}} {count}' for status, count in sorted(self.statuses.items())),
            "# TYPE softfree_archive_inputs_per_second gauge",
            f"softfree_archive_inputs_per_second {self.rate:.6g}",
            "# TYPE softfree_archive_stage_seconds gauge",
            *(f'softfree_archive_stage_seconds{{stage="{stage}"}} {value:.6g}'
              for stage, value in zip(STAGES, self.seconds, strict=True)),
        ]  # fmt: skip
        if left is not None:
            lines += ["# TYPE softfree_archive_seconds_left gauge", f"softfree_archive_seconds_left {left:.0f}"]
        return "\n".join(lines) + "\n"
